//! A node holds blocks, and votes on the region's metadata.

pub mod consensus;
pub mod directory;
mod serve;
pub mod settings;

pub use serve::{ServeError, serve};
pub use settings::{MemberSetting, Settings};
