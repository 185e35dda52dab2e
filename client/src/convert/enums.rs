//! Choices: each unspecified value is an error, unless the field says what it means.

use kvmesh_directory::{
    ChangeOutcome, PeerState,
    namespace::{AckLevel, Fallback, ReplicationMode},
};
use kvmesh_proto::v1 as wire;

use super::{FromWire, ToWire, WireError};
use crate::{client::LeftOutReason, encoding::Encoding, refusal::RefusalReason};

macro_rules! choice {
    ($word:ident, $field:literal, $($variant:ident),+) => {
        impl ToWire for $word {
            type Wire = i32;
            fn to_wire(&self) -> i32 {
                match self {
                    $(Self::$variant => wire::$word::$variant as i32,)+
                }
            }
        }

        impl FromWire for $word {
            type Wire = i32;
            fn from_wire(raw: i32) -> Result<Self, WireError> {
                match wire::$word::try_from(raw) {
                    $(Ok(wire::$word::$variant) => Ok(Self::$variant),)+
                    Ok(wire::$word::Unspecified) => Err(WireError::Missing($field)),
                    Err(_) => Err(WireError::field($field, format!("{raw} is not known"))),
                }
            }
        }
    };
}

choice!(AckLevel, "ack", Memory, Replicated, Durable);
choice!(Fallback, "fallback", WhenFaster, Always, Never);
choice!(
    Encoding,
    "encoding",
    Bf16Exponents,
    F16Exponents,
    Bf16Fp8,
    F16Fp8
);
choice!(PeerState, "state", Online, Suspect, Offline, CatchingUp);
choice!(
    LeftOutReason,
    "reason",
    State,
    ViewOld,
    Unreached,
    FailoverShare
);
choice!(ReplicationMode, "replication", OnDemand, Push, Hot, None);
choice!(
    ChangeOutcome,
    "outcome",
    Accepted,
    Conflict,
    Deleted,
    Stale,
    UnknownNamespace
);
choice!(
    RefusalReason,
    "reason",
    Invalid,
    TooLarge,
    Checksum,
    NoSpace,
    Unavailable,
    StaleEpoch,
    Overtaken,
    Truncated,
    OutOfTime
);

/// Reads the level that a put asks for; none: the namespace's policy decides.
///
/// # Errors
/// When the level is not known.
pub fn ack_level(raw: i32) -> Result<Option<AckLevel>, WireError> {
    match raw {
        0 => Ok(None),
        _ => AckLevel::from_wire(raw).map(Some),
    }
}

/// Writes the level that a put asks for.
#[must_use]
pub fn ack_level_or_policy(level: Option<AckLevel>) -> i32 {
    level.map_or(0, |level| level.to_wire())
}
