//! What every storage floor of a node offers.

use std::sync::Arc;

use futures::future::BoxFuture;
use kvmesh_client::Block;
use kvmesh_directory::{BlockName, Copy};

/// One copy of one block: two contents of one name never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyKey {
    /// Which block.
    pub name: BlockName,
    /// Which copy of it.
    pub copy: Copy,
}

/// Kinds of storage floors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierKind {
    /// Host memory.
    Memory,
}

/// What a floor has of a copy.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The block; who reads it keeps its bytes alive.
    Hit(Arc<Block>),
    /// Not here.
    Miss,
}

/// Why a floor could not keep a copy.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// This floor keeps nothing.
    #[error("there is no {0:?} tier on this node")]
    Absent(TierKind),
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
}
