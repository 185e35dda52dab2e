//! Snapshots of a directory, in chunks. Stored on disk: what was written is read by
//! every later build.
//!
//! A snapshot is the head with the first chunk, then entries and tombstones in key order;
//! the same state always makes the same chunks.

use kvmesh_directory::{
    BlockName, Checksum, DirectoryState, Hlc, Incarnation, LogIncarnation, Member, NodeId,
    RingEpoch, Topology,
    state::{Entry, Head, NodeRecord, Restore, Tombstone, TombstoneFloor},
};
use kvmesh_proto::v1 as wire;

use super::{FORMAT, FromWire, ToWire, WireError, all, check_version, each, region, required};

/// Entries, or tombstones, of one chunk.
pub const CHUNK_RECORDS_MAX: usize = 2_048;

impl ToWire for (BlockName, Entry) {
    type Wire = wire::EntryRecord;
    fn to_wire(&self) -> wire::EntryRecord {
        let (name, entry) = self;
        wire::EntryRecord {
            name: Some(name.to_wire()),
            put_hlc: entry.put_hlc.0,
            checksum: entry.checksum.to_wire(),
            bytes: entry.bytes,
            depth: entry.depth,
            wanted: entry.wanted,
            holders: each(&entry.holders),
        }
    }
}

impl FromWire for (BlockName, Entry) {
    type Wire = wire::EntryRecord;
    fn from_wire(wire: wire::EntryRecord) -> Result<Self, WireError> {
        let entry = Entry {
            put_hlc: Hlc(wire.put_hlc),
            checksum: Checksum::from_wire(wire.checksum)?,
            bytes: wire.bytes,
            depth: wire.depth,
            wanted: wire.wanted,
            holders: all(wire.holders)?,
        };
        if entry.holders.is_empty() {
            return Err(WireError::Missing("holders"));
        }
        Ok((required("name", wire.name)?, entry))
    }
}

impl ToWire for (BlockName, Tombstone) {
    type Wire = wire::TombstoneRecord;
    fn to_wire(&self) -> wire::TombstoneRecord {
        wire::TombstoneRecord {
            name: Some(self.0.to_wire()),
            hlc: self.1.hlc.0,
            index: self.1.index,
        }
    }
}

impl FromWire for (BlockName, Tombstone) {
    type Wire = wire::TombstoneRecord;
    fn from_wire(wire: wire::TombstoneRecord) -> Result<Self, WireError> {
        let tombstone = Tombstone {
            hlc: Hlc(wire.hlc),
            index: wire.index,
        };
        Ok((required("name", wire.name)?, tombstone))
    }
}

impl ToWire for Option<NodeRecord> {
    type Wire = wire::NodeRecord;
    fn to_wire(&self) -> wire::NodeRecord {
        match self {
            Some(record) => wire::NodeRecord {
                node: record.node.0,
                incarnation: record.incarnation.0,
                nonce: record.nonce,
                alive: record.alive,
                store: record.store,
                feature_level: record.level,
                free: false,
            },
            None => wire::NodeRecord {
                free: true,
                ..Default::default()
            },
        }
    }
}

impl FromWire for Option<NodeRecord> {
    type Wire = wire::NodeRecord;
    fn from_wire(wire: wire::NodeRecord) -> Result<Self, WireError> {
        let record = NodeRecord {
            node: NodeId(wire.node),
            incarnation: Incarnation(wire.incarnation),
            nonce: wire.nonce,
            alive: wire.alive,
            store: wire.store,
            level: wire.feature_level,
        };
        Ok((!wire.free).then_some(record))
    }
}

impl ToWire for Head {
    type Wire = wire::SnapshotHead;
    fn to_wire(&self) -> wire::SnapshotHead {
        let region = self.topology.region.as_ref();
        wire::SnapshotHead {
            region: region.map_or_else(String::new, ToWire::to_wire),
            log_incarnation: self.log_incarnation.0,
            applied_index: self.applied_index,
            feature_level: self.feature_level,
            ring_epoch: self.topology.epoch.0,
            members: each(&self.topology.members),
            nodes: each(&self.nodes),
            namespaces: each(&self.namespaces),
            tombstone_floor_index: self.floor.index,
            tombstone_floor_hlc: self.floor.hlc.0,
            remote_positions: each(&self.remote_positions),
            hlc_max: self.hlc_max.0,
            leaving: self.topology.leaving.iter().map(|node| node.0).collect(),
            moving: self.topology.is_moving(),
            before: each(self.topology.before.as_deref().unwrap_or_default()),
            voters_wanted: self.topology.voters_wanted,
            incarnations_gone: self.incarnations_gone.0,
        }
    }
}

impl FromWire for Head {
    type Wire = wire::SnapshotHead;
    /// An empty region: the region was not initialised yet.
    fn from_wire(wire: wire::SnapshotHead) -> Result<Self, WireError> {
        let region = match wire.region.as_str() {
            "" => None,
            name => Some(region("region", name)?),
        };
        let members: Vec<Member> = all(wire.members)?;
        let before = all(wire.before)?;
        let voters = members.iter().filter(|member| member.voter).count();
        Ok(Self {
            applied_index: wire.applied_index,
            log_incarnation: LogIncarnation(wire.log_incarnation),
            feature_level: wire.feature_level,
            topology: Topology {
                region,
                epoch: RingEpoch(wire.ring_epoch),
                members,
                leaving: wire.leaving.into_iter().map(NodeId).collect(),
                before: wire.moving.then_some(before),
                voters_wanted: match wire.voters_wanted {
                    0 => u32::try_from(voters).unwrap_or(u32::MAX),
                    wanted => wanted,
                },
            },
            nodes: all(wire.nodes)?,
            incarnations_gone: Incarnation(wire.incarnations_gone),
            namespaces: all(wire.namespaces)?,
            floor: TombstoneFloor {
                index: wire.tombstone_floor_index,
                hlc: Hlc(wire.tombstone_floor_hlc),
            },
            remote_positions: all(wire.remote_positions)?,
            hlc_max: Hlc(wire.hlc_max),
        })
    }
}

/// The chunks of a frozen state, made one at a time: at most [`CHUNK_RECORDS_MAX`] records
/// each, the last one marked.
pub fn chunks(state: DirectoryState) -> impl Iterator<Item = wire::SnapshotChunk> + Send {
    Chunks {
        state,
        next: Some(Stage::Head),
    }
}

/// What the next chunk carries, and the name after which it starts.
#[derive(Clone, Copy)]
enum Stage {
    Head,
    Entries(Option<BlockName>),
    Tombstones(Option<BlockName>),
}

struct Chunks {
    state: DirectoryState,
    next: Option<Stage>,
}

impl Iterator for Chunks {
    type Item = wire::SnapshotChunk;

    fn next(&mut self) -> Option<wire::SnapshotChunk> {
        let mut chunk = wire::SnapshotChunk {
            version: FORMAT,
            ..Default::default()
        };
        self.next = match self.next? {
            Stage::Head => {
                chunk.head = Some(self.state.head().to_wire());
                Some(Stage::Entries(None))
            }
            Stage::Entries(after) => {
                if let Some(after) = &after {
                    self.state.let_go(after);
                }
                let (records, last) = take(self.state.entries_after(after));
                chunk.entries = records;
                Some(last.map_or(Stage::Tombstones(None), |last| Stage::Entries(Some(last))))
            }
            Stage::Tombstones(after) => {
                let (records, last) = take(self.state.tombstones_after(after));
                chunk.tombstones = records;
                last.map(|last| Stage::Tombstones(Some(last)))
            }
        };
        chunk.last = self.next.is_none();
        Some(chunk)
    }
}

/// The records of one chunk, and the last name of a chunk that is full.
fn take<T>(
    records: impl Iterator<Item = (BlockName, T)>,
) -> (Vec<<(BlockName, T) as ToWire>::Wire>, Option<BlockName>)
where
    (BlockName, T): ToWire,
{
    let mut last = None;
    let taken: Vec<_> = records
        .take(CHUNK_RECORDS_MAX)
        .map(|record| {
            last = Some(record.0);
            record.to_wire()
        })
        .collect();
    let full = taken.len() == CHUNK_RECORDS_MAX;
    (taken, last.filter(|_| full))
}

/// Puts a snapshot's chunks together again; each is taken in as it comes, so that no more
/// than one is in memory beside the state.
#[derive(Debug, Default)]
pub struct Assembler {
    restored: Option<Restore>,
}

impl Assembler {
    /// Before the first chunk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk; the state after the last one, and then starts anew.
    ///
    /// # Errors
    /// When a chunk is of a later format, cannot be read, or comes out of turn.
    pub fn push(
        &mut self,
        chunk: wire::SnapshotChunk,
    ) -> Result<Option<DirectoryState>, WireError> {
        check_version("a snapshot", chunk.version)?;
        let mut restored = match (self.restored.take(), chunk.head) {
            (None, None) => return Err(WireError::Missing("head")),
            (Some(_), Some(_)) => {
                return Err(WireError::field("head", "it came twice in one snapshot"));
            }
            (None, Some(head)) => Restore::new(Head::from_wire(head)?),
            (Some(restored), None) => restored,
        };
        for record in chunk.entries {
            let (name, entry) = FromWire::from_wire(record)?;
            restored.entry(name, &entry);
        }
        for record in chunk.tombstones {
            let (name, tombstone) = FromWire::from_wire(record)?;
            restored.tombstone(name, tombstone);
        }
        if chunk.last {
            return Ok(Some(restored.finish()));
        }
        self.restored = Some(restored);
        Ok(None)
    }
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod snapshot_test;
