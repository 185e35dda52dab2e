//! The blocks that this node holds: the ledger decides what stays, tiers keep the bytes.
//!
//! Invariants: a copy is inserted whole or not at all; what the ledger lists, a tier
//! has (but for the moment of a put or an eviction); what was evicted is reported. A copy is
//! held while any tier has it.
//!
//! Not here: who should hold what (`write`, `repair`), nor what is committed (`applied`).

mod aging;
mod ahead;
pub mod arena;
mod budget;
pub mod disk;
mod floors;
pub mod gpu;
mod leases;
mod ledger;
mod lifting;
#[cfg(test)]
mod made;
mod memory;
mod order;
mod pool;
mod recall;
mod retention;
mod sharing;
mod tier;
mod trial;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvmesh_client::{Block, BlockMeta, Ranges, lease::LeaseId, ranges::Pieces};
use kvmesh_directory::{BlockName, Copy, Hlc, NamespaceId};
use tokio::time::{Duration, Instant};

pub use aging::Sweep;
use arena::{Arena, footprint};
pub use budget::memory_for_blocks;
pub use floors::FOUND;
pub use leases::{Granted, Leases};
pub use ledger::{Admission, COPY_OVERHEAD_BYTES, CopyState, Full, Gone, Held, Ledger, Pin};
pub use lifting::Lifted;
pub use memory::MemoryTier;
pub(crate) use sharing::NotShared;
pub use tier::{BlockTier, Brief, CopyKey, Lookup, NoopTier, TierError, TierKind};

/// Why a copy could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// No room, also after evicting.
    #[error(transparent)]
    Full(#[from] Full),
    /// The tier failed.
    #[error(transparent)]
    Tier(#[from] TierError),
}

/// How much is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes counted, with the books of each copy.
    pub used: u64,
    /// The budget.
    pub max: u64,
    /// Copies.
    pub copies: u64,
    /// Copies that are not claimed yet.
    pub provisional: u64,
    /// Copies that are not evicted, because somebody leased them.
    pub pinned: u64,
    /// What these take, with the books of each copy.
    pub pinned_bytes: u64,
}

/// All copies of this node.
pub struct Store {
    /// Locked before the ledger where both are.
    leases: Mutex<Leases>,
    ledger: Mutex<Ledger>,
    /// Memory.
    tier: Arc<dyn BlockTier>,
    disk: Option<disk::DiskTier>,
    gpu: Option<gpu::GpuTier>,
    ahead: ahead::Ahead,
    /// Where memory's bytes are; none: each piece is an allocation.
    arena: Option<Arena>,
    started: Instant,
}

impl Store {
    /// An empty store over a tier.
    #[must_use]
    pub fn new(tier: Arc<dyn BlockTier>, memory_bytes: u64) -> Self {
        Self {
            leases: Mutex::default(),
            ledger: Mutex::new(Ledger::new(memory_bytes)),
            tier,
            disk: None,
            gpu: None,
            ahead: ahead::Ahead::default(),
            arena: None,
            started: Instant::now(),
        }
    }

    /// Over memory that is mapped once.
    #[must_use]
    pub fn with_arena(self, arena: Arena) -> Self {
        Self {
            arena: Some(arena),
            ..self
        }
    }

    /// Where blocks that come in are to be put.
    #[must_use]
    pub fn arena(&self) -> Option<&Arena> {
        self.arena.as_ref()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Recency in whole seconds: blocks of one chain that are put or read together count
    /// as touched together, and so go leaf before root.
    fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Keeps a copy provisionally. Returns the copies that had to go for it.
    ///
    /// # Errors
    /// When there is no room; nothing was evicted then.
    pub async fn keep(&self, key: CopyKey, block: Arc<Block>) -> Result<Vec<CopyKey>, KeepError> {
        let admission = Admission {
            bytes: footprint(block.meta.bytes),
            depth: block.meta.depth,
            checksum: block.meta.checksum,
            put_hlc: block.meta.put_hlc,
            transcoded: block.meta.transcoded,
            touched: self.now(),
            since: Instant::now(),
        };
        let evicted = {
            let mut ledger = self.ledger();
            let gone = ledger.admit_over(key, admission, |victim| self.saved(victim))?;
            self.demoted(&gone.demoted);
            gone.evicted
        };
        for gone in &evicted {
            self.let_go(*gone).await;
        }
        if let Err(error) = self.tier.put(key, block).await {
            self.ledger().remove(key);
            return Err(error.into());
        }
        Ok(evicted)
    }

    /// Brings the budget to `memory_bytes`, or as near as it gets by letting at most `at_most`
    /// copies go out of memory; returns those that no other tier has. What is leased or not claimed yet does not go.
    pub async fn resize(&self, memory_bytes: u64, at_most: usize) -> Vec<CopyKey> {
        let evicted = {
            let (second, mut ledger) = (self.now(), self.ledger());
            let gone = ledger.resize(memory_bytes, at_most, second, |victim| self.saved(victim));
            self.demoted(&gone.demoted);
            gone.evicted
        };
        for gone in &evicted {
            self.let_go(*gone).await;
        }
        evicted
    }

    /// The bytes of a copy; renews its recency.
    pub async fn read(&self, key: CopyKey) -> Lookup {
        let touched = self.now();
        if !self.ledger().touch(key, touched) {
            return Lookup::Miss;
        }
        match self.tier.get(key).await {
            Lookup::Miss => self.read_below(key, true).await,
            other => {
                self.wish(key);
                other
            }
        }
    }

    /// As [`Self::read`], for a copy that is made elsewhere: it renews nothing, and nothing makes
    /// room for it.
    pub async fn read_aside(&self, key: CopyKey) -> Lookup {
        if self.ledger().held(key).is_none() {
            return Lookup::Miss;
        }
        match self.tier.get(key).await {
            Lookup::Miss => self.read_below(key, false).await,
            other => other,
        }
    }

    /// As [`Self::read`], of the pieces that ranges touch: the copy has them.
    pub async fn read_pieces(&self, key: CopyKey, ranges: &Ranges) -> Lookup<Pieces> {
        let touched = self.now();
        if !self.ledger().touch(key, touched) {
            return Lookup::Miss;
        }
        match self.tier.get(key).await {
            Lookup::Miss => self.pieces_below(key, ranges).await,
            Lookup::Busy => Lookup::Busy,
            Lookup::Hit(block) => {
                self.wish(key);
                Lookup::Hit(Pieces::of(&block, ranges))
            }
        }
    }

    /// Lets a copy go from every tier; the ledger does not list it.
    async fn let_go(&self, key: CopyKey) {
        self.tier.remove(key).await;
        if let Some(disk) = &self.disk {
            disk.forget(&key);
        }
        if let Some(gpu) = &self.gpu {
            gpu.forget(&key);
        }
    }

    /// Renews the recency of copies.
    pub fn touch(&self, keys: &[CopyKey]) {
        let (touched, mut ledger) = (self.now(), self.ledger());
        for key in keys {
            ledger.touch(*key, touched);
        }
    }

    /// Notes that a copy is committed, of a block with this clock. False: there is no such
    /// copy.
    pub fn claim(&self, key: CopyKey, put_hlc: Hlc) -> bool {
        let mut ledger = self.ledger();
        let known = ledger.claim(key, put_hlc);
        if known {
            self.write_behind(key);
        }
        known
    }

    /// Starts the time of a copy anew that is not claimed yet. False: it is over already.
    #[must_use]
    pub fn renew(&self, key: CopyKey) -> bool {
        self.ledger().renew(key, Instant::now())
    }

    /// Whether memory is full, and what would go first for a block of a namespace was used in
    /// the last `age`.
    #[must_use]
    pub fn is_worth_more(&self, namespace: NamespaceId, bytes: u64, age: Duration) -> bool {
        let since = self.now().checked_sub(age.as_secs());
        self.ledger()
            .would_give_up_since(namespace, footprint(bytes), since)
    }

    /// Whether a copy is here.
    #[must_use]
    pub fn holds(&self, key: CopyKey) -> bool {
        self.ledger().held(key).is_some()
    }

    /// Whether a copy went through a lossy encoding.
    #[must_use]
    pub fn is_transcoded(&self, key: CopyKey) -> bool {
        let ledger = self.ledger();
        ledger
            .held(key)
            .is_some_and(|held| held.transcoded.is_some())
    }

    /// A copy of a block with this content and clock, if there is one, for another one that is
    /// about to claim it: until its time is over, nobody else's refusal takes it away.
    #[must_use]
    pub fn join(&self, name: &BlockName, meta: &BlockMeta) -> Option<Copy> {
        let content = (meta.checksum, meta.put_hlc);
        self.ledger().join(name, content, Instant::now())
    }

    /// Lets a copy go.
    pub async fn remove(&self, key: CopyKey) -> bool {
        let known = self.ledger().remove(key).is_some();
        self.let_go(key).await;
        known
    }

    /// Lets the copy of a refused put go, unless it is committed or another put relies on it.
    pub async fn withdraw(&self, key: CopyKey) {
        let gone = self.ledger().withdraw(key);
        if gone.is_some() {
            self.let_go(key).await;
        }
    }

    /// Lets a copy go that the directory does not list any more; one that another put joined
    /// less than `ttl` ago waits for that one's claim.
    pub async fn unlisted(&self, key: CopyKey, ttl: Duration) {
        let gone = self.ledger().unlisted(key, Instant::now(), ttl);
        if gone.is_some() {
            self.let_go(key).await;
        }
    }

    /// Drops the copies that stayed unclaimed for too long; returns how many.
    pub async fn expire(&self, ttl: Duration) -> usize {
        let expired = match Instant::now().checked_sub(ttl) {
            Some(before) => self.ledger().expire(before),
            None => Vec::new(),
        };
        for key in &expired {
            self.let_go(*key).await;
        }
        expired.len()
    }

    /// Every copy, in key order.
    #[must_use]
    pub fn inventory(&self) -> Vec<(CopyKey, Held)> {
        self.ledger().inventory()
    }

    /// Leases copies for `hold`, under a name that the caller chose: they are not evicted
    /// meanwhile. A lease that exists gets them in addition and is renewed.
    pub fn lease(
        &self,
        lease: (NamespaceId, LeaseId),
        wished: &[Option<CopyKey>],
        hold: Duration,
    ) -> Granted {
        let (mut leases, mut ledger) = (self.leases(), self.ledger());
        let now = Instant::now();
        leases.expire(&mut ledger, now);
        leases.take(&mut ledger, lease, wished, now + hold)
    }

    /// Names the copies that are to go, instead of those named before: no lease keeps them
    /// for longer than it does now.
    pub fn set_going(&self, going: BTreeSet<CopyKey>) {
        self.leases().set_going(going);
    }

    /// Renews a lease; says how many of its copies are still here. None: it has ended, never
    /// was, or covers a copy that is to go.
    pub fn renew_lease(&self, lease: (NamespaceId, LeaseId), hold: Duration) -> Option<usize> {
        let mut leases = self.leases();
        leases.renew(&self.ledger(), lease, Instant::now(), hold)
    }

    /// Whether somebody has leased a copy.
    #[must_use]
    pub fn is_leased(&self, key: CopyKey) -> bool {
        self.ledger().is_pinned(key)
    }

    /// Ends a lease; says how many copies it covered.
    pub fn release_lease(&self, lease: (NamespaceId, LeaseId)) -> usize {
        let mut leases = self.leases();
        leases.release(&mut self.ledger(), lease)
    }

    /// Ends the leases whose time is up; says how many are left.
    pub fn expire_leases(&self) -> usize {
        let (mut leases, mut ledger) = (self.leases(), self.ledger());
        leases.expire(&mut ledger, Instant::now());
        leases.count()
    }

    /// How much is held.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.ledger().usage()
    }
}
