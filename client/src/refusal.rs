//! Why a put was refused; the same word at nodes, at gateways and in clients.

/// Why nothing of a block was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// A field is wrong; the message says which.
    Invalid,
    /// It is over the limit.
    TooLarge,
    /// The bytes do not have the checksum that the offer named.
    Checksum,
    /// No memory free for it.
    NoSpace,
    /// Too few owners answered.
    Unavailable,
    /// The ring has changed.
    StaleEpoch,
    /// A delete or a newer generation overtook it.
    Overtaken,
    /// The stream ended before the block was whole.
    Truncated,
    /// The block's deadline passed.
    OutOfTime,
}
