//! Faults on real processes: a mesh of programs on loopback, and what is done to it.
//!
//! `tests/house.rs` keeps the house rules; `tests/rolling_kill.rs` runs [`rolling_kill`],
//! the programs `region-change` and `power-cut` run [`region_change`] and [`power_cut`].

mod blocks;
mod load;
pub mod mesh;
mod operator;
mod poll;
pub mod power_cut;
mod process;
mod programs;
pub mod region_change;
pub mod rolling_kill;
mod rpc;
mod scrape;
mod site;

pub use mesh::Mesh;
pub use rolling_kill::{Plan, Report};
