//! Blocks that clients on this host read where they lie: in segments of their namespace.
//!
//! A block that such a client asks for is moved there once: copied, verified, and the private
//! copy let go. The books do not change, since a block takes the same pages everywhere.

use std::sync::Arc;

use kvmesh_client::{
    Block,
    block::{Assembler, BlockError},
};
use kvmesh_directory::NamespaceId;
use tokio::task::yield_now;

use super::{
    CopyKey, Store,
    arena::{Room, Segment},
};

/// A block in segments; its bytes stay while it is held, also when it is evicted.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) block: Arc<Block>,
    /// Where each of its pieces is.
    pub(crate) places: Vec<(Arc<Segment>, u64)>,
}

/// Why a block is not in segments.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotShared {
    /// They take their part of memory already.
    #[error("the memory for clients on this host is used up")]
    NoRoom,
    /// Its bytes are not what they should be.
    #[error(transparent)]
    Corrupt(#[from] BlockError),
}

impl Store {
    /// Where blocks of a namespace are to be put. None: each piece is an allocation.
    pub(crate) fn room(&self, namespace: NamespaceId) -> Option<Room> {
        self.arena().map(|arena| arena.room(namespace))
    }

    /// A block that memory has, in segments of its namespace.
    pub(crate) async fn shared(
        &self,
        room: &Room,
        key: CopyKey,
        block: Arc<Block>,
    ) -> Result<Shared, NotShared> {
        if let Some(places) = places(room, &block) {
            return Ok(Shared { block, places });
        }
        let mut copy = Assembler::new(block.meta.clone(), true)?;
        for piece in &block.pieces {
            copy.push(room.share(piece).ok_or(NotShared::NoRoom)?)?;
            // Others have their turn between the pieces of a large block.
            yield_now().await;
        }
        let copy = Arc::new(copy.finish()?);
        let places = places(room, &copy).ok_or(NotShared::NoRoom)?;
        self.tier.replace(key, &block, Arc::clone(&copy)).await;
        Ok(Shared {
            block: copy,
            places,
        })
    }
}

fn places(room: &Room, block: &Block) -> Option<Vec<(Arc<Segment>, u64)>> {
    block.pieces.iter().map(|piece| room.find(piece)).collect()
}
