//! The one file that turns domain errors into gRPC codes, and says what each code promises.
//! `docs/protocol.md` lists the same.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{block::BlockError, convert::WireError, ranges::RangesError};

/// Of the reasons in error details.
const DOMAIN: &str = "kvmesh";
/// Before the fields of a description in error details.
const DESCRIPTION: &str = "description.";
/// When to try again, where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_millis(200);

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
    /// No such lease in this namespace. Nothing was done.
    #[error("the lease has ended, or never was in this namespace: look the chain up again")]
    UnknownLease,
    /// The handle names nothing that this process runs. Nothing was done.
    #[error("prefetch {0:?} is not known here: another gateway runs it, or it ended long ago")]
    UnknownHandle(String),
    /// What follows the position is not kept any more. Nothing was done.
    #[error("{0}")]
    Gap(String),
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
    /// Something else must happen first, as the message says. Nothing was done.
    #[error("{0}")]
    NotNow(String),
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
    /// The caller's certificate is not of one who may. Nothing was done.
    #[error("{0}")]
    Denied(String),
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
            retry_after: RETRY_AFTER,
        }
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::UnknownNamespace(_) | Self::UnknownLease | Self::UnknownHandle(_) => {
                Code::NotFound
            }
            Self::Gap(_) => Code::OutOfRange,
            Self::DescriptionDiffers { .. }
            | Self::NotInitialised
            | Self::NotNow(_)
            | Self::StaleEpoch { .. } => Code::FailedPrecondition,
            Self::Exists(_) => Code::AlreadyExists,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Overtaken => Code::Aborted,
            Self::Corrupt(_) => Code::DataLoss,
            Self::OutOfTime(_) => Code::DeadlineExceeded,
            Self::Denied(_) => Code::PermissionDenied,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// Names the problem for programs; see [`Self::from_status`].
    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "INVALID",
            Self::UnknownNamespace(_) => "UNKNOWN_NAMESPACE",
            Self::UnknownLease => "UNKNOWN_LEASE",
            Self::UnknownHandle(_) => "UNKNOWN_HANDLE",
            Self::Gap(_) => "GAP",
            Self::DescriptionDiffers { .. } => "DESCRIPTION_DIFFERS",
            Self::NotInitialised => "NOT_INITIALISED",
            Self::Exists(_) => "EXISTS",
            Self::NotNow(_) => "NOT_NOW",
            Self::StaleEpoch { .. } => "STALE_EPOCH",
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Exhausted { .. } => "EXHAUSTED",
            Self::Overtaken => "OVERTAKEN",
            Self::Corrupt(_) => "CORRUPT",
            Self::OutOfTime(_) => "OUT_OF_TIME",
            Self::Denied(_) => "DENIED",
            Self::Unimplemented(_) => "UNIMPLEMENTED",
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// At most one: more would travel in any order, and equal problems make equal bytes.
    fn fact(&self) -> Option<(String, String)> {
        let fact = |name: &str, value: &dyn ToString| Some((name.to_owned(), value.to_string()));
        match self {
            Self::UnknownNamespace(namespace) => fact("namespace", namespace),
            Self::UnknownHandle(handle) => fact("handle", handle),
            Self::DescriptionDiffers { name, .. } => fact("name", name),
            Self::StaleEpoch { current, .. } => fact("current_epoch", current),
            Self::Exhausted { limit, .. } => fact("limit", limit),
            Self::Unimplemented(what) => fact("what", what),
            _ => None,
        }
    }

    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason(), DOMAIN, HashMap::from_iter(self.fact()));
        match self {
            Self::Invalid { field, why } => {
                details.add_bad_request_violation(field, why);
            }
            Self::DescriptionDiffers { fields, .. } => {
                for field in fields {
                    details.add_bad_request_violation(format!("{DESCRIPTION}{field}"), "differs");
                }
            }
            Self::StaleEpoch { named, .. } => {
                details.add_precondition_failure_violation(
                    "ring_epoch",
                    named.to_string(),
                    "ask again with the current one",
                );
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

    /// The problem that a server of kvmesh meant. None: the status is not of such a server,
    /// or its details do not suffice; then pass the status itself on.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        let fact = |name: &str| info.metadata.get(name).cloned();
        let message = status.message().to_owned();
        let retry_after = retry_after(status).unwrap_or(RETRY_AFTER);
        Some(match info.reason.as_str() {
            "INVALID" => {
                let wrong = details.bad_request()?.field_violations.first()?;
                Self::invalid(&wrong.field, &wrong.description)
            }
            "UNKNOWN_NAMESPACE" => Self::UnknownNamespace(fact("namespace")?),
            "UNKNOWN_LEASE" => Self::UnknownLease,
            "UNKNOWN_HANDLE" => Self::UnknownHandle(fact("handle")?),
            "GAP" => Self::Gap(message),
            "DESCRIPTION_DIFFERS" => Self::DescriptionDiffers {
                name: fact("name")?,
                fields: differing(&details),
            },
            "NOT_INITIALISED" => Self::NotInitialised,
            "EXISTS" => Self::Exists(message),
            "NOT_NOW" => Self::NotNow(message),
            "STALE_EPOCH" => Self::StaleEpoch {
                current: fact("current_epoch")?.parse().ok()?,
                named: named_epoch(&details)?,
            },
            "UNAVAILABLE" => Self::Unavailable {
                what: message,
                retry_after,
            },
            "EXHAUSTED" => Self::Exhausted {
                limit: fact("limit")?,
                retry_after,
            },
            "OVERTAKEN" => Self::Overtaken,
            "DENIED" => Self::Denied(message),
            "UNIMPLEMENTED" => Self::Unimplemented(fact("what")?),
            "INTERNAL" => Self::Internal(message),
            _ => return None,
        })
    }
}

fn named_epoch(details: &ErrorDetails) -> Option<u64> {
    let violation = details.precondition_failure()?.violations.first()?;
    violation.subject.parse().ok()
}

fn differing(details: &ErrorDetails) -> Vec<String> {
    let violations = details.bad_request().map(|wrong| &wrong.field_violations);
    let fields = violations.into_iter().flatten();
    fields
        .filter_map(|violation| violation.field.strip_prefix(DESCRIPTION))
        .map(str::to_owned)
        .collect()
}

/// When a server asks to be tried again; none: it does not say.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// The connection broke, or could not be made: no server of kvmesh said this. What was asked
/// for may have been done.
#[must_use]
pub fn is_broken(status: &Status) -> bool {
    // A status that a server sent has no source on this side.
    std::error::Error::source(status).is_some()
}

/// Whether the same call may succeed after a moment, here or at another server. A call that
/// changes something must be one that is safe to repeat: every call of kvmesh is.
#[must_use]
pub fn is_retryable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted => true,
        Code::ResourceExhausted => retry_after(status).is_some(),
        Code::DeadlineExceeded | Code::InvalidArgument | Code::Unimplemented => false,
        _ => is_broken(status),
    }
}

/// The status with the address that it came from, or that could not be reached.
#[must_use]
pub fn at_address(status: Status, address: &str) -> Status {
    if status.message().contains(address) {
        return status;
    }
    let what = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let cause = root_cause(&status);
    let message = match cause {
        Some(cause) if !what.contains(&cause) => format!("{address}: {what}: {cause}"),
        _ => format!("{address}: {what}"),
    };
    let details = status.details().to_vec().into();
    Status::with_details_and_metadata(status.code(), message, details, status.metadata().clone())
}

/// Why a connection broke or could not be made; none: a server said it.
pub(crate) fn root_cause(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        Status::with_error_details(problem.code(), problem.to_string(), problem.details())
    }
}

impl From<RangesError> for Problem {
    fn from(error: RangesError) -> Self {
        Self::from(WireError::from(error))
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

#[cfg(test)]
#[path = "status_test.rs"]
mod status_test;
