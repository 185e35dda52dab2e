//! Why a call of the client failed.

use tonic::{Code, Status};

use crate::{Problem, block::BlockError, channel::AddressError, convert::WireError, status};

/// Why a call failed. Whatever it was, the same call may be made again: every call is safe
/// to repeat.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The client was given no gateway.
    #[error("no gateway is known: give the address of at least one")]
    NoGateway,
    /// An address that cannot be.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The gateway answered with an error, or could not be reached.
    #[error("{call} failed: {}", status.message())]
    Status {
        /// Which call.
        call: &'static str,
        /// Code, message with the address, and details.
        status: Box<Status>,
        /// Why the connection broke or could not be made; none: a gateway said it.
        broken: Option<String>,
    },
    /// The gateway's answer cannot be read.
    #[error("{call} at {address} was answered with what cannot be read")]
    Answer {
        /// Which call.
        call: &'static str,
        /// Of the gateway.
        address: String,
        /// What is wrong with it.
        source: WireError,
    },
    /// The stream is not as the protocol says.
    #[error("{call} at {address} broke the protocol: {what}")]
    Protocol {
        /// Which call.
        call: &'static str,
        /// Of the gateway.
        address: String,
        /// What came.
        what: &'static str,
    },
    /// The deadline passed.
    #[error("{call} took longer than its deadline{}", last.as_deref().map_or_else(String::new, |last| format!("; the last failure: {last}")))]
    OutOfTime {
        /// Which call.
        call: &'static str,
        /// What went wrong before.
        last: Option<String>,
    },
    /// The caller's own request cannot be.
    #[error("{call} cannot be made")]
    Request {
        /// Which call.
        call: &'static str,
        /// What is wrong.
        source: WireError,
    },
    /// The caller's own block cannot be.
    #[error("block {index} cannot be put")]
    Block {
        /// Which of those given.
        index: usize,
        /// What is wrong.
        source: BlockError,
    },
}

impl CallError {
    pub(crate) fn status(call: &'static str, address: &str, status: Status) -> Self {
        let broken = status::root_cause(&status);
        let status = Box::new(status::at_address(status, address));
        Self::Status {
            call,
            status,
            broken,
        }
    }

    /// The gRPC code, where a gateway or the connection gave one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status { status, .. } => Some(status.code()),
            Self::OutOfTime { .. } => Some(Code::DeadlineExceeded),
            _ => None,
        }
    }

    /// What the gateway meant, where it said so.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        match self {
            Self::Status { status, .. } => Problem::from_status(status),
            _ => None,
        }
    }

    /// Whether the same call may succeed at another gateway, or after a moment.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Status { status, broken, .. } => {
                let certain = matches!(
                    status.code(),
                    Code::DeadlineExceeded | Code::InvalidArgument | Code::Unimplemented
                );
                status::is_retryable(status) || broken.is_some() && !certain
            }
            Self::Protocol { .. } => true,
            _ => false,
        }
    }

    /// Whether the gateway could not be reached, or does not serve: others are to be asked.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Status { status, broken, .. } => {
                broken.is_some() || status.code() == Code::Unavailable
            }
            _ => false,
        }
    }

    /// When the gateway asks to be tried again.
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Status { status, .. } => status::retry_after(status),
            _ => None,
        }
    }
}
