//! Asks a gateway of the own region to bring blocks of another one here.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    FromWire, ToWire, WireError,
    channel::{AddressError, Channels},
    convert,
};
use kvmesh_directory::{BlockKey, FeedPosition, NamespaceId, RegionId, limits::MESSAGE_BYTES_MAX};
use kvmesh_proto::v1::{self as wire, PrefetchEnd, cache_client::CacheClient};
use tokio::time::{error::Elapsed, timeout};
use tonic::Status;

/// A gateway says at least every half second how far it is.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why nothing is known of what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BringError {
    /// A setting is wrong.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The gateway fell silent.
    #[error("the gateway was silent for too long")]
    Silent(#[from] Elapsed),
    /// It refused, could not be reached, or went away.
    #[error("the gateway answered {}: {}", .0.code(), .0.message())]
    Status(#[from] Box<Status>),
    /// It ended early.
    #[error("the gateway ended without saying how far it came")]
    EndedEarly,
    /// Its answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Wire(#[from] WireError),
}

/// Blocks of one namespace that one region has.
pub(crate) struct Order {
    pub(crate) namespace: NamespaceId,
    pub(crate) keys: Vec<BlockKey>,
    pub(crate) region: RegionId,
    pub(crate) limit: Duration,
}

/// What came of an order.
#[derive(Debug)]
pub(crate) struct Brought {
    /// Shows all that came; none: nothing did.
    pub(crate) position: Option<FeedPosition>,
    /// Not all of it was tried: the link had no room for it in time.
    pub(crate) out_of_time: bool,
}

/// Gateways of the own region. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gateways {
    channels: Channels,
    /// In the same order for every region-sync of the region: so the same gateway is asked for
    /// a block, and there what two of them ask for is fetched once.
    addresses: Arc<[String]>,
}

impl Gateways {
    pub(crate) fn new(channels: Channels, addresses: &[String]) -> Self {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        Self {
            channels,
            addresses: addresses.into(),
        }
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Ends when everything was tried, or time is over. A failure says nothing of what came. Another `turn` asks another gateway.
    pub(crate) async fn bring(&self, order: &Order, turn: usize) -> Result<Brought, BringError> {
        let spread = usize::from(order.namespace.0[0]);
        let at = spread.wrapping_add(turn) % self.addresses.len().max(1);
        let Some(address) = self.addresses.get(at) else {
            return Err(BringError::EndedEarly);
        };
        let mut client = CacheClient::new(self.channels.to(address)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let request = wire::PrefetchRequest {
            namespace_id: order.namespace.to_wire(),
            region: order.region.to_wire(),
            deadline_ms: u32::try_from(order.limit.as_millis()).unwrap_or(u32::MAX),
            keys: convert::each(&order.keys),
            ..Default::default()
        };
        let asked = timeout(SILENCE_MAX, client.prefetch(request)).await?;
        let mut answers = asked.map_err(Box::new)?.into_inner();
        loop {
            let next = timeout(SILENCE_MAX, answers.message()).await?;
            let answer = next.map_err(Box::new)?.ok_or(BringError::EndedEarly)?;
            match answer.end() {
                PrefetchEnd::Unspecified => {}
                PrefetchEnd::Cancelled => return Err(BringError::EndedEarly),
                end @ (PrefetchEnd::Complete | PrefetchEnd::Partial | PrefetchEnd::OutOfTime) => {
                    let position = answer.position.map(FeedPosition::from_wire);
                    return Ok(Brought {
                        position: position.transpose()?,
                        out_of_time: end == PrefetchEnd::OutOfTime,
                    });
                }
            }
        }
    }
}
