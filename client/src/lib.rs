//! The Rust client of kvmesh, and what its own processes share to call one another:
//! channels, conversions between wire and words, and feed followers.

pub mod channel;
