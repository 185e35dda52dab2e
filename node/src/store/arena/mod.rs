//! Host memory for blocks: one large mapping, given out in slots of a piece each, and beside it
//! segments that belong to one namespace each and that clients on this host can map.
//!
//! Pages are touched ahead of their use (touching costs more than copying into them), and only
//! as far as they were ever needed. Who reads a slot keeps it; it is free when the last reader
//! lets go. What segments take, the large mapping gives back of its free pages.
//!
//! Not here: what stays and what goes (`ledger`).

mod granules;
mod map;
mod pools;
mod segment;
mod staging;

use std::{io, sync::Arc};

use bytes::Bytes;
use kvmesh_directory::{NamespaceId, limits::PIECE_BYTES};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use granules::GRANULE_BYTES;
use map::{Map, Slot};
use pools::Pools;
pub(crate) use segment::Segment;
pub(crate) use staging::{NotCopied, Staging, Stagings};

/// Addresses beside the budget, for blocks on their way in, to the disk and to readers: each
/// has a bound of its own. Half of it is far more than all of them together take by default.
const BESIDE_PART: u64 = 2;

/// See the module.
#[derive(Debug, Clone)]
pub struct Arena(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    map: Arc<Map>,
    grown: Notify,
    budget: u64,
    pools: Pools,
}

/// Where the blocks of one namespace are put: into its segments, if it has them.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    arena: Arena,
    namespace: NamespaceId,
}

/// A namespace has a client on this host, until this is dropped.
#[derive(Debug)]
pub(crate) struct Guest(Room);

/// How an arena is used, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Given out, in whole granules.
    pub taken: u64,
    /// Free beside what is taken, too small for a whole piece.
    pub scattered: u64,
    /// Of the mapping.
    pub total: u64,
    /// Of segments, beside the mapping.
    pub shared: u64,
}

/// What a block of this size takes of memory: only its last piece can leave a part of a page.
#[must_use]
pub const fn footprint(bytes: u64) -> u64 {
    let granule = GRANULE_BYTES as u64;
    bytes.div_ceil(granule).saturating_mul(granule)
}

impl Arena {
    /// Reserves addresses for a budget and what is beside it; memory is taken as it is used.
    ///
    /// # Errors
    /// When the kernel does not map so much, or has no huge pages though they are wished.
    pub fn for_budget(bytes: u64, huge_pages: bool) -> io::Result<Self> {
        Self::new(bytes, bytes.saturating_add(bytes / BESIDE_PART), huge_pages)
    }

    fn new(budget: u64, mapped: u64, huge_pages: bool) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            map: Arc::new(Map::new(mapped, huge_pages)?),
            grown: Notify::new(),
            budget,
            pools: Pools::for_budget(budget),
        })))
    }

    /// Where blocks of a namespace are put.
    pub(crate) fn room(&self, namespace: NamespaceId) -> Room {
        let arena = self.clone();
        Room { arena, namespace }
    }

    /// Lets empty segments go, and as many free pages as those that are left take.
    pub fn tend(&self) {
        self.0.pools.retire();
        let shared = self.0.pools.bytes();
        let chunks = self.0.budget.saturating_sub(shared) / PIECE_BYTES as u64;
        self.0.map.granules().keep_resident(match shared {
            0 => usize::MAX,
            _ => usize::try_from(chunks).unwrap_or(usize::MAX),
        });
        self.0.map.trim();
    }

    /// Room for one piece. None: there is none, also because readers hold what was evicted.
    fn slot(&self, bytes: usize) -> Option<Slot> {
        let slot = Slot::new(&self.0.map, bytes)?;
        self.0.grown.notify_one();
        Some(slot)
    }

    /// Copies a piece, unless it is here already. None: there is no room.
    fn keep(&self, piece: &Bytes) -> Option<Bytes> {
        if self.0.map.contains(piece) {
            return Some(piece.clone());
        }
        copied(self.slot(piece.len())?, piece)
    }

    /// How it is used.
    #[must_use]
    pub fn space(&self) -> Space {
        let granules = self.0.map.granules();
        let bytes = |granules: usize| (granules * GRANULE_BYTES) as u64;
        Space {
            taken: bytes(granules.taken()),
            scattered: bytes(granules.scattered()),
            total: self.0.map.bytes() as u64,
            shared: self.0.pools.bytes(),
        }
    }

    /// Keeps `ahead` bytes of pages present before their use, until `stop`.
    pub async fn touch_ahead(self, ahead: usize, stop: CancellationToken) {
        let mut touched = 0;
        loop {
            let used = self.0.map.granules().high_water() * GRANULE_BYTES;
            if touched >= self.0.map.bytes() {
                return;
            }
            if used + ahead / 2 > touched {
                let (map, bytes) = (Arc::clone(&self.0.map), used + ahead - touched);
                let touching = tokio::task::spawn_blocking(move || map.populate(touched, bytes));
                match touching.await {
                    Ok(Ok(())) => touched += bytes,
                    Ok(Err(error)) => {
                        warn!(%error, "memory cannot be touched ahead: puts will take longer");
                        return;
                    }
                    Err(_) => return,
                }
                continue;
            }
            tokio::select! {
                () = self.0.grown.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

fn copied(mut slot: Slot, piece: &[u8]) -> Option<Bytes> {
    slot.push(piece).then(|| slot.freeze())
}

impl Room {
    /// Copies a piece, unless it is where it belongs already. None: there is no room.
    pub(crate) fn keep(&self, piece: &Bytes) -> Option<Bytes> {
        self.share(piece).or_else(|| self.arena.keep(piece))
    }

    /// As [`Self::keep`], into a segment only.
    pub(crate) fn share(&self, piece: &Bytes) -> Option<Bytes> {
        if self.find(piece).is_some() {
            return Some(piece.clone());
        }
        let pools = &self.arena.0.pools;
        copied(pools.slot(self.namespace, piece.len())?, piece)
    }

    /// Room for one piece, where it belongs. None: there is none.
    fn slot(&self, bytes: usize) -> Option<Slot> {
        let shared = self.arena.0.pools.slot(self.namespace, bytes);
        shared.or_else(|| self.arena.slot(bytes))
    }

    /// The segment that a piece lies in, and where. None: it is private.
    pub(crate) fn find(&self, piece: &[u8]) -> Option<(Arc<Segment>, u64)> {
        self.arena.0.pools.find(self.namespace, piece)
    }

    /// A client of the namespace came: from now on its blocks are shared.
    pub(crate) fn enter(self) -> Guest {
        self.arena.0.pools.enter(self.namespace);
        Guest(self)
    }
}

impl std::ops::Deref for Guest {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.0
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.arena.0.pools.leave(self.namespace);
    }
}

#[cfg(test)]
#[path = "shared_test.rs"]
mod shared_test;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_stays_until_its_last_reader_lets_go() {
        let arena = Arena::new(2 << 20, 2 << 20, false).unwrap();
        let piece = Bytes::from(vec![7; 1 << 20]);
        let first = arena.keep(&piece).unwrap();
        assert_eq!(first, piece);
        let second = arena.keep(&piece).unwrap();
        assert!(arena.keep(&piece).is_none(), "full");
        assert!(arena.keep(&first).is_some(), "it is here already");
        let (reader, part) = (first.clone(), first.slice(10..20));
        drop(first);
        drop(reader);
        assert!(arena.keep(&piece).is_none(), "a part of it is being read");
        assert_eq!(part, piece.slice(10..20));
        drop(part);
        assert!(arena.keep(&piece).is_some());
        drop((second, arena));
    }

    #[test]
    fn a_slot_takes_no_more_than_its_room_and_shows_only_what_was_put() {
        let arena = Arena::new(1, 1, false).unwrap();
        let mut slot = arena.slot(5_000).unwrap();
        assert!(slot.push(&[1; 4_000]) && slot.push(&[2; 4_000]));
        assert!(!slot.push(&[3; 193]));
        let bytes = slot.freeze();
        assert_eq!(bytes.len(), 8_000);
        assert!(bytes[..4_000].iter().all(|byte| *byte == 1));
        assert_eq!((arena.space().taken, footprint(5_000)), (8_192, 8_192));
        drop(bytes);
        let again = arena.slot(8_192).unwrap().freeze();
        assert!(again.is_empty(), "nothing of before is seen");
    }

    #[tokio::test]
    async fn pages_are_touched_ahead_of_use_and_not_all_of_them() {
        let arena = Arena::new(1 << 30, 1 << 30, false).unwrap();
        let stop = CancellationToken::new();
        let resident = || resident_of_this_process();
        let before = resident();
        let ahead = 64 << 20;
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(arena.clone().touch_ahead(ahead, stop.clone()));
        let touched = async {
            while resident() < before + ahead as u64 / 2 {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, touched).await.unwrap();
        assert!(resident() < before + (512 << 20));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    fn resident_of_this_process() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4_096
    }
}
