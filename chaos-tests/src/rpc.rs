//! What the harness asks nodes as an operator.

use std::time::Duration;

use anyhow::Result;
use kvmesh_client::channel::Channels;
use kvmesh_proto::v1::{
    InitRegionRequest, NodeState, ShowRequest, StatsRequest, topology_client::TopologyClient,
};
use tonic::Request;

const CALL_BOUND: Duration = Duration::from_secs(5);
/// Initialising waits for an election.
const INIT_BOUND: Duration = Duration::from_secs(20);

/// What a node says of itself and its region.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Last log index that the node has applied.
    pub(crate) applied: u64,
    /// (node, incarnation, whether it lives), as the node that was asked knows it.
    pub(crate) nodes: Vec<(u64, u64, bool)>,
    /// Blocks with fewer copies than wanted.
    pub(crate) under_replicated: u64,
    /// Blocks in the region's directory.
    pub(crate) blocks: u64,
    /// Members that are to vote.
    pub(crate) voters: Vec<u64>,
    /// Blocks are not all where the ring has them.
    pub(crate) moving: bool,
}

fn request<T>(message: T, bound: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(bound);
    request
}

/// Makes the region, as the node's settings list its members.
pub(crate) async fn init_region(channels: &Channels, node: &str) -> Result<()> {
    let mut topology = TopologyClient::new(channels.to(node)?);
    topology
        .init_region(request(InitRegionRequest {}, INIT_BOUND))
        .await?;
    Ok(())
}

/// Whether somebody of another make is answered.
pub(crate) async fn shows(
    channel: tonic::transport::Channel,
) -> std::result::Result<(), tonic::Status> {
    let mut topology = TopologyClient::new(channel);
    topology.show(ShowRequest {}).await.map(|_| ())
}

/// Asks a node what it sees.
pub(crate) async fn see(channels: &Channels, node: &str) -> Result<Seen> {
    let mut topology = TopologyClient::new(channels.to(node)?);
    let shown = topology
        .show(request(ShowRequest {}, CALL_BOUND))
        .await?
        .into_inner();
    let stats = topology
        .stats(request(StatsRequest {}, CALL_BOUND))
        .await?
        .into_inner();
    let nodes = shown.nodes.iter().map(|status| {
        let node = status.member.as_ref().map_or(0, |member| member.node);
        (node, status.incarnation, status.state() == NodeState::Alive)
    });
    let members = shown.nodes.iter().filter_map(|it| it.member.as_ref());
    let voters = members.filter(|member| member.voter);
    Ok(Seen {
        voters: voters.map(|member| member.node).collect(),
        moving: shown.moving,
        applied: shown.position.map_or(0, |position| position.index),
        nodes: nodes.collect(),
        under_replicated: stats.under_replicated,
        blocks: stats.blocks,
    })
}
