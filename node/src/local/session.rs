//! One client on this host: what it asks, and what it holds.
//!
//! Invariant: it gets descriptors of its own namespace's segments only, and no lease of it ends
//! before it releases it or is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kvmesh_client::{
    BlockMeta,
    convert::local::{Answer, Ask, End, Mapped, Response},
    local::socket::{DESCRIPTORS_MAX, Socket},
};
use kvmesh_directory::{
    BlockKey, BlockName, FeedPosition, NamespaceId,
    limits::{LOCAL_BLOCKS_MAX, LOCAL_PACKET_BYTES_MAX},
};
use tracing::debug;

use super::{
    grants::{Grants, Share},
    packets::{Over, send, unpack},
};
use crate::{
    node::Node,
    store::{
        CopyKey, NotShared,
        arena::{Guest, Segment},
    },
};

/// Of an answer, for what is not blocks.
const HEAD_BYTES: usize = 4 << 10;

pub(super) struct Session {
    node: Arc<Node>,
    socket: Socket,
    namespace: NamespaceId,
    room: Guest,
    grants: Grants,
    /// What the client has mapped.
    sent: BTreeMap<u64, Arc<Segment>>,
}

impl Session {
    pub(super) fn new(
        node: &Arc<Node>,
        socket: Socket,
        (namespace, room): (NamespaceId, Guest),
        share: Share,
    ) -> Self {
        Self {
            node: Arc::clone(node),
            socket,
            namespace,
            room,
            grants: Grants::new(share),
            sent: BTreeMap::new(),
        }
    }

    /// Answers until the client is gone. One that is not answered any more keeps its leases.
    pub(super) async fn serve(&mut self) {
        if let Err(over) = self.answer_all().await {
            debug!(%over, "a client on this host is not answered any more");
        }
        while let Ok(Some(packet)) = self.socket.receive().await {
            if let Ok(request) = unpack(&packet) {
                self.release(&request.release);
            }
        }
    }

    /// What the client still reads, when the node ends before it does.
    pub(super) fn into_held(self) -> Option<Grants> {
        Some(self.grants).filter(|grants| !grants.is_empty())
    }

    async fn answer_all(&mut self) -> Result<(), Over> {
        loop {
            let packet = self.socket.receive().await?.ok_or(Over::Gone)?;
            let request = unpack(&packet)?;
            self.release(&request.release);
            self.touch(&request.touch);
            let answer = match request.ask {
                None => continue,
                Some(Ask::Hello { .. }) => return Err(Over::Wrong("a second hello".to_owned())),
                Some(Ask::Put(_)) => {
                    return Err(Over::Wrong("this connection is for gets".to_owned()));
                }
                Some(Ask::Get { keys, .. }) if keys.len() > LOCAL_BLOCKS_MAX => {
                    return Err(Over::Wrong(format!(
                        "over {LOCAL_BLOCKS_MAX} blocks at once"
                    )));
                }
                Some(Ask::Get { keys, at_least }) => self.get(&keys, &at_least).await,
            };
            self.say(request.id, answer).await?;
        }
    }

    fn release(&mut self, leases: &[u64]) {
        leases.iter().for_each(|lease| self.grants.release(*lease));
    }

    fn touch(&self, keys: &[BlockKey]) {
        let listed = keys
            .iter()
            .filter_map(|key| self.node.listed(&self.name(key)));
        let copies: Vec<CopyKey> = listed.map(|(_, copy)| copy).collect();
        self.node.store.touch(&copies);
    }

    fn name(&self, key: &BlockKey) -> BlockName {
        BlockName {
            namespace: self.namespace,
            hash: key.hash,
            part: key.part,
        }
    }

    async fn get(&mut self, keys: &[BlockKey], at_least: &[FeedPosition]) -> Found {
        let mut found = Found::default();
        if !self.node.reached(at_least).await {
            found.end = Some(End::ViewBehind);
            return found;
        }
        for key in keys {
            if let Err(end) = self.one(key, &mut found).await {
                found.end = Some(end);
                break;
            }
        }
        let metrics = &self.node.metrics.local;
        metrics.blocks.increment(found.blocks.len() as u64);
        let bytes = found.blocks.iter().map(|block| block.meta.bytes).sum();
        metrics.bytes.increment(bytes);
        match found.end {
            Some(End::Held) => metrics.held.increment(1),
            Some(End::NoRoom) => metrics.no_room.increment(1),
            _ => {}
        }
        found
    }

    async fn one(&mut self, key: &BlockKey, found: &mut Found) -> Result<(), End> {
        let name = self.name(key);
        let (block, entry) = self.node.read(&name).await.ok_or(End::Missing)?;
        let holder = entry.holders.iter().find(|copy| copy.node == self.node.me);
        let copy = *holder.ok_or(End::Missing)?;
        // Before it is copied for nothing.
        if !self.grants.has_room(block.meta.bytes) {
            return Err(End::Held);
        }
        let copy = CopyKey { name, copy };
        let shared = self.node.store.shared(&self.room, copy, block).await;
        let shared = shared.map_err(|error| match error {
            NotShared::NoRoom => End::NoRoom,
            NotShared::Corrupt(_) => {
                self.node.metrics.checksum_failures.increment(1);
                End::Missing
            }
        })?;
        let segments = shared.places.iter().map(|(segment, _)| segment);
        let new: BTreeMap<u64, &Arc<Segment>> = segments
            .filter(|segment| !self.sent.contains_key(&segment.id))
            .map(|segment| (segment.id, segment))
            .collect();
        let places = shared.places.iter().map(|(segment, at)| (segment.id, *at));
        let mut mapped = Mapped {
            lease: 0,
            meta: BlockMeta {
                put_hlc: entry.put_hlc,
                ..shared.block.meta.clone()
            },
            places: places.collect(),
        };
        let ids: BTreeSet<u64> = found.new.keys().chain(new.keys()).copied().collect();
        let bytes = found.bytes + mapped.packed_bytes_max();
        let full = bytes > LOCAL_PACKET_BYTES_MAX - HEAD_BYTES || ids.len() > DESCRIPTORS_MAX;
        if full && !found.blocks.is_empty() {
            return Err(End::More);
        }
        // A block over more segments than one packet can name.
        if ids.len() > DESCRIPTORS_MAX {
            return Err(End::NoRoom);
        }
        mapped.lease = self.grants.grant(&shared.block).ok_or(End::Held)?;
        let new = new
            .into_iter()
            .map(|(id, segment)| (id, Arc::clone(segment)));
        found.new.extend(new);
        found.bytes = bytes;
        found.blocks.push(mapped);
        Ok(())
    }

    async fn say(&mut self, id: u64, found: Found) -> Result<(), Over> {
        let retired: Vec<u64> = self
            .sent
            .iter()
            .filter(|(_, segment)| segment.is_retired())
            .map(|(id, _)| *id)
            .collect();
        let response = Response {
            id,
            segments: found.new.iter().map(|(id, it)| (*id, it.bytes())).collect(),
            retired,
            answer: Some(Answer::Blocks {
                blocks: found.blocks,
                end: found.end.unwrap_or(End::Complete),
            }),
        };
        let files: Vec<_> = found.new.values().map(|segment| segment.file()).collect();
        send(&self.socket, &response, &files).await?;
        for id in &response.retired {
            self.sent.remove(id);
        }
        self.sent.extend(found.new);
        Ok(())
    }
}

/// What a get comes to.
#[derive(Default)]
struct Found {
    blocks: Vec<Mapped>,
    new: BTreeMap<u64, Arc<Segment>>,
    bytes: usize,
    end: Option<End>,
}
