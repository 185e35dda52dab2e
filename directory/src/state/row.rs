//! A block as it lies in memory: small, since there are millions.
//!
//! A holder is named by its slot (its place among the node records) and its copy number.
//! Its incarnation is not stored: copies of a past incarnation are removed at once, so
//! it is always the record's.

use crate::words::{Checksum, CopyNumber, Hlc};

/// Place of a node among the node records.
pub(super) type Slot = u16;

/// Copies of one block, at most; a claim of more is dropped. Twice the most that can be
/// wanted, so that old and new owners fit while blocks move.
pub(super) const HOLDERS_MAX: usize = 2 * crate::limits::REPLICAS_MAX as usize;

const FEW: usize = 2;

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) put_hlc: Hlc,
    pub(super) checksum: Checksum,
    pub(super) bytes: u32,
    pub(super) depth: u32,
    /// With how many copies are wanted, which costs nothing there.
    pub(super) holders: Holders,
}

/// With its key a row takes 96 bytes.
const _: () = assert!(size_of::<(crate::words::BlockKey, Row)>() == 96);

impl Row {
    pub(super) fn is_under_replicated(&self) -> bool {
        self.holders.len() < usize::from(self.holders.wanted())
    }
}

/// Who has copies, ascending by slot, and how many copies are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holders {
    /// What most blocks have, without memory of its own.
    Few {
        wanted: u8,
        len: u8,
        slots: [Slot; FEW],
        copies: [CopyNumber; FEW],
    },
    /// More than [`FEW`].
    Many {
        wanted: u8,
        held: Box<[(Slot, CopyNumber)]>,
    },
}

impl Holders {
    /// Nobody yet.
    pub(super) fn none(wanted: u8) -> Self {
        Self::from_sorted(wanted, &[])
    }

    /// Ascending by slot, no slot twice.
    fn from_sorted(wanted: u8, held: &[(Slot, CopyNumber)]) -> Self {
        if held.len() > FEW {
            let held = held.into();
            return Self::Many { wanted, held };
        }
        let (mut slots, mut copies) = ([0; FEW], [CopyNumber(0); FEW]);
        for (at, (slot, copy)) in held.iter().enumerate() {
            (slots[at], copies[at]) = (*slot, *copy);
        }
        Self::Few {
            wanted,
            len: held.len() as u8,
            slots,
            copies,
        }
    }

    /// Copies that should exist.
    pub(super) fn wanted(&self) -> u8 {
        match self {
            Self::Few { wanted, .. } | Self::Many { wanted, .. } => *wanted,
        }
    }

    /// Sets how many copies should exist.
    pub(super) fn want(&mut self, copies: u8) {
        match self {
            Self::Few { wanted, .. } | Self::Many { wanted, .. } => *wanted = copies,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few { len, .. } => usize::from(*len),
            Self::Many { held, .. } => held.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, CopyNumber)> {
        (0..self.len()).map(|at| match self {
            Self::Few { slots, copies, .. } => (slots[at], copies[at]),
            Self::Many { held, .. } => held[at],
        })
    }

    /// The copy that a node has.
    pub(super) fn copy_of(&self, slot: Slot) -> Option<CopyNumber> {
        self.iter()
            .find_map(|(holder, copy)| (holder == slot).then_some(copy))
    }

    /// Adds a node's copy, or replaces the one that it has.
    pub(super) fn set(&mut self, slot: Slot, copy: CopyNumber) {
        let mut held: Vec<_> = self.iter().filter(|(holder, _)| *holder != slot).collect();
        let at = held.partition_point(|(holder, _)| *holder < slot);
        held.insert(at, (slot, copy));
        *self = Self::from_sorted(self.wanted(), &held);
    }

    /// Removes whatever copy a node has.
    pub(super) fn remove(&mut self, slot: Slot) {
        if let Self::Few {
            len, slots, copies, ..
        } = self
        {
            let held = usize::from(*len);
            if let Some(at) = slots[..held].iter().position(|holder| *holder == slot) {
                slots.copy_within(at + 1.., at);
                copies.copy_within(at + 1.., at);
                // Equal holders are equal bytes.
                (slots[held - 1], copies[held - 1]) = (0, CopyNumber(0));
                *len -= 1;
            }
            return;
        }
        let held: Vec<_> = self.iter().filter(|(holder, _)| *holder != slot).collect();
        *self = Self::from_sorted(self.wanted(), &held);
    }
}
