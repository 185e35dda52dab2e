//! The RPC edge of `meshctl`: the only place that knows generated types.
//!
//! Calls take and give plain words; every call has a deadline.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    WireError,
    channel::{Channel, Channels},
};
use kvmesh_directory::FeedPosition;
use serde::Serializer;
use tonic::{Code, Request, Status};

pub mod at_risk;
pub mod cache;
pub mod health;
mod policy;
mod streams;
pub mod sync;
pub mod topology;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answers at the address.
    #[error("nothing answers at {address} ({why}): is it running? `meshctl dev` starts a mesh")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// As the transport says.
        why: String,
    },
    /// It answers, and says no.
    #[error("{what} at {address} was refused, {code}: {message}")]
    Refused {
        /// Which call.
        what: &'static str,
        /// `host:port`.
        address: String,
        /// Name of the gRPC code.
        code: String,
        /// Its words.
        message: String,
    },
    /// No answer in time.
    #[error("{what} at {address} took longer than {} s: raise --timeout or look at its log", limit.as_secs_f64())]
    OutOfTime {
        /// Which call.
        what: &'static str,
        /// `host:port`.
        address: String,
        /// How long it may take.
        limit: Duration,
    },
    /// The answer breaks the protocol.
    #[error("{what} at {address} broke the protocol: {how}")]
    Broken {
        /// Which call.
        what: &'static str,
        /// `host:port`.
        address: String,
        /// In which way.
        how: String,
    },
}

/// One process of the mesh, as its callers see it.
#[derive(Clone)]
pub struct Peer {
    address: Arc<str>,
    channels: Channels,
    channel: Channel,
    timeout: Duration,
}

impl Peer {
    /// The process at `host:port`; calls take at most `timeout`. Connects when first called.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(channels: &Channels, address: &str, timeout: Duration) -> anyhow::Result<Self> {
        let channel = channels
            .to(address)
            .map_err(|error| crate::exit::set_up(error.to_string()))?;
        Ok(Self {
            address: address.into(),
            channels: channels.clone(),
            channel,
            timeout,
        })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same process, with another limit for calls.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        request.set_timeout(self.timeout);
        request
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Status) -> CallError {
        let (address, limit) = (self.address.to_string(), self.timeout);
        move |status| match status.code() {
            // Only the client's own transport leaves a source.
            Code::Unavailable if std::error::Error::source(&status).is_some() => {
                CallError::Unreachable {
                    address,
                    why: root_cause(&status),
                }
            }
            Code::DeadlineExceeded | Code::Cancelled => CallError::OutOfTime {
                what,
                address,
                limit,
            },
            code => CallError::Refused {
                what,
                address,
                code: format!("{code:?}"),
                message: status.message().to_owned(),
            },
        }
    }

    fn broken(&self, what: &'static str, how: impl ToString) -> CallError {
        CallError::Broken {
            what,
            address: self.address.to_string(),
            how: how.to_string(),
        }
    }

    fn unread(&self, what: &'static str) -> impl FnOnce(WireError) -> CallError {
        let peer = self.clone();
        move |error| peer.broken(what, error)
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// `region@index`, for JSON.
///
/// # Errors
/// Those of the serializer.
pub fn position_text<S: Serializer>(
    position: &Option<FeedPosition>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match position {
        Some(position) => to.collect_str(&format_args!("{}@{}", position.region, position.index)),
        None => to.serialize_none(),
    }
}
