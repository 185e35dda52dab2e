//! Copies that have outlived their namespace's TTL, or its consent to lossy ones, found a bounded
//! number at a time.
//!
//! A copy's time runs from when it was put, copied or filled here, and anew from a put that
//! found it here. The sweep looks at copies in key order, so that no index by age is kept:
//! with many copies it comes round less often, and a copy stays that much longer.

use kvmesh_directory::NamespaceId;
use tokio::time::{Duration, Instant};

use super::{CopyKey, Store};

/// Where a sweep goes on.
#[derive(Debug, Default)]
pub struct Sweep {
    after: Option<CopyKey>,
}

impl Store {
    /// Looks at the next copies of a sweep, at most `looked_at`; returns those that have
    /// outlived what `ttl` says of their namespace, and of whether they went through a lossy
    /// encoding (none: they do not expire). What is leased or not committed yet is passed over.
    pub fn outlived(
        &self,
        sweep: &mut Sweep,
        looked_at: usize,
        ttl: impl Fn(NamespaceId, bool) -> Option<Duration>,
    ) -> Vec<CopyKey> {
        let now = Instant::now();
        let batch = self.ledger().kept_after(sweep.after, looked_at);
        sweep.after = match batch.len() == looked_at {
            true => batch.last().map(|(key, _)| *key),
            false => None,
        };
        let mut known: Option<((NamespaceId, bool), Option<Duration>)> = None;
        let mut outlived = Vec::new();
        for (key, kept) in batch {
            let Some((kept, lossy)) = kept else { continue };
            let of = (key.name.namespace, lossy);
            let ttl = match known {
                Some((last, ttl)) if last == of => ttl,
                _ => {
                    let ttl = ttl(of.0, of.1);
                    known = Some((of, ttl));
                    ttl
                }
            };
            if ttl.is_some_and(|ttl| now.duration_since(kept) >= ttl) {
                outlived.push(key);
            }
        }
        outlived
    }

    /// A put found this copy here: its time runs anew.
    pub fn put_again(&self, key: CopyKey) {
        self.ledger().put_again(key, Instant::now());
    }

    /// Which bytes of each namespace stay its own when memory is short.
    pub fn set_shares(&self, permille: impl Iterator<Item = (NamespaceId, u32)>) {
        let max = self.usage().max;
        let share = |permille: u32| max / 1_000 * u64::from(permille);
        // 0 means no share, 1000 no bound.
        let bound = permille.filter(|(_, permille)| (1..1_000).contains(permille));
        let shares = bound.map(|(id, permille)| (id, share(permille))).collect();
        self.ledger().set_shares(shares);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use kvmesh_client::Block;
    use kvmesh_directory::{
        BlockHash, BlockName, Copy, CopyNumber, Hlc, Incarnation, NodeId, Part,
    };

    use super::*;
    use crate::store::MemoryTier;

    fn key(namespace: u8, number: u64) -> CopyKey {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        let name = BlockName {
            namespace: NamespaceId([namespace; 16]),
            hash: BlockHash(hash),
            part: Part::default(),
        };
        let copy = Copy {
            node: NodeId(1),
            incarnation: Incarnation(1),
            copy: CopyNumber(number),
        };
        CopyKey { name, copy }
    }

    async fn keep(store: &Store, key: CopyKey) {
        let block = Block::of(&Bytes::from_static(b"bytes"), 0);
        store.keep(key, Arc::new(block)).await.unwrap();
    }

    fn ttl(id: NamespaceId, _: bool) -> Option<Duration> {
        (id == NamespaceId([1; 16])).then_some(Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_expires_when_its_time_is_over_and_not_before() {
        let store = Store::new(Arc::new(MemoryTier::default()), 1 << 20);
        let mut sweep = Sweep::default();
        for (namespace, number) in [(1, 1), (1, 2), (1, 3), (2, 4)] {
            keep(&store, key(namespace, number)).await;
            // One is never committed.
            assert!(number == 3 || store.claim(key(namespace, number), Hlc(1)));
        }
        let mut outlived = || store.outlived(&mut sweep, 100, ttl);
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert_eq!(outlived(), []);
        store.put_again(key(1, 2));
        store.touch(&[key(1, 1)]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(
            outlived(),
            [key(1, 1)],
            "a read does not prolong it, a put does"
        );
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(outlived(), [key(1, 1), key(1, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_leased_outlives_its_time() {
        let store = Store::new(Arc::new(MemoryTier::default()), 1 << 20);
        keep(&store, key(1, 1)).await;
        assert!(store.claim(key(1, 1), Hlc(1)));
        assert_eq!(store.ledger().pin(key(1, 1)), crate::store::Pin::Pinned);
        tokio::time::advance(Duration::from_secs(61)).await;
        let mut sweep = Sweep::default();
        assert_eq!(store.outlived(&mut sweep, 100, ttl), []);
        store.ledger().unpin(key(1, 1));
        assert_eq!(store.outlived(&mut sweep, 100, ttl), [key(1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_goes_round_in_bounded_steps() {
        let store = Store::new(Arc::new(MemoryTier::default()), 1 << 20);
        for number in 0..10 {
            keep(&store, key(1, number)).await;
            assert!(store.claim(key(1, number), Hlc(1)));
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        let mut sweep = Sweep::default();
        for want in [0..4, 4..8, 8..10, 0..4] {
            let want: Vec<CopyKey> = want.map(|number| key(1, number)).collect();
            assert_eq!(store.outlived(&mut sweep, 4, ttl), want);
        }
    }
}
