//! Answers of gateways into words.

use std::time::Duration;

use kvmesh_directory::{FeedPosition, NodeId, RegionId, RingEpoch};
use kvmesh_proto::v1 as wire;

use crate::{
    client::{
        Advice, BlockOwners, Chain, ChainMatch, ChainQuery, Deleted, LeftOut, LeftOutReason,
        Located, LookupAnswer, NodeEndpoint, OpenAnswer, RemoteRun, RemoteView,
    },
    convert::{FromWire, ToWire, WireError, all, each, optional, region, required},
};

impl ToWire for Chain {
    type Wire = wire::Chain;
    fn to_wire(&self) -> wire::Chain {
        wire::Chain {
            hashes: self.hashes().clone(),
            width: self.width(),
        }
    }
}

impl ToWire for ChainQuery {
    type Wire = wire::ChainQuery;
    fn to_wire(&self) -> wire::ChainQuery {
        wire::ChainQuery {
            chain: Some(self.chain.to_wire()),
            start: self.start,
            parts: each(&self.parts),
        }
    }
}

impl FromWire for OpenAnswer {
    type Wire = wire::OpenResponse;
    fn from_wire(wire: wire::OpenResponse) -> Result<Self, WireError> {
        Ok(Self {
            namespace: required("namespace", wire.namespace)?,
            ring_epoch: RingEpoch(wire.ring_epoch),
            region: region("region", &wire.region)?,
            position: optional(wire.position)?,
            protocol_version: wire.protocol_version,
        })
    }
}

impl ToWire for LeftOut {
    type Wire = wire::LeftOut;
    fn to_wire(&self) -> wire::LeftOut {
        wire::LeftOut {
            region: self.region.to_wire(),
            reason: self.reason.to_wire(),
        }
    }
}

impl FromWire for LeftOut {
    type Wire = wire::LeftOut;
    fn from_wire(wire: wire::LeftOut) -> Result<Self, WireError> {
        Ok(Self {
            region: region("left_out.region", &wire.region)?,
            // A later version may have more reasons.
            reason: LeftOutReason::from_wire(wire.reason).unwrap_or(LeftOutReason::State),
        })
    }
}

impl FromWire for LookupAnswer {
    type Wire = wire::LookupResponse;
    fn from_wire(wire: wire::LookupResponse) -> Result<Self, WireError> {
        Ok(Self {
            matches: all(wire.matches)?,
            position: optional(wire.position)?,
            age: Duration::from_millis(wire.age_ms),
            regions: all(wire.regions)?,
            view_behind: wire.view_behind,
            local_only: wire.local_only,
            left_out: all(wire.left_out)?,
        })
    }
}

impl FromWire for ChainMatch {
    type Wire = wire::ChainMatch;
    fn from_wire(wire: wire::ChainMatch) -> Result<Self, WireError> {
        Ok(Self {
            local_blocks: wire.local_blocks,
            local_bytes: wire.local_bytes,
            pending_blocks: wire.pending_blocks,
            mesh_blocks: wire.mesh_blocks,
            remote: all(wire.remote)?,
            leased_blocks: wire.leased_blocks,
        })
    }
}

impl FromWire for RemoteRun {
    type Wire = wire::RemoteRun;
    fn from_wire(wire: wire::RemoteRun) -> Result<Self, WireError> {
        let advice = match wire.advice() {
            wire::Advice::Unspecified => None,
            wire::Advice::Fetch => Some(Advice::Fetch),
            wire::Advice::Recompute => Some(Advice::Recompute),
            wire::Advice::Split => Some(Advice::Split),
        };
        Ok(Self {
            region: RegionId::from_wire(wire.region)?,
            blocks: wire.blocks,
            fetch_bytes: wire.fetch_bytes,
            estimated_fetch_ms: wire.estimated_fetch_ms,
            rtt_ms: wire.rtt_ms,
            estimated_recompute_ms: wire.estimated_recompute_ms,
            advice,
            estimated_fetch_p95_ms: wire.estimated_fetch_p95_ms,
            split_at: wire.split_at,
            estimated_split_ms: wire.estimated_split_ms,
            fetch_dollars: wire.fetch_dollars,
            recompute_dollars: wire.recompute_dollars,
        })
    }
}

impl FromWire for RemoteView {
    type Wire = wire::RegionView;
    fn from_wire(wire: wire::RegionView) -> Result<Self, WireError> {
        Ok(Self {
            region: RegionId::from_wire(wire.region)?,
            position: optional(wire.position)?,
            age: Duration::from_millis(wire.age_ms),
            reachable: wire.reachable,
            rtt_ms: wire.rtt_ms,
        })
    }
}

impl FromWire for Deleted {
    type Wire = wire::DeleteResponse;
    fn from_wire(wire: wire::DeleteResponse) -> Result<Self, WireError> {
        let position: FeedPosition = required("position", wire.position)?;
        Ok(Self {
            position,
            names: wire.deleted,
        })
    }
}

impl FromWire for Located {
    type Wire = wire::LocateResponse;
    fn from_wire(wire: wire::LocateResponse) -> Result<Self, WireError> {
        let nodes: Vec<NodeEndpoint> = wire
            .nodes
            .into_iter()
            .map(|node| NodeEndpoint {
                node: NodeId(node.node),
                address: node.address,
                zone: node.zone,
            })
            .collect();
        let indexes = |field, raw: Vec<u32>| -> Result<Vec<usize>, WireError> {
            let at = |index: u32| match index as usize {
                index if index < nodes.len() => Ok(index),
                _ => Err(WireError::field(
                    field,
                    format!("no node has index {index}"),
                )),
            };
            raw.into_iter().map(at).collect()
        };
        let blocks = wire.blocks.into_iter().map(|block| {
            Ok(BlockOwners {
                owners: indexes("owners", block.owners)?,
                holders: indexes("holders", block.holders)?,
            })
        });
        let blocks = blocks.collect::<Result<_, WireError>>()?;
        Ok(Self {
            ring_epoch: RingEpoch(wire.ring_epoch),
            nodes: nodes.into(),
            blocks,
        })
    }
}
