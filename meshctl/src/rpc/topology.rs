//! Calls of the service `Topology`.

use kvmesh_client::{FromWire, ToWire};
use kvmesh_directory::{FeedPosition, Member, Namespace, PeerState};
use kvmesh_proto::v1::{self as wire, topology_client::TopologyClient};
use serde::Serialize;

use super::{CallError, Peer, position_text};

/// A region's members and ring.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Its name; empty before it is initialised.
    pub region: String,
    /// Whether its members are committed.
    pub initialised: bool,
    /// Version of the topology.
    pub ring_epoch: u64,
    /// Of a node of weight 1.
    pub virtual_nodes: u32,
    /// Of the view that answered.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
    /// Number of the Raft leader; 0: none known.
    pub leader: u64,
    /// Blocks are not yet all where the ring has them.
    pub moving: bool,
    /// While they move, how many are left; only nodes know it.
    pub move_blocks_left: Option<u64>,
    /// Their bytes.
    pub move_bytes_left: u64,
    /// How many members are to vote.
    pub voters_wanted: u32,
    /// Format of the log's commands that are proposed.
    pub feature_level: u32,
    /// Members, ascending.
    pub nodes: Vec<ShownNode>,
}

/// A member of a region.
#[derive(Debug, Clone, Serialize)]
pub struct ShownNode {
    /// Its number.
    pub node: u64,
    /// `host:port`.
    pub address: String,
    /// Failure domain.
    pub zone: String,
    /// Share relative to others.
    pub weight: u32,
    /// Whether it votes.
    pub voter: bool,
    /// `new`, `alive`, `joining`, `leaving` or `dead`.
    pub state: &'static str,
    /// Its current start.
    pub incarnation: u64,
    /// Share of primary ownership, 0 to 1.
    pub ownership: f64,
    /// Copies that it holds.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The highest feature level that its program knows; 0: not known.
    pub feature_level: u32,
}

/// A region as another one sees it.
#[derive(Debug, Clone, Serialize)]
pub struct RegionStatus {
    /// Its name.
    pub region: String,
    /// The answering one.
    pub local: bool,
    /// Whether it answered lately.
    pub reachable: bool,
    /// Last round trip; 0: none yet.
    pub rtt_ms: f64,
    /// How far the view of it is.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
    /// Since it was last heard.
    pub age_ms: u64,
    /// Blocks known to be there.
    pub blocks: u64,
    /// What is thought of it; none: it is the answering one, or the process does not say.
    pub state: Option<&'static str>,
    /// Log entries of it that were heard and are not shown yet.
    pub lag_entries: u64,
    /// Bytes per second that a fetch from there is expected to see; 0: not known.
    pub bandwidth: f64,
    /// Since a fetch told it; none: the settings say so.
    pub bandwidth_age_ms: Option<u64>,
}

/// Counts of a region, or of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// Region.
    pub region: String,
    /// `node` or `gateway`.
    pub role: String,
    /// Of the view that answered.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
    /// Blocks with at least one copy.
    pub blocks: u64,
    /// Copies of all blocks.
    pub copies: u64,
    /// Bytes of one copy of each block.
    pub bytes: u64,
    /// Blocks with fewer copies than wanted.
    pub under_replicated: u64,
    /// Deleted names that are remembered.
    pub tombstones: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Bytes of block memory in use; nodes only.
    pub memory_used: u64,
    /// Bytes of block memory; nodes only.
    pub memory_max: u64,
}

/// What an initialisation committed.
#[derive(Debug, Clone, Serialize)]
pub struct Initialised {
    /// Region.
    pub region: String,
    /// Version of the topology.
    pub ring_epoch: u64,
    /// Of the entry that did it.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
    /// Numbers and addresses of the members.
    pub members: Vec<(u64, String)>,
}

pub(super) fn position(
    peer: &Peer,
    what: &'static str,
    raw: Option<wire::FeedPosition>,
) -> Result<Option<FeedPosition>, CallError> {
    raw.map(FeedPosition::from_wire)
        .transpose()
        .map_err(peer.unread(what))
}

impl Peer {
    pub(super) fn topology(&self) -> TopologyClient<kvmesh_client::channel::Channel> {
        TopologyClient::new(self.channel.clone())
            .max_decoding_message_size(kvmesh_directory::limits::MESSAGE_BYTES_MAX)
    }

    /// Commits the members that a node's settings list.
    ///
    /// # Errors
    /// When the node refuses or does not answer.
    pub async fn init_region(&self) -> Result<Initialised, CallError> {
        const WHAT: &str = "initialising the region";
        let request = self.request(wire::InitRegionRequest {});
        let answer = self.topology().init_region(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let members = answer.members.into_iter().map(Member::from_wire);
        let members: Vec<Member> = members
            .collect::<Result<_, _>>()
            .map_err(self.unread(WHAT))?;
        Ok(Initialised {
            region: answer.region,
            ring_epoch: answer.ring_epoch,
            position: position(self, WHAT, answer.position)?,
            members: members
                .into_iter()
                .map(|member| (member.node.0, member.address))
                .collect(),
        })
    }

    /// Members and ring of the process's region.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn show(&self) -> Result<Shown, CallError> {
        const WHAT: &str = "showing the topology";
        let answer = self
            .topology()
            .show(self.request(wire::ShowRequest {}))
            .await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let nodes = answer.nodes.into_iter().map(|node| self.shown_node(node));
        Ok(Shown {
            region: answer.region,
            initialised: answer.initialised,
            ring_epoch: answer.ring_epoch,
            virtual_nodes: answer.virtual_nodes,
            position: position(self, WHAT, answer.position)?,
            leader: answer.leader,
            moving: answer.moving,
            move_blocks_left: answer.move_blocks_left,
            move_bytes_left: answer.move_bytes_left,
            voters_wanted: answer.voters_wanted,
            feature_level: answer.feature_level,
            nodes: nodes.collect::<Result<_, _>>()?,
        })
    }

    /// Makes a node a member; the ring epoch then, and whether it is to vote.
    ///
    /// # Errors
    /// When the node refuses or does not answer.
    pub async fn join(&self, member: &Member) -> Result<(u64, bool), CallError> {
        const WHAT: &str = "joining";
        let member = Some(member.to_wire());
        let request = self.request(wire::JoinRequest { member });
        let answer = self.topology().join(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let voter = answer.member.is_some_and(|member| member.voter);
        Ok((answer.ring_epoch, voter))
    }

    /// Takes a member off the ring; the ring epoch then, and whether blocks move.
    ///
    /// # Errors
    /// When the node refuses or does not answer.
    pub async fn leave(&self, node: u64, forget: bool) -> Result<(u64, bool), CallError> {
        const WHAT: &str = "leaving";
        let request = self.request(wire::LeaveRequest { node, forget });
        let answer = self.topology().leave(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        Ok((answer.ring_epoch, answer.moving))
    }

    /// Raises the region's feature level to what the node's program knows; the level of before,
    /// and the one now.
    ///
    /// # Errors
    /// When the node refuses or does not answer.
    pub async fn upgrade(&self) -> Result<(u32, u32), CallError> {
        const WHAT: &str = "upgrading the region";
        let request = self.request(wire::UpgradeRequest {});
        let answer = self.topology().upgrade(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        Ok((answer.from, answer.to))
    }

    fn shown_node(&self, raw: wire::NodeStatus) -> Result<ShownNode, CallError> {
        let state = match raw.state() {
            wire::NodeState::Alive if raw.leaving => "leaving",
            wire::NodeState::Alive if raw.joining => "joining",
            wire::NodeState::Alive => "alive",
            wire::NodeState::Dead => "dead",
            wire::NodeState::New | wire::NodeState::Unspecified => "new",
        };
        let member = raw
            .member
            .ok_or_else(|| self.broken("showing the topology", "a node without a member"))?;
        Ok(ShownNode {
            node: member.node,
            address: member.address,
            zone: member.zone,
            weight: member.weight,
            voter: member.voter,
            state,
            incarnation: raw.incarnation,
            ownership: raw.ownership,
            blocks: raw.blocks,
            bytes: raw.bytes,
            feature_level: raw.feature_level,
        })
    }

    /// The regions that the process sees, its own first.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn regions(&self) -> Result<Vec<RegionStatus>, CallError> {
        const WHAT: &str = "listing the regions";
        let request = self.request(wire::ListRegionsRequest {});
        let answer = self.topology().list_regions(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let read = |raw: wire::RegionStatus| {
            Ok(RegionStatus {
                position: position(self, WHAT, raw.position)?,
                region: raw.region,
                local: raw.local,
                reachable: raw.reachable,
                rtt_ms: raw.rtt_ms,
                age_ms: raw.age_ms,
                blocks: raw.blocks,
                state: PeerState::from_wire(raw.state).ok().map(PeerState::name),
                lag_entries: raw.lag_entries,
                bandwidth: raw.bandwidth,
                bandwidth_age_ms: raw.bandwidth_age_ms,
            })
        };
        answer.regions.into_iter().map(read).collect()
    }

    /// The namespaces of the process's region.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, CallError> {
        Ok(self.namespaces_at().await?.0)
    }

    /// Counts of the process.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stats(&self) -> Result<Stats, CallError> {
        const WHAT: &str = "asking for counts";
        let answer = self
            .topology()
            .stats(self.request(wire::StatsRequest {}))
            .await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        Ok(Stats {
            position: position(self, WHAT, answer.position)?,
            region: answer.region,
            role: answer.role,
            blocks: answer.blocks,
            copies: answer.copies,
            bytes: answer.bytes,
            under_replicated: answer.under_replicated,
            tombstones: answer.tombstones,
            namespaces: answer.namespaces,
            memory_used: answer.memory_used,
            memory_max: answer.memory_max,
        })
    }
}
