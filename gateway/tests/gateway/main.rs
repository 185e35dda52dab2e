//! A real gateway among made-up neighbours. One program, so that what it needs is built once.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod advice;
mod any_order;
mod encodings;
mod epoch;
mod fakes;
mod far;
mod guests;
mod hedging;
mod lanes;
mod lease;
mod leaving;
mod links;
mod local;
mod lossy;
mod missing;
mod prefetch;
mod program;
mod push;
mod ranges;
mod reach;
mod residency;
mod unmade;
mod watch;
mod write;
