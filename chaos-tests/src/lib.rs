//! Faults on real processes: a mesh of programs on loopback, and what is done to it.
//!
//! `tests/house.rs` keeps the house rules; `tests/rolling_kill.rs` runs [`rolling_kill`],
//! `tests/processes.rs` [`abroad`], [`hangups`], [`hostile`], [`mutual_tls`], [`one_chain`] and
//! [`two_syncs`]; the programs `region-change`, `region-loss`, `power-cut` and `full-disk` run [`region_change`],
//! [`region_loss`], [`power_cut`] and [`full_disk`]; the program `far-link` measures a link between
//! regions ([`far_link`]).

pub mod abroad;
mod blocks;
mod disk;
pub mod far_link;
mod filler;
pub mod full_disk;
pub mod hangups;
pub mod hostile;
mod load;
mod lone;
pub mod mesh;
pub mod mutual_tls;
pub mod one_chain;
mod operator;
mod pki;
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
pub mod two_syncs;
mod wan;

pub use mesh::Mesh;
pub use rolling_kill::{Plan, Report};
