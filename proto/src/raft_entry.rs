//! `RaftEntry` of `consensus.proto`, written by hand: its command stays encoded.
//!
//! The command of an entry goes from the leader to every member and to every disk, and is by far
//! the most of it. Its bytes are made once and read once on each member; a generated type would
//! make and read them again at every step. On the wire a message is what its bytes are.

use prost::bytes::Bytes;

use crate::v1::{RaftLogId, RaftMembership};

/// One Raft log entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftEntry {
    /// Format of this message; 1.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Where it stands in the log.
    #[prost(message, optional, tag = "2")]
    pub id: Option<RaftLogId>,
    /// None: a blank entry.
    #[prost(oneof = "Payload", tags = "3, 4")]
    pub payload: Option<Payload>,
}

/// What an entry carries.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Payload {
    /// An encoded [`Command`](crate::v1::Command).
    #[prost(bytes = "bytes", tag = "3")]
    Command(Bytes),
    /// The group's members.
    #[prost(message, tag = "4")]
    Membership(RaftMembership),
}
