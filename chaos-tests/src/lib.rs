//! Faults on real processes: a mesh of programs on loopback, and what is done to it.
//!
//! `tests/house.rs` keeps the house rules; `tests/rolling_kill.rs` runs [`rolling_kill`],
//! `tests/processes.rs` [`hangups`], [`mutual_tls`] and [`one_chain`]; the programs
//! `region-change`, `region-loss`, `power-cut` and `full-disk` run [`region_change`],
//! [`region_loss`], [`power_cut`] and [`full_disk`].

mod blocks;
mod disk;
mod filler;
pub mod full_disk;
pub mod hangups;
mod load;
mod lone;
pub mod mesh;
pub mod mutual_tls;
pub mod one_chain;
mod operator;
mod poll;
pub mod power_cut;
mod process;
mod programs;
pub mod region_change;
pub mod region_loss;
pub mod rolling_kill;
mod rpc;
mod scrape;
mod site;

pub use mesh::Mesh;
pub use rolling_kill::{Plan, Report};
