//! The one file that turns domain errors into gRPC codes, and says what each code promises.
//! `docs/protocol.md` lists the same.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{block::BlockError, convert::WireError};

/// What can go wrong in a call, as the caller should see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A field of the request cannot be. Nothing was done.
    #[error("field {field} is wrong: {why}")]
    Invalid {
        /// Field, as on the wire.
        field: String,
        /// What is wrong, and what may be there.
        why: String,
    },
    /// The namespace is not known in this region. Nothing was done.
    #[error("namespace {0} is not known here: open it first")]
    UnknownNamespace(String),
    /// The name belongs to another description. Nothing was done.
    #[error("name {name:?} belongs to a namespace whose description differs in {}", fields.join(", "))]
    DescriptionDiffers {
        /// The alias.
        name: String,
        /// Fields that differ.
        fields: Vec<String>,
    },
    /// The region has no members yet. Nothing was done.
    #[error("the region is not initialised: run `meshctl region init`")]
    NotInitialised,
    /// It is there already. Nothing was done.
    #[error("{0}")]
    Exists(String),
    /// The caller's ring epoch is old. Nothing was done.
    #[error("the ring epoch is {current}, the call named {named}: ask again with the current one")]
    StaleEpoch {
        /// Of the callee.
        current: u64,
        /// Of the call.
        named: u64,
    },
    /// Too few nodes answered, or this one is not ready. It may have been done; it is safe to repeat.
    #[error("{what}")]
    Unavailable {
        /// What is missing.
        what: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A limit was reached before memory grew. Nothing was done.
    #[error("{limit} is used up: try again later")]
    Exhausted {
        /// Which limit.
        limit: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A delete or a newer generation overtook the put. Nothing is readable; put it again.
    #[error("a delete or a newer generation overtook the put: put it again")]
    Overtaken,
    /// Bytes do not have their checksum. Nothing was stored.
    #[error("{0}")]
    Corrupt(BlockError),
    /// Time ran out. It may have been done; it is safe to repeat.
    #[error("{0} took longer than the deadline")]
    OutOfTime(&'static str),
    /// On the wire, and not built yet. Nothing was done.
    #[error("{0} is not built yet")]
    Unimplemented(String),
    /// Our own fault.
    #[error("{0}")]
    Internal(String),
}

impl Problem {
    /// A field of the request that cannot be.
    pub fn invalid(field: impl Into<String>, why: impl ToString) -> Self {
        Self::Invalid {
            field: field.into(),
            why: why.to_string(),
        }
    }

    /// Something that should be tried again after a moment.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable {
            what: what.into(),
            retry_after: Duration::from_millis(200),
        }
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::UnknownNamespace(_) => Code::NotFound,
            Self::DescriptionDiffers { .. } | Self::NotInitialised | Self::StaleEpoch { .. } => {
                Code::FailedPrecondition
            }
            Self::Exists(_) => Code::AlreadyExists,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Overtaken => Code::Aborted,
            Self::Corrupt(_) => Code::DataLoss,
            Self::OutOfTime(_) => Code::DeadlineExceeded,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::Internal(_) => Code::Internal,
        }
    }

    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        match self {
            Self::Invalid { field, why } => {
                details.add_bad_request_violation(field, why);
            }
            Self::DescriptionDiffers { fields, .. } => {
                for field in fields {
                    details.add_bad_request_violation(format!("description.{field}"), "differs");
                }
            }
            Self::StaleEpoch { current, .. } => {
                let current = [("current_epoch".to_owned(), current.to_string())];
                details.set_error_info("STALE_EPOCH", "kvmesh", current);
            }
            Self::Unavailable { retry_after, .. } => {
                details.set_retry_info(Some(*retry_after));
            }
            Self::Exhausted { limit, retry_after } => {
                details.set_retry_info(Some(*retry_after));
                details.add_quota_failure_violation(limit, "used up");
            }
            _ => {}
        }
        details
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        Status::with_error_details(problem.code(), problem.to_string(), problem.details())
    }
}

impl From<WireError> for Problem {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Missing(field) => Self::invalid(field, "it is missing"),
            WireError::Field { field, why } => Self::invalid(field, why),
            WireError::Version { .. } => Self::Unimplemented(error.to_string()),
        }
    }
}
