//! Between the wire and the words. Generated types stop here and at the RPC edge.
//!
//! Reading is strict about form: a field that is missing or cannot be is an error that
//! names it. How many of a thing one command may carry is its proposer's to check, so that
//! whatever a leader committed can be read by every follower.

mod block;
mod command;
mod enums;
pub mod local;
pub mod mesh;
mod namespace;
mod outcome;
mod ranges;
pub mod snapshot;
mod words;

#[cfg(test)]
pub(crate) mod arbitrary_test;
#[cfg(test)]
mod convert_test;

pub use command::remote_effects;
pub use enums::{ack_level, ack_level_or_policy};
pub use ranges::{ranges, ranges_of};
pub use words::{chain, chain_of, parts, parts_of, region};

/// A word that can be written to the wire.
pub trait ToWire {
    /// Generated type.
    type Wire;
    /// The word as the wire carries it.
    fn to_wire(&self) -> Self::Wire;
}

/// A word that can be read from the wire.
pub trait FromWire: Sized {
    /// Generated type.
    type Wire;
    /// Reads the word.
    ///
    /// # Errors
    /// When a field is missing or cannot be.
    fn from_wire(wire: Self::Wire) -> Result<Self, WireError>;
}

/// A message that cannot be what it says to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field is not set.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has an impossible value.
    #[error("field {field} is wrong: {why}")]
    Field {
        /// Field, as on the wire.
        field: &'static str,
        /// What is wrong, and what may be there.
        why: String,
    },
    /// The message is of a later format than this build reads.
    #[error("{what} has format {got}, this build reads up to {known}: upgrade it")]
    Version {
        /// Which message.
        what: &'static str,
        /// Its format.
        got: u32,
        /// The newest format known.
        known: u32,
    },
}

impl WireError {
    /// A field with an impossible value.
    pub fn field(field: &'static str, why: impl ToString) -> Self {
        Self::Field {
            field,
            why: why.to_string(),
        }
    }
}

/// Reads a field that must be set.
///
/// # Errors
/// When it is not, or cannot be read.
pub fn required<T: FromWire>(field: &'static str, wire: Option<T::Wire>) -> Result<T, WireError> {
    T::from_wire(wire.ok_or(WireError::Missing(field))?)
}

/// Reads a field that may be unset.
///
/// # Errors
/// When it cannot be read.
pub fn optional<T: FromWire>(wire: Option<T::Wire>) -> Result<Option<T>, WireError> {
    wire.map(T::from_wire).transpose()
}

/// Reads every element, up to the first that cannot be read.
///
/// # Errors
/// When one cannot be read.
pub fn all<T: FromWire>(wire: Vec<T::Wire>) -> Result<Vec<T>, WireError> {
    wire.into_iter().map(T::from_wire).collect()
}

/// Writes every element.
pub fn each<T: ToWire>(words: &[T]) -> Vec<T::Wire> {
    words.iter().map(T::to_wire).collect()
}

/// Refuses formats that this build does not know.
fn check_version(what: &'static str, got: u32) -> Result<(), WireError> {
    match got {
        0 => Err(WireError::Missing("version")),
        FORMAT => Ok(()),
        _ => Err(WireError::Version {
            what,
            got,
            known: FORMAT,
        }),
    }
}

/// Format of commands and snapshots that this build reads and writes.
const FORMAT: u32 = 1;
