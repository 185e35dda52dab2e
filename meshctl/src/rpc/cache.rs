//! Calls of the service `Cache` that are one question and one answer.

use kvmesh_client::{FromWire, ToWire};
use kvmesh_directory::{Description, FeedPosition, Namespace, NamespaceId, limits};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use serde::Serialize;
use tonic::transport::Channel;

use super::{CallError, Peer, position_text};
use crate::chain::Chain;

/// A namespace as a gateway opened it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// As the region keeps it.
    pub namespace: Namespace,
    /// Region that answered.
    pub region: String,
    /// A view at this position knows it.
    pub position: Option<FeedPosition>,
}

/// How much of a chain is present.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Blocks of the chain from the asked start on.
    pub asked: u32,
    /// Blocks that the region itself holds without a hole.
    pub local_blocks: u32,
    /// Their bytes.
    pub local_bytes: u64,
    /// Blocks after the local run that are on their way.
    pub pending_blocks: u32,
    /// Blocks that all regions together hold without a hole.
    pub mesh_blocks: u32,
    /// What each other region holds.
    pub remote: Vec<RemoteRun>,
    /// Of the local view that answered.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
    /// Since the local view last heard from its feed.
    pub age_ms: u64,
    /// The view did not reach the asked positions in time: nothing else is answered.
    pub view_behind: bool,
}

/// What another region holds of a chain.
#[derive(Debug, Clone, Serialize)]
pub struct RemoteRun {
    /// Its name.
    pub region: String,
    /// Blocks that it holds without a hole.
    pub blocks: u32,
    /// Bytes that a get would bring from there.
    pub fetch_bytes: u64,
    /// What that should take.
    pub estimated_fetch_ms: f64,
    /// Last round trip.
    pub rtt_ms: f64,
}

/// What a delete did.
#[derive(Debug, Clone, Serialize)]
pub struct Deleted {
    /// Names that were present.
    pub deleted: u32,
    /// A view at this position shows none of them.
    #[serde(serialize_with = "position_text")]
    pub position: Option<FeedPosition>,
}

/// Where a block's copies are.
#[derive(Debug, Clone, Serialize)]
pub struct Located {
    /// Numbers of the nodes that should hold it, the primary first.
    pub owners: Vec<u64>,
    /// Numbers of the nodes that hold it.
    pub holders: Vec<u64>,
}

pub(super) fn wire_chain(chain: &Chain) -> wire::Chain {
    wire::Chain {
        hashes: chain.packed().into(),
        width: u32::try_from(chain.width()).unwrap_or(u32::MAX),
    }
}

impl Peer {
    pub(super) fn cache(&self) -> CacheClient<Channel> {
        CacheClient::new(self.channel.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    /// Makes a namespace known, with a policy template of the gateway.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn open(
        &self,
        description: &Description,
        name: &str,
        template: &str,
    ) -> Result<Opened, CallError> {
        const WHAT: &str = "opening the namespace";
        let request = self.request(wire::OpenRequest {
            description: Some(description.to_wire()),
            name: name.to_owned(),
            template: template.to_owned(),
        });
        let answer = self.cache().open(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let namespace = answer
            .namespace
            .ok_or_else(|| self.broken(WHAT, "an answer without a namespace"))?;
        let position = answer.position.map(FeedPosition::from_wire).transpose();
        Ok(Opened {
            namespace: Namespace::from_wire(namespace).map_err(self.unread(WHAT))?,
            region: answer.region,
            position: position.map_err(self.unread(WHAT))?,
        })
    }

    /// How much of a chain is present from `start` on, in a view that covers `at_least`.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn lookup(
        &self,
        namespace: NamespaceId,
        chain: &Chain,
        start: u32,
        at_least: &[FeedPosition],
    ) -> Result<Found, CallError> {
        const WHAT: &str = "the lookup";
        let request = self.request(wire::LookupRequest {
            namespace_id: namespace.0.to_vec().into(),
            chains: vec![wire::ChainQuery {
                chain: Some(wire_chain(chain)),
                start,
                parts: Vec::new(),
            }],
            at_least: at_least.iter().map(ToWire::to_wire).collect(),
            hold_ms: 0,
        });
        let answer = self.cache().lookup(request).await;
        let mut answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let position = answer.position.map(FeedPosition::from_wire).transpose();
        let matched = match answer.matches.pop() {
            Some(matched) => matched,
            None if answer.view_behind => wire::ChainMatch::default(),
            None => return Err(self.broken(WHAT, "an answer without a match")),
        };
        let remote = matched.remote.into_iter().map(|run| RemoteRun {
            region: run.region,
            blocks: run.blocks,
            fetch_bytes: run.fetch_bytes,
            estimated_fetch_ms: run.estimated_fetch_ms,
            rtt_ms: run.rtt_ms,
        });
        let asked = chain.len().saturating_sub(start as usize);
        Ok(Found {
            asked: u32::try_from(asked).unwrap_or(u32::MAX),
            local_blocks: matched.local_blocks,
            local_bytes: matched.local_bytes,
            pending_blocks: matched.pending_blocks,
            mesh_blocks: matched.mesh_blocks,
            remote: remote.collect(),
            position: position.map_err(self.unread(WHAT))?,
            age_ms: answer.age_ms,
            view_behind: answer.view_behind,
        })
    }

    /// Makes blocks of a chain unreadable; `count` 0 means to its end.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn delete(
        &self,
        namespace: NamespaceId,
        chain: &Chain,
        start: u32,
        count: u32,
    ) -> Result<Deleted, CallError> {
        const WHAT: &str = "the delete";
        let request = self.request(wire::DeleteRequest {
            namespace_id: namespace.0.to_vec().into(),
            chain: Some(wire_chain(chain)),
            start,
            count,
            parts: Vec::new(),
        });
        let answer = self.cache().delete(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let position = answer.position.map(FeedPosition::from_wire).transpose();
        Ok(Deleted {
            deleted: answer.deleted,
            position: position.map_err(self.unread(WHAT))?,
        })
    }

    /// Owners and holders of each block of a chain, in the region that answers.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn locate(
        &self,
        namespace: NamespaceId,
        chain: &Chain,
    ) -> Result<Vec<Located>, CallError> {
        const WHAT: &str = "locating the chain";
        let request = self.request(wire::LocateRequest {
            namespace_id: namespace.0.to_vec().into(),
            chain: Some(wire_chain(chain)),
            parts: Vec::new(),
            ring_epoch: 0,
        });
        let answer = self.cache().locate(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let numbers = |indexes: Vec<u32>| -> Result<Vec<u64>, CallError> {
            let number = |index: u32| answer.nodes.get(index as usize).map(|node| node.node);
            indexes
                .into_iter()
                .map(|index| {
                    number(index).ok_or_else(|| self.broken(WHAT, "an owner outside of the list"))
                })
                .collect()
        };
        let read = |block: wire::BlockOwners| {
            Ok(Located {
                owners: numbers(block.owners)?,
                holders: numbers(block.holders)?,
            })
        };
        answer.blocks.into_iter().map(read).collect()
    }
}
