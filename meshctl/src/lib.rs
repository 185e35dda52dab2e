//! The operator's command line: single calls, a whole mesh in one process (`dev`), and
//! real requests through a mesh (`replay`).
//!
//! Only `rpc` knows generated types; only `dev` knows the servers.

pub mod args;
pub mod bench;
pub mod chain;
pub mod context;
pub mod dev;
pub mod drill;
pub mod exit;
pub mod logs;
pub mod meters;
pub mod output;
pub mod pki;
pub mod progress;
pub mod replay;
pub mod rpc;
pub mod sizes;
pub mod verbs;
pub mod ways;
