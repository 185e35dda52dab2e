//! Made-up neighbours of a gateway: nodes, a region-sync and far gateways, over loopback.

#![allow(dead_code, unused_imports, reason = "no test uses all of them")]

mod cache;
mod feed;
mod lease;
pub(crate) mod mesh;
pub(crate) mod region;
pub(crate) mod start;

pub(crate) use cache::{Holder, Mood};
