//! What fetching a run of blocks from another region costs, and what recomputing it does.
//!
//! Formulas, in seconds:
//! - Recomputing tokens a to b: t(b) - t(a), with t(L) = L / P (1 + L / G). P is the prefill
//!   rate, G the length at which attention doubles the time: the matrices of a model cost each
//!   token the same, attention costs it what lies before it (Kaplan et al., arXiv 2001.08361,
//!   2020, section 2.1: C = 2N + 2 n_layer n_ctx d per token, so G = 2N / (2 n_layer d)).
//! - Fetching n bytes: first byte + n / bandwidth. Both are log-normal, with median and spread
//!   from the newest transfers; their deviations are taken as independent.
//! - Both: compute from the front, fetch from the end, and meet where both end at the same
//!   moment, as Cake does (Jin et al., arXiv 2410.03065, 2024). The other way round, the tail
//!   could not be computed before the head is there: each token attends to all before it.
//!
//! No clock: times come in as seconds since any fixed moment. The gateway and the benchmark
//! `decision` both decide by this code.

mod advice;
mod estimate;
mod link;
mod links;
mod patience;
mod prefill;

pub use advice::{Advice, Run, Split, Weighed, weigh};
pub use estimate::{Estimate, Told, Window, Z95};
pub use link::{Configured, LinkCost, Seen, Time, Transfer};
pub use links::Links;
pub use patience::Pace;
pub use prefill::Prefill;
