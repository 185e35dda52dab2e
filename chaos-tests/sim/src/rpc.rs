//! What a run asks nodes as an operator.

use std::time::Duration;

use kvmesh_client::channel::Channels;
use kvmesh_proto::v1::{InitRegionRequest, topology_client::TopologyClient};
use tokio::time::timeout;

/// Initialising waits for an election.
const INIT_DEADLINE: Duration = Duration::from_secs(10);

/// Makes a region, as its first node's settings list its members.
pub(crate) async fn init_region(channels: &Channels, node: &str) -> Result<(), String> {
    let channel = channels.to(node).map_err(|error| error.to_string())?;
    let mut topology = TopologyClient::new(channel);
    let asked = timeout(INIT_DEADLINE, topology.init_region(InitRegionRequest {})).await;
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == tonic::Code::AlreadyExists => Ok(()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}
