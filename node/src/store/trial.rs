//! Small caches over a sample of the names, one for each schedule of leads, that are asked for
//! whatever the node is asked for: which of them answers most says which schedule to follow.
//!
//! Each has the same part of the node's budget as the sample has of the names, so it evicts at
//! the same ages. It holds no bytes. What was answered counts less the longer ago it was.
//!
//! Invariant: none lists over `COPIES_MAX` copies; where more would fit, the sample is halved.

use std::{
    array,
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use super::{
    recall::{Recall, Tag},
    retention::{Age, CLASSES, REMEMBERED_PER_COPY, SCHEDULES},
};

/// Copies of a small cache. Half as many chains are still enough to tell schedules apart.
const COPIES_MAX: usize = 2_048;
/// The schedules are compared once in so many questions.
const ROUND: u64 = 64;
/// After so many questions for each copy of a small cache an answer counts about a third.
const MEMORY_TURNOVERS: usize = 5;
const MEMORY_MIN: usize = 640;

/// By how many roots of its answers another schedule must do better.
const MARGIN: f64 = 2.0;

/// A block that somebody asks for, or puts because he asked in vain.
pub(super) struct Asked {
    pub(super) tag: Tag,
    pub(super) depth: u32,
    /// What a copy takes of the budget.
    pub(super) bytes: u64,
    pub(super) second: u64,
    /// The node's budget in bytes.
    pub(super) max: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    touched: u64,
    depth: u32,
    uses: u8,
    bytes: u64,
}

#[derive(Debug)]
struct Small {
    schedule: usize,
    seats: HashMap<Tag, Seat>,
    queues: [BTreeSet<(u64, Reverse<u32>, Tag)>; CLASSES],
    used: u64,
    age: Age,
    answers: f64,
}

impl Small {
    fn new(schedule: usize) -> Self {
        Self {
            schedule,
            seats: HashMap::new(),
            queues: array::from_fn(|_| BTreeSet::new()),
            used: 0,
            age: Age::default(),
            answers: 0.0,
        }
    }

    fn ask(&mut self, asked: &Asked, uses: u8, max: u64) {
        if self.take(asked.tag).is_some() {
            self.answers += 1.0;
        }
        while self.used + asked.bytes > max {
            if !self.evict(asked.second, max) {
                return;
            }
        }
        let seat = Seat {
            touched: asked.second,
            depth: asked.depth,
            uses,
            bytes: asked.bytes,
        };
        self.used += seat.bytes;
        self.queues[usize::from(uses)].insert(place(asked.tag, &seat));
        self.seats.insert(asked.tag, seat);
    }

    fn take(&mut self, tag: Tag) -> Option<Seat> {
        let seat = self.seats.remove(&tag)?;
        self.queues[usize::from(seat.uses)].remove(&place(tag, &seat));
        self.used -= seat.bytes;
        Some(seat)
    }

    /// Keeps what is in the sample.
    fn thin(&mut self, every: u64) {
        let left = self.seats.keys().copied();
        let left: Vec<Tag> = left.filter(|tag| !tag.is_multiple_of(every)).collect();
        for tag in left {
            self.take(tag);
        }
        self.answers /= 2.0;
    }

    /// False: it is empty.
    fn evict(&mut self, second: u64, max: u64) -> bool {
        let leads = self.age.leads(self.schedule);
        let firsts = self.queues.iter().zip(leads).filter_map(|(queue, lead)| {
            let (touched, depth, tag) = queue.first()?;
            Some((touched + lead, *depth, *tag))
        });
        let Some(gone) = firsts.min().and_then(|(_, _, tag)| self.take(tag)) else {
            return false;
        };
        if gone.uses == 0 {
            let age = second.saturating_sub(gone.touched);
            self.age.went(age, max / gone.bytes);
        }
        true
    }
}

fn place(tag: Tag, seat: &Seat) -> (u64, Reverse<u32>, Tag) {
    (seat.touched, Reverse(seat.depth), tag)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trial {
    small: [Small; SCHEDULES.len()],
    /// Uses of the names in the sample: they do not depend on the schedule.
    uses: Recall,
    /// One name in so many is in the sample.
    every: u64,
    asked: u64,
    best: usize,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            small: array::from_fn(Small::new),
            uses: Recall::default(),
            every: 1,
            asked: 0,
            best: 0,
        }
    }
}

impl Trial {
    /// Notes that a block is asked for.
    pub(super) fn ask(&mut self, asked: &Asked) {
        if !asked.tag.is_multiple_of(self.every) {
            return;
        }
        let uses = self.uses.take(asked.tag, asked.second);
        for small in &mut self.small {
            small.ask(asked, uses, asked.max / self.every);
        }
        self.uses.note(asked.tag, uses, asked.second);
        let copies = self.small.iter().map(|small| small.seats.len());
        let copies = copies.max().unwrap_or(0);
        self.uses.trim((1 + REMEMBERED_PER_COPY) * copies);
        if copies > COPIES_MAX {
            self.every *= 2;
            for small in &mut self.small {
                small.thin(self.every);
            }
        }
        self.asked += 1;
        if self.asked.is_multiple_of(ROUND) {
            self.compare(copies);
        }
    }

    /// Follows another schedule when it does better by more than chance explains, and plain
    /// recency when that does as well.
    fn compare(&mut self, copies: usize) {
        let memory = (MEMORY_TURNOVERS * copies).max(MEMORY_MIN) as f64;
        for small in &mut self.small {
            small.answers *= 1.0 - ROUND as f64 / memory;
        }
        let answers = |schedule: usize| self.small[schedule].answers;
        if answers(0) >= answers(self.best) {
            self.best = 0;
        }
        let now = answers(self.best);
        let least = now + MARGIN * now.max(1.0).sqrt();
        let better = (0..SCHEDULES.len()).filter(|schedule| answers(*schedule) > least);
        let best = better.max_by(|one, other| answers(*one).total_cmp(&answers(*other)));
        self.best = best.unwrap_or(self.best);
    }

    /// Which schedule does best.
    pub(super) fn best(&self) -> usize {
        self.best
    }
}
