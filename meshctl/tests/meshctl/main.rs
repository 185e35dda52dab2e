//! The built `meshctl`, and meshes that it operates. One program, so that what it needs is built once.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod bench;
mod contexts;
mod dev;
mod drill;
mod exit_codes;
mod health;
mod on_host;
mod pki;
mod policies;
mod program;
mod push;
mod ranges;
mod region_sync;
mod support;
mod traces;
