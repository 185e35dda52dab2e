//! A deterministic simulation of a whole mesh: the product's own nodes, gateways, region-syncs
//! and clients in one thread, over a simulated network and simulated time, all from a seed.

#[cfg(not(tokio_unstable))]
compile_error!("build in chaos-tests/sim, whose .cargo/config.toml sets --cfg tokio_unstable");

mod args;
mod audit;
mod changes;
mod content;
mod determinism;
mod faults;
mod history;
mod hosts;
mod many;
mod meters;
mod net;
mod nodes;
mod oracle;
mod plan;
mod processes;
mod report;
mod rpc;
mod run;
mod settle;
mod shape;
mod shared;
mod straggler;
mod trace;
mod workload;

pub use args::{Args, Bug};
pub use changes::{CHANGES, Change, ChangeKind};
pub use content::{Content, Name};
pub use history::{History, Kind, Loss, Op, Present, PutTold};
pub use many::{Sweep, run_again};
pub use oracle::{Rule, Violation, judge};
pub use plan::{Fault, FaultKind, KINDS};
pub use report::{Summary, mutations_table, table};
pub use rpc::Opening;
pub use run::{Order, Outcome, run};
pub use shape::Shape;
pub use trace::{Fingerprint, Mark};
