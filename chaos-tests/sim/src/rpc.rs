//! What a run asks nodes as an operator.

use std::time::Duration;

use kvmesh_client::{ToWire, channel::Channels};
use kvmesh_directory::{NamespaceId, RingEpoch};
use kvmesh_proto::v1::{
    InitRegionRequest, LeaveRequest, PutOpen, PutRequest, cache_client::CacheClient, put_request,
    topology_client::TopologyClient,
};
use tokio::time::timeout;
use tonic::Code;

/// Of a call that asks little.
const DEADLINE: Duration = Duration::from_secs(2);

/// Initialising waits for an election.
const INIT_DEADLINE: Duration = Duration::from_secs(10);

/// Makes a region, as its first node's settings list its members.
pub(crate) async fn init_region(channels: &Channels, node: &str) -> Result<(), String> {
    let channel = channels.to(node).map_err(|error| error.to_string())?;
    let mut topology = TopologyClient::new(channel);
    let asked = timeout(INIT_DEADLINE, topology.init_region(InitRegionRequest {})).await;
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == Code::AlreadyExists => Ok(()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Asks a node to let another one leave.
pub(crate) async fn leave(channels: &Channels, node: &str, leaving: u64) -> Result<(), String> {
    let channel = channels.to(node).map_err(|error| error.to_string())?;
    let request = LeaveRequest {
        node: leaving,
        forget: false,
    };
    match timeout(DEADLINE, TopologyClient::new(channel).leave(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// What a node says to a put of a ring epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It would take blocks.
    Taken,
    /// It wants the current epoch to be named.
    Refused,
    /// It did not say.
    Unknown,
}

/// Opens a put at a node, and offers nothing.
pub(crate) async fn open_put(
    channels: &Channels,
    node: &str,
    namespace: NamespaceId,
    epoch: RingEpoch,
) -> Opening {
    let open = PutOpen {
        namespace_id: namespace.to_wire(),
        ring_epoch: epoch.0,
        ..PutOpen::default()
    };
    let first = PutRequest {
        frame: Some(put_request::Frame::Open(open)),
    };
    let Ok(channel) = channels.to(node) else {
        return Opening::Unknown;
    };
    let asking = async {
        let mut cache = CacheClient::new(channel);
        let answers = cache.put(futures::stream::iter([first])).await?;
        answers.into_inner().message().await
    };
    match timeout(DEADLINE, asking).await {
        Ok(Ok(None)) => Opening::Taken,
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => Opening::Refused,
        Ok(_) | Err(_) => Opening::Unknown,
    }
}
