//! Follows the other regions and tells the gateways of its own what is where.
//!
//! What others did for good (namespaces, deletes, raises) is committed at home together with
//! the position that it came from; which blocks they have is kept in memory, and is a hint.
//! Any number of region-syncs may run: what one has committed, another does not propose.

mod backlog;
#[cfg(test)]
mod backlog_test;
mod compare;
mod effects;
#[cfg(test)]
mod effects_test;
mod home;
mod link;
mod mesh;
mod meters;
mod peer;
mod push;
mod rpc;
mod serve;
#[cfg(test)]
mod serve_test;
mod settings;
#[cfg(test)]
mod testing;

pub use serve::{ServeError, serve};
pub use settings::{PeerSettings, Settings};
