//! A small CA for meshes: makes keys and certificates whose names are SPIFFE names.
//!
//! Invariants: a key is readable by its owner only; nothing is overwritten unless asked for,
//! and then each file is whole at any time.

mod authority;
mod files;

pub use authority::{Authority, Issued, Validity};
pub use files::{Made, init, issue, open, write_issued};
pub(crate) use files::{certificates, read};
