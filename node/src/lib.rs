//! A node holds blocks, and votes on the region's metadata.

mod aging;
mod applied;
mod budget;
pub mod consensus;
mod copying;
pub mod directory;
mod gate;
mod lifting;
mod local;
mod metrics;
mod moving;
mod node;
mod placement;
mod receive;
mod reclaim;
mod repair;
mod reports;
mod rpc;
mod serve;
pub mod settings;
pub mod store;
mod upkeep;
mod write;

pub use serve::{ServeError, serve, serve_with};
pub use settings::{MemberSetting, Settings};
