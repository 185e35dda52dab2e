//! Claims, evictions and retractions of copies.

use crate::{
    command::{BlockChange, ChangeKind, ChangeOutcome, Claim, Event, Outcome},
    limits::REPLICAS_MAX,
    mutation::{self, Mutation},
    state::{
        DirectoryState,
        row::{HOLDERS_MAX, Holders, Row},
    },
    words::{BlockName, Copy},
};

/// Why a copy goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// On purpose: the block wants one copy fewer.
    Evicted,
    /// Not on purpose: it is to be repaired.
    Lost,
}

impl DirectoryState {
    pub(super) fn change_blocks(
        &mut self,
        changes: &[BlockChange],
        events: &mut Vec<Event>,
    ) -> Outcome {
        let outcomes = changes.iter().map(|change| match &change.kind {
            ChangeKind::Claim(claim) => self.claim(change.name, claim, events),
            ChangeKind::Evict(copy) => self.leave(change.name, copy, Leaving::Evicted, events),
            ChangeKind::Retract(copy) => self.leave(change.name, copy, Leaving::Lost, events),
            ChangeKind::Release(copy) => self.release(change.name, copy, events),
        });
        Outcome {
            changes: outcomes.collect(),
            ..Outcome::default()
        }
    }

    fn claim(&mut self, name: BlockName, claim: &Claim, events: &mut Vec<Event>) -> ChangeOutcome {
        self.see(claim.put_hlc);
        let known = self.blocks.get(&name);
        let refused = if self.namespace(name.namespace).is_none() {
            Some(ChangeOutcome::UnknownNamespace)
        } else if !self.visible(&name, claim.put_hlc)
            && !mutation::on(Mutation::FillForgetsTombstone)
        {
            Some(ChangeOutcome::Deleted)
        } else if !claim.copies.iter().any(|c| self.current(c).is_some()) {
            Some(ChangeOutcome::Stale)
        } else if known.is_some_and(|row| row.checksum != claim.checksum) {
            Some(ChangeOutcome::Conflict)
        } else {
            None
        };
        if let Some(refused) = refused {
            self.refuse_copies(name, &claim.copies, events);
            return refused;
        }
        let appeared = known.is_none();
        let mut row = known.cloned().unwrap_or_else(|| row_of(claim));
        let first = events.len();
        let accepted = self.add_copies(name, &mut row, &claim.copies, events);
        if accepted {
            let wanted = u32::from(row.holders.wanted()).max(self.copies_possible(claim.replicas));
            row.holders.want(wanted.clamp(1, REPLICAS_MAX) as u8);
            if appeared {
                let bytes = row.bytes;
                events.insert(first, Event::Appeared { name, bytes });
            }
            if known != Some(&row) {
                self.blocks.put(name, row);
            }
        }
        match accepted {
            true => ChangeOutcome::Accepted,
            false => ChangeOutcome::Stale,
        }
    }

    /// A region of fewer nodes than replicas lacks nothing: no node could make the others.
    fn copies_possible(&self, replicas: u32) -> u32 {
        let members = self.topology().staying().count();
        replicas.min(u32::try_from(members).unwrap_or(u32::MAX))
    }

    /// Whether any of the copies is in the row now; says what happened to the copies.
    fn add_copies(
        &self,
        name: BlockName,
        row: &mut Row,
        copies: &[Copy],
        events: &mut Vec<Event>,
    ) -> bool {
        let mut accepted = false;
        for &copy in copies {
            let Some(slot) = self.current(&copy) else {
                events.push(Event::Dropped { name, copy });
                continue;
            };
            match row.holders.copy_of(slot) {
                Some(number) if number == copy.copy => accepted = true,
                Some(number) if number > copy.copy => events.push(Event::Dropped { name, copy }),
                None if row.holders.len() >= HOLDERS_MAX => {
                    events.push(Event::Dropped { name, copy });
                }
                older => {
                    row.holders.set(slot, copy.copy);
                    accepted = true;
                    events.push(Event::Claimed {
                        name,
                        copy,
                        put_hlc: row.put_hlc,
                    });
                    events.extend(older.map(|number| Event::Dropped {
                        name,
                        copy: Copy {
                            copy: number,
                            ..copy
                        },
                    }));
                }
            }
        }
        accepted
    }

    /// Tells the holders to drop them; a copy that an earlier claim committed stays.
    fn refuse_copies(&self, name: BlockName, copies: &[Copy], events: &mut Vec<Event>) {
        let refused = copies.iter().filter(|copy| !self.holds(name, copy));
        events.extend(refused.map(|copy| Event::Dropped { name, copy: *copy }));
    }

    fn holds(&self, name: BlockName, copy: &Copy) -> bool {
        let held = self.current(copy).and_then(|slot| {
            let row = self.blocks.get(&name)?;
            row.holders.copy_of(slot)
        });
        held == Some(copy.copy)
    }

    fn leave(
        &mut self,
        name: BlockName,
        copy: &Copy,
        leaving: Leaving,
        events: &mut Vec<Event>,
    ) -> ChangeOutcome {
        let (true, Some(slot)) = (self.holds(name, copy), self.slot(copy.node)) else {
            return ChangeOutcome::Stale;
        };
        let Some(mut row) = self.blocks.get(&name).cloned() else {
            return ChangeOutcome::Stale;
        };
        // A copy too many may go without anybody missing it.
        if leaving == Leaving::Evicted && row.holders.len() <= usize::from(row.holders.wanted()) {
            row.holders.want(row.holders.wanted() - 1);
        }
        row.holders.remove(slot);
        self.put_or_vanish(name, row, events);
        ChangeOutcome::Accepted
    }

    fn release(&mut self, name: BlockName, copy: &Copy, events: &mut Vec<Event>) -> ChangeOutcome {
        let known = self.blocks.get(&name).filter(|_| self.holds(name, copy));
        let (Some(row), Some(slot)) = (known, self.slot(copy.node)) else {
            return ChangeOutcome::Stale;
        };
        let topology = self.topology();
        let stays = |slot| {
            let record = self.nodes.at(slot);
            record.is_some_and(|record| !topology.leaving.contains(&record.node))
        };
        let mut row = row.clone();
        row.holders.remove(slot);
        let left = row.holders.iter().filter(|(slot, _)| stays(*slot)).count();
        let enough = topology
            .staying()
            .count()
            .min(usize::from(row.holders.wanted()));
        if left < enough.max(1) {
            return ChangeOutcome::Stale;
        }
        // Fewer members than copies wanted: the region lacks nothing then.
        let held = row.holders.len() as u8;
        row.holders.want(row.holders.wanted().min(held));
        self.blocks.put(name, row);
        events.push(Event::Dropped { name, copy: *copy });
        ChangeOutcome::Accepted
    }

    /// Keeps the row, or removes the block when its last copy went.
    fn put_or_vanish(&mut self, name: BlockName, row: Row, events: &mut Vec<Event>) {
        if row.holders.len() > 0 {
            self.blocks.put(name, row);
        } else {
            self.blocks.take(&name);
            events.push(Event::Vanished { name });
        }
    }

    /// Removes a block with all its copies, and tells their holders.
    pub(super) fn remove_block(&mut self, name: BlockName, events: &mut Vec<Event>) {
        if let Some(row) = self.blocks.take(&name) {
            events.push(Event::Vanished { name });
            let holders = row.holders.iter();
            let copies = holders.filter_map(|(slot, copy)| self.copy_at(slot, copy));
            events.extend(copies.map(|copy| Event::Dropped { name, copy }));
        }
    }
}

fn row_of(claim: &Claim) -> Row {
    Row {
        put_hlc: claim.put_hlc,
        checksum: claim.checksum,
        bytes: claim.bytes,
        depth: claim.depth,
        holders: Holders::none(1),
    }
}
