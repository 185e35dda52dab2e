//! Made-up neighbours of a gateway: nodes, a region-sync and far gateways, over loopback.

mod busy;
mod cache;
mod coded;
mod consensus;
pub(crate) mod feed;
mod lease;
mod links;
pub(crate) mod mesh;
mod mood;
pub(crate) mod region;
pub(crate) mod start;

pub(crate) use cache::Holder;
pub(crate) use mood::Mood;
