//! The policies that the product is compared with, each the obvious way.
//!
//! All but `Lru` know nothing of chains: a request's blocks are shown to them leaf first, so
//! that roots count as used last. Sizes are in blocks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

/// A cache of blocks.
pub(crate) trait Policy {
    fn holds(&self, block: u32) -> bool;
    /// A request for a whole chain: what is held of it is used, the rest put.
    fn ask(&mut self, second: u64, chain: &[u32]);
}

/// Least recent second first, of the equally recent the deepest. Makes room before it takes a
/// block, as whoever must hold what was put does.
pub(crate) struct Lru {
    max: usize,
    order: BTreeSet<(u64, Reverse<usize>, u32)>,
    held: HashMap<u32, (u64, usize)>,
}

impl Lru {
    pub(crate) fn new(max: usize) -> Self {
        let (order, held) = Default::default();
        Self { max, order, held }
    }
}

impl Policy for Lru {
    fn holds(&self, block: u32) -> bool {
        self.held.contains_key(&block)
    }

    fn ask(&mut self, second: u64, chain: &[u32]) {
        let chain = || chain.iter().enumerate();
        for (depth, block) in chain() {
            if let Some((touched, _)) = self.held.get_mut(block) {
                self.order.remove(&(*touched, Reverse(depth), *block));
                self.order.insert((second, Reverse(depth), *block));
                *touched = second;
            }
        }
        for (depth, block) in chain() {
            if self.held.contains_key(block) {
                continue;
            }
            if self.held.len() >= self.max {
                let gone = self.order.pop_first();
                self.held
                    .remove(&gone.expect("each held block is listed").2);
            }
            self.held.insert(*block, (second, depth));
            self.order.insert((second, Reverse(depth), *block));
        }
    }
}

/// First in, first out.
pub(crate) struct Fifo {
    max: usize,
    queue: VecDeque<u32>,
    held: HashSet<u32>,
}

impl Fifo {
    pub(crate) fn new(max: usize) -> Self {
        let (queue, held) = Default::default();
        Self { max, queue, held }
    }
}

impl Policy for Fifo {
    fn holds(&self, block: u32) -> bool {
        self.held.contains(&block)
    }

    fn ask(&mut self, _second: u64, chain: &[u32]) {
        for block in chain.iter().rev() {
            if self.held.insert(*block) {
                self.queue.push_back(*block);
            }
            if self.held.len() > self.max {
                let gone = self.queue.pop_front();
                self.held.remove(&gone.expect("each held block is queued"));
            }
        }
    }
}

/// A list in the order of use.
#[derive(Default)]
struct Recent {
    order: BTreeMap<u64, u32>,
    at: HashMap<u32, u64>,
    next: u64,
}

impl Recent {
    fn push(&mut self, block: u32) {
        self.remove(block);
        self.at.insert(block, self.next);
        self.order.insert(self.next, block);
        self.next += 1;
    }

    fn remove(&mut self, block: u32) -> bool {
        let at = self.at.remove(&block);
        at.is_some_and(|at| self.order.remove(&at).is_some())
    }

    fn first(&self) -> Option<u32> {
        self.order.first_key_value().map(|(_, block)| *block)
    }

    fn pop(&mut self) -> Option<u32> {
        let block = self.first()?;
        self.remove(block);
        Some(block)
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a tenth for newcomers, a main queue with two bits a
/// block, ghosts as many as the main queue holds.
pub(crate) struct S3Fifo {
    max: usize,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: Recent,
    /// Uses, at most 3.
    held: HashMap<u32, u8>,
}

impl S3Fifo {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: Recent::default(),
            held: HashMap::new(),
        }
    }

    fn evict(&mut self) {
        while self.small.len() > self.max / 10 || self.main.is_empty() {
            let Some(block) = self.small.pop_front() else {
                return;
            };
            if self.held[&block] > 1 {
                self.held.insert(block, 0);
                self.main.push_back(block);
                continue;
            }
            self.held.remove(&block);
            self.ghosts.push(block);
            if self.ghosts.at.len() > self.max - self.max / 10 {
                self.ghosts.pop();
            }
            return;
        }
        while let Some(block) = self.main.pop_front() {
            let uses = self.held.get_mut(&block).expect("what is queued is held");
            if *uses == 0 {
                self.held.remove(&block);
                return;
            }
            *uses -= 1;
            self.main.push_back(block);
        }
    }
}

impl Policy for S3Fifo {
    fn holds(&self, block: u32) -> bool {
        self.held.contains_key(&block)
    }

    fn ask(&mut self, _second: u64, chain: &[u32]) {
        for block in chain.iter().rev() {
            if let Some(uses) = self.held.get_mut(block) {
                *uses = (*uses + 1).min(3);
                continue;
            }
            if self.held.len() >= self.max {
                self.evict();
            }
            self.held.insert(*block, 0);
            match self.ghosts.remove(*block) {
                true => self.main.push_back(*block),
                false => self.small.push_back(*block),
            }
        }
    }
}

/// SIEVE (Zhang et al., NSDI 2024): one queue, one bit a block, a hand that stays where it
/// stopped.
pub(crate) struct Sieve {
    max: usize,
    /// By a number that grows: the oldest first.
    queue: BTreeMap<u64, u32>,
    held: HashMap<u32, (u64, bool)>,
    hand: u64,
    next: u64,
}

impl Sieve {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            queue: BTreeMap::new(),
            held: HashMap::new(),
            hand: 0,
            next: 0,
        }
    }

    fn evict(&mut self) {
        loop {
            let after = self.queue.range(self.hand..).next();
            let Some((at, block)) = after.or_else(|| self.queue.first_key_value()) else {
                return;
            };
            let (at, block) = (*at, *block);
            self.hand = at + 1;
            let used = &mut self.held.get_mut(&block).expect("what is queued is held").1;
            if !std::mem::take(used) {
                self.held.remove(&block);
                self.queue.remove(&at);
                return;
            }
        }
    }
}

impl Policy for Sieve {
    fn holds(&self, block: u32) -> bool {
        self.held.contains_key(&block)
    }

    fn ask(&mut self, _second: u64, chain: &[u32]) {
        for block in chain.iter().rev() {
            if let Some((_, used)) = self.held.get_mut(block) {
                *used = true;
                continue;
            }
            if self.held.len() >= self.max {
                self.evict();
            }
            self.held.insert(*block, (self.next, false));
            self.queue.insert(self.next, *block);
            self.next += 1;
        }
    }
}

/// W-TinyLFU (Einziger et al., TOS 2017): a window of 1 %, a main part of which four fifths
/// are protected, and counts of all uses in a sketch that is halved after ten uses a block.
pub(crate) struct TinyLfu {
    max: usize,
    window: Recent,
    probation: Recent,
    protected: Recent,
    counts: Vec<u8>,
    uses: usize,
}

impl TinyLfu {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            window: Recent::default(),
            probation: Recent::default(),
            protected: Recent::default(),
            counts: vec![0; (max * 4).next_power_of_two()],
            uses: 0,
        }
    }

    fn places(&self, block: u32) -> impl Iterator<Item = usize> + use<> {
        let mask = self.counts.len() - 1;
        (0..4_u8).map(move |row| {
            let mut hasher = DefaultHasher::new();
            (row, block).hash(&mut hasher);
            hasher.finish() as usize & mask
        })
    }

    fn count(&mut self, block: u32) {
        for place in self.places(block) {
            self.counts[place] = (self.counts[place] + 1).min(15);
        }
        self.uses += 1;
        if self.uses >= self.max * 10 {
            self.uses = 0;
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    fn estimate(&self, block: u32) -> u8 {
        let counts = self.places(block).map(|place| self.counts[place]);
        counts.min().unwrap_or(0)
    }

    fn put(&mut self, block: u32) {
        self.window.push(block);
        let window_max = (self.max / 100).max(1);
        if self.window.at.len() <= window_max {
            return;
        }
        let Some(candidate) = self.window.pop() else {
            return;
        };
        let main = self.probation.at.len() + self.protected.at.len();
        if main >= self.max - window_max {
            let rival = self.probation.first().or_else(|| self.protected.first());
            let Some(rival) = rival else {
                return;
            };
            if self.estimate(candidate) <= self.estimate(rival) {
                return;
            }
            let _ = self.probation.remove(rival) || self.protected.remove(rival);
        }
        self.probation.push(candidate);
    }
}

impl Policy for TinyLfu {
    fn holds(&self, block: u32) -> bool {
        let main = [&self.window, &self.probation, &self.protected];
        main.iter().any(|part| part.at.contains_key(&block))
    }

    fn ask(&mut self, _second: u64, chain: &[u32]) {
        for block in chain.iter().rev() {
            self.count(*block);
            if self.window.at.contains_key(block) {
                self.window.push(*block);
            } else if self.protected.at.contains_key(block) || self.probation.remove(*block) {
                self.protected.push(*block);
                if self.protected.at.len() > self.max * 4 / 5 {
                    let back = self.protected.pop();
                    back.into_iter()
                        .for_each(|block| self.probation.push(block));
                }
            } else {
                self.put(*block);
            }
        }
    }
}
