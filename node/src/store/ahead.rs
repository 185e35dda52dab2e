//! Brings copies that only the disk has to memory, ahead of who reads them next.
//!
//! Invariants: wishes are bounded, the oldest go first, and one that nobody comes back for
//! costs at most its own read; so many are read at a time, and only while readers leave turns
//! of the disk. What comes takes free room, or that of copies which were used before it was.
//! Nobody waits for a wish; who asks for a copy that is being read already waits for that
//! read, with an end.
//!
//! Not here: which copies come next (`rpc`).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt, stream::FuturesUnordered};
use kvmesh_client::Block;
use tokio::{
    sync::{Notify, watch},
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{BlockTier, CopyKey, Lookup, Store};

/// Copies that are wished for at a time, over all readers.
const WISHES_MAX: usize = 256;
/// Copies that are read at a time.
const READS: usize = 4;
/// Who asks for a copy that is being read waits so long, and then reads it himself.
const JOIN_MAX: Duration = Duration::from_secs(1);

type Coming = watch::Receiver<Option<Arc<Block>>>;

#[derive(Default)]
struct Wishes {
    /// The oldest first.
    queue: VecDeque<CopyKey>,
    coming: BTreeMap<CopyKey, Coming>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Ahead {
    wishes: Mutex<Wishes>,
    more: Notify,
}

impl Ahead {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, keys: &[CopyKey]) {
        let mut wishes = self.wishes();
        for key in keys {
            if wishes.coming.contains_key(key) || wishes.queue.contains(key) {
                continue;
            }
            if wishes.queue.len() == WISHES_MAX {
                wishes.queue.pop_front();
            }
            wishes.queue.push_back(*key);
        }
        drop(wishes);
        self.more.notify_one();
    }

    /// What a read that is under way brings. None: there is none, or it brought nothing.
    pub(super) async fn join(&self, key: &CopyKey) -> Option<Arc<Block>> {
        let mut coming = self.wishes().coming.get(key).cloned()?;
        let came = timeout(JOIN_MAX, coming.wait_for(Option::is_some)).await;
        let block = came.ok()?.ok()?;
        block.clone()
    }
}

impl Store {
    /// Wishes for copies, that are read next in this order, in memory. With `soon` they count
    /// as used now; else what was used since they were stays where it is.
    pub fn read_ahead(&self, keys: &[CopyKey], soon: bool) {
        let Some(disk) = &self.disk else {
            return;
        };
        let (touched, mut ledger) = (self.now(), self.ledger());
        let mut below = keys.to_vec();
        below.retain(|key| ledger.held(*key).is_some_and(|held| !held.in_memory));
        for key in below.iter().filter(|_| soon) {
            ledger.touch(*key, touched);
        }
        drop(ledger);
        below.retain(|key| disk.has(key));
        if !below.is_empty() {
            self.ahead.wish(&below);
        }
    }

    /// Reads what is wished for, until `stop`.
    pub async fn run_ahead(&self, stop: CancellationToken) {
        let mut reads = FuturesUnordered::new();
        loop {
            while reads.len() < READS
                && let Some((key, came)) = self.next_wish()
            {
                reads.push(self.bring(key, came));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(()) = reads.next(), if !reads.is_empty() => {}
                () = self.ahead.more.notified() => {}
            }
        }
    }

    /// The next copy that there is reason and room for. What readers leave no turn for, or
    /// memory no room, is not wished for any more.
    fn next_wish(&self) -> Option<(CopyKey, watch::Sender<Option<Arc<Block>>>)> {
        let disk = self.disk.as_ref()?;
        loop {
            let key = self.ahead.wishes().queue.pop_front()?;
            if !disk.has_turns() || !self.ledger().has_room_ahead(key) {
                continue;
            }
            let (came, coming) = watch::channel(None);
            self.ahead.wishes().coming.insert(key, coming);
            return Some((key, came));
        }
    }

    async fn bring(&self, key: CopyKey, came: watch::Sender<Option<Arc<Block>>>) {
        let found = match &self.disk {
            Some(disk) => disk.get(key).await,
            None => Lookup::Miss,
        };
        if let Lookup::Hit(block) = found {
            self.promote_ahead(key, &block);
            came.send_replace(Some(block));
        }
        self.ahead.wishes().coming.remove(&key);
    }
}

#[cfg(test)]
#[path = "ahead_test.rs"]
mod ahead_test;
