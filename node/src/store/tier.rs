//! What every storage floor of a node offers.

use std::sync::Arc;

use futures::future::BoxFuture;
use kvmesh_client::{Block, BlockMeta, Encoding};
use kvmesh_directory::{BlockName, Checksum, Copy, Hlc};

/// One copy of one block: two contents of one name never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyKey {
    /// Which block.
    pub name: BlockName,
    /// Which copy of it.
    pub copy: Copy,
}

/// What is known of a copy without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brief {
    /// Size of the block.
    pub bytes: u64,
    /// Position in its chain.
    pub depth: u32,
    /// Its content.
    pub checksum: Checksum,
    /// Stamped at the first put.
    pub put_hlc: Hlc,
    /// The lossy encoding that it went through.
    pub transcoded: Option<Encoding>,
}

impl Brief {
    /// Of a block.
    #[must_use]
    pub fn of(meta: &BlockMeta) -> Self {
        Self {
            bytes: meta.bytes,
            depth: meta.depth,
            checksum: meta.checksum,
            put_hlc: meta.put_hlc,
            transcoded: meta.transcoded,
        }
    }
}

/// Kinds of storage floors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierKind {
    /// Host memory.
    Memory,
    /// A disk of the node's own.
    Disk,
    /// Memory of a device.
    Gpu,
}

/// What a floor has of a copy.
#[derive(Debug, Clone)]
pub enum Lookup<T = Arc<Block>> {
    /// The block; who reads it keeps its bytes alive.
    Hit(T),
    /// Not here.
    Miss,
    /// Perhaps here, but this floor has no turn for a read now.
    Busy,
}

impl<T> Lookup<T> {
    /// What was found; `missing` is told of a copy that is not here. One that could not be read now
    /// is no such copy.
    pub fn or_missing(self, missing: impl FnOnce()) -> Option<T> {
        match self {
            Self::Hit(found) => Some(found),
            Self::Miss => {
                missing();
                None
            }
            Self::Busy => None,
        }
    }
}

/// Why a floor could not keep a copy.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// This floor keeps nothing.
    #[error("there is no {0:?} tier on this node")]
    Absent(TierKind),
    /// This floor takes nothing now.
    #[error("the {0:?} tier takes no blocks now")]
    Busy(TierKind),
}

/// One storage floor of a node. A tier never calls another tier, and decides nothing:
/// what stays and what goes is the ledger's.
pub trait BlockTier: Send + Sync {
    /// Which floor.
    fn kind(&self) -> TierKind;
    /// The bytes of a copy.
    fn get(&self, key: CopyKey) -> BoxFuture<'_, Lookup>;
    /// Keeps a copy, whole or not at all.
    fn put(&self, key: CopyKey, block: Arc<Block>) -> BoxFuture<'_, Result<(), TierError>>;
    /// Lets a copy go; nothing when it is not here.
    fn remove(&self, key: CopyKey) -> BoxFuture<'_, ()>;
    /// Gives a copy another number, without touching its bytes. None: it is not here.
    fn rename(&self, old: CopyKey, new: CopyKey) -> BoxFuture<'_, Option<Brief>>;
    /// Keeps the same bytes elsewhere, unless the copy is not the `old` one any more. False: it
    /// was not moved, as in tiers whose bytes have one place only.
    fn replace<'a>(
        &'a self,
        _key: CopyKey,
        _old: &'a Arc<Block>,
        _new: Arc<Block>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async { false })
    }
}

/// Always misses: for tests, and for nodes without the hardware.
#[derive(Debug, Clone, Copy)]
pub struct NoopTier(pub TierKind);

impl BlockTier for NoopTier {
    fn kind(&self) -> TierKind {
        self.0
    }

    fn get(&self, _key: CopyKey) -> BoxFuture<'_, Lookup> {
        Box::pin(async { Lookup::Miss })
    }

    fn put(&self, _key: CopyKey, _block: Arc<Block>) -> BoxFuture<'_, Result<(), TierError>> {
        Box::pin(async { Err(TierError::Absent(self.0)) })
    }

    fn remove(&self, _key: CopyKey) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn rename(&self, _old: CopyKey, _new: CopyKey) -> BoxFuture<'_, Option<Brief>> {
        Box::pin(async { None })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_copy_that_cannot_be_read_now_is_not_told_as_missing() {
        let block = Arc::new(Block::of(&Bytes::from_static(b"bytes"), 0));
        let table = [
            (Lookup::Hit(Arc::clone(&block)), Some(block), false),
            (Lookup::Busy, None, false),
            (Lookup::Miss, None, true),
        ];
        for (lookup, want, told) in table {
            let mut missing = false;
            assert_eq!(lookup.or_missing(|| missing = true), want);
            assert_eq!(missing, told);
        }
    }
}
