//! The Rust client of kvmesh, and what its own processes share to call one another:
//! channels, conversions between wire and words, and feed followers.

pub mod block;
pub mod bulk;
pub mod channel;
pub mod client;
pub mod convert;
pub mod encoding;
pub mod follow;
pub mod lease;
pub mod local;
pub mod random;
pub mod ranges;
pub mod refusal;
mod rpc;
pub mod status;
pub mod tls;

#[cfg(test)]
mod fake_net_test;

pub use block::{Block, BlockMeta};
pub use client::Client;
pub use convert::{FromWire, ToWire, WireError};
pub use encoding::Encoding;
pub use ranges::Ranges;
pub use refusal::RefusalReason;
pub use status::Problem;
