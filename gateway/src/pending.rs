//! Names of blocks that are being put through this gateway right now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use kvmesh_directory::BlockName;

/// Bounded by the blocks that all calls may have under way.
#[derive(Clone, Default)]
pub(crate) struct Pending {
    names: Arc<Mutex<HashMap<BlockName, u32>>>,
}

/// A put under way, until dropped.
pub(crate) struct UnderWay {
    pending: Pending,
    name: BlockName,
}

impl Pending {
    pub(crate) fn begin(&self, name: BlockName) -> UnderWay {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        *names.entry(name).or_default() += 1;
        UnderWay {
            pending: self.clone(),
            name,
        }
    }

    pub(crate) fn has(&self, name: &BlockName) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains_key(name)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let names = self.pending.names.lock();
        let mut names = names.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
    }
}
