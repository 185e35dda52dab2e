//! The front door of a region: stateless, any number behind a load balancer.
//!
//! Start reading at `rpc::cache`, then `read` (the whole read policy) and `write` (the
//! whole write policy).

mod absent;
mod asker;
mod at_risk;
mod budget;
mod chain;
mod coding;
mod context;
mod current;
mod deadline;
mod far;
mod fill;
mod flight;
mod frame;
mod hot;
mod intake;
mod lanes;
mod lease;
mod links;
mod local;
mod locate;
mod lookup;
mod manage;
mod measure;
mod merge;
mod meters;
mod patience;
mod peers;
mod pending;
mod pieces;
mod policies;
mod prefetch;
mod prefill;
mod reach;
mod read;
mod request;
mod rpc;
mod serve;
pub mod settings;
mod tell;
pub mod templates;
mod transcode;
mod views;
mod warm;
mod watch;
mod way;
mod weigh;
mod write;

pub use serve::{ServeError, serve};
pub use settings::Settings;
