//! What the mesh promises, and what was seen when it did not hold.

use serde::Serialize;

/// A promise that did not hold.
#[derive(Debug, Clone, Serialize, thiserror::Error)]
#[error("{what}: expected {expected}, seen {seen}")]
pub(super) struct Broken {
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) seen: String,
}

/// Holds when what was expected was seen.
pub(super) fn promise<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: T,
    seen: T,
) -> Result<(), Broken> {
    promise_that(what, expected == seen, format!("{expected:?}"), &seen)
}

/// Holds when `holds`.
pub(super) fn promise_that(
    what: &str,
    holds: bool,
    expected: impl ToString,
    seen: &impl std::fmt::Debug,
) -> Result<(), Broken> {
    if holds {
        return Ok(());
    }
    Err(Broken {
        what: what.to_owned(),
        expected: expected.to_string(),
        seen: format!("{seen:?}"),
    })
}
