//! The client's side of `Cache`: words in, words out. Whom to ask, how often and how long
//! is decided in [`crate::client`].

mod answers;
mod cache;
mod get;
mod lease;
mod put;
mod streams;

pub(crate) use cache::{CacheRpc, Range};
pub(crate) use get::{GetFrame, GetFrames, GetRequest, Header};
pub(crate) use put::{PutAnswer, PutAnswers, PutCall, PutFrame, PutOpen};
pub(crate) use streams::{Prefetch, PrefetchAnswers, WatchAnswers};

use std::fmt;

use tonic::{Code, Status};

use crate::convert::WireError;

/// Why one attempt of a call failed.
#[derive(Debug)]
pub(crate) enum RpcError {
    /// The server answered with an error, or the connection broke.
    Status(Box<Status>),
    /// The answer cannot be read.
    Wire(WireError),
}

impl RpcError {
    /// The request cannot be: whoever is asked says the same.
    pub(crate) fn is_invalid(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::InvalidArgument)
    }

    /// The callee goes by another ring.
    pub(crate) fn is_stale_epoch(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::FailedPrecondition)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Wire(error) => error.fmt(f),
        }
    }
}

impl From<Status> for RpcError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<WireError> for RpcError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}
