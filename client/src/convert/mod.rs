//! Between the wire and the words. Generated types stop here and at the RPC edge.

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
#[derive(Debug, thiserror::Error)]
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
