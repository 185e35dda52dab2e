//! What a made-up holder can do to its callers.

/// How a holder behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Fine,
    /// Says that it has nothing.
    Forgetful,
    /// Ends a get before the first block that it does not have, as gateways do.
    EndsShort,
    /// Sends the first piece of the first block and breaks off.
    BreaksOff,
    /// The same, once.
    BreaksOnce,
    /// The same, and has the block from another put afterwards.
    Fickle,
    /// Does not answer.
    Silent,
    /// Refuses puts: too few owners.
    Alone,
    /// Refuses the first put's epoch.
    StaleOnce,
    /// Of gets that do not only copy, sends the first block, and then nothing.
    Busy,
    /// Has no serve lease.
    CutOff,
    /// Keeps what is put, and ends the call without an answer.
    Mute,
    /// Passes over the ranges of a get: it sends whole blocks.
    Wholesale,
    /// Refuses gets of ranges, as one of an earlier version does.
    Dated,
    /// Encodes pieces, if asked to.
    Encodes,
    /// Encodes pieces, and loses the last byte of each.
    Garbles,
}

impl Mood {
    /// Whether it breaks off in the next block.
    pub(super) fn breaks(self) -> bool {
        matches!(self, Self::BreaksOff | Self::BreaksOnce | Self::Fickle)
    }
}
