//! What appeared and vanished in a region lately, kept so that watchers can follow from a
//! position. Bounded: who falls behind what is kept has missed something, and is told so.

use std::{collections::VecDeque, sync::Arc};

use kvmesh_directory::{BlockName, Event, FeedPosition};

/// Changes that are kept, over all steps; about 8 MiB.
const CHANGES_MAX: usize = 131_072;

/// One change of what a region has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The region has its first copy.
    Appeared(BlockName),
    /// The region's last copy is gone.
    Vanished(BlockName),
}

/// The changes of one step of the feed, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedStep {
    /// Log index of the step.
    pub index: u64,
    /// At least one.
    pub changes: Arc<[Change]>,
}

/// What is known of the changes after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// These steps, of which there may be more after the last.
    Steps(Vec<ChangedStep>),
    /// None, up to this position.
    Nothing(FeedPosition),
    /// The position is of another region or log, or what followed it is not kept any more.
    Gap,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Changes {
    steps: VecDeque<ChangedStep>,
    kept: usize,
    /// Every change after this index is kept.
    floor: u64,
    at: Option<FeedPosition>,
}

impl Changes {
    /// The view became another state: what changed by that is not known.
    pub(super) fn restart(&mut self, at: Option<FeedPosition>) {
        self.steps.clear();
        self.kept = 0;
        self.floor = at.as_ref().map_or(0, |at| at.index);
        self.at = at;
    }

    /// The view took a step, and stands at `at` now.
    pub(super) fn step(&mut self, index: u64, events: &[Event], at: Option<FeedPosition>) {
        let changes: Arc<[Change]> = events.iter().filter_map(change_of).collect();
        if !changes.is_empty() {
            self.kept += changes.len();
            self.steps.push_back(ChangedStep { index, changes });
        }
        while self.kept > CHANGES_MAX
            && let Some(oldest) = self.steps.pop_front()
        {
            self.kept -= oldest.changes.len();
            self.floor = oldest.index;
        }
        self.at = at;
    }

    /// Up to `steps_max` steps after a position.
    pub(super) fn after(&self, after: &FeedPosition, steps_max: usize) -> Told {
        let Some(at) = &self.at else { return Told::Gap };
        let same_log = at.region == after.region && at.log_incarnation == after.log_incarnation;
        if !same_log || after.index < self.floor {
            return Told::Gap;
        }
        let first = self.steps.partition_point(|step| step.index <= after.index);
        let steps = self.steps.iter().skip(first).take(steps_max);
        let steps: Vec<ChangedStep> = steps.cloned().collect();
        if !steps.is_empty() {
            return Told::Steps(steps);
        }
        // A position that the view has not reached yet is not taken back.
        let index = at.index.max(after.index);
        Told::Nothing(FeedPosition {
            index,
            ..at.clone()
        })
    }
}

fn change_of(event: &Event) -> Option<Change> {
    match event {
        Event::Appeared { name, .. } => Some(Change::Appeared(*name)),
        Event::Vanished { name } => Some(Change::Vanished(*name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{BlockHash, LogIncarnation, NamespaceId, Part};

    use super::*;

    fn at(index: u64) -> FeedPosition {
        FeedPosition {
            region: "us-east".parse().unwrap(),
            log_incarnation: LogIncarnation(7),
            index,
        }
    }

    fn name(number: u8) -> BlockName {
        BlockName {
            namespace: NamespaceId([1; 16]),
            hash: BlockHash([number; 32]),
            part: Part::default(),
        }
    }

    fn indexes(told: Told) -> Vec<u64> {
        match told {
            Told::Steps(steps) => steps.iter().map(|step| step.index).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn steps_are_told_from_a_position_on() {
        let mut changes = Changes::default();
        assert_eq!(changes.after(&at(1), 9), Told::Gap);
        changes.restart(Some(at(10)));
        let appeared = Event::Appeared {
            name: name(1),
            bytes: 1,
        };
        let vanished = Event::Vanished { name: name(1) };
        changes.step(11, std::slice::from_ref(&appeared), Some(at(11)));
        changes.step(12, &[], Some(at(12)));
        changes.step(13, &[vanished, appeared], Some(at(13)));
        assert_eq!(indexes(changes.after(&at(10), 9)), [11, 13]);
        assert_eq!(indexes(changes.after(&at(10), 1)), [11]);
        assert_eq!(indexes(changes.after(&at(11), 9)), [13]);
        assert_eq!(changes.after(&at(13), 9), Told::Nothing(at(13)));
        assert_eq!(changes.after(&at(20), 9), Told::Nothing(at(20)));
        assert_eq!(changes.after(&at(9), 9), Told::Gap);
        let other = FeedPosition {
            log_incarnation: LogIncarnation(8),
            ..at(13)
        };
        assert_eq!(changes.after(&other, 9), Told::Gap);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut changes = Changes::default();
        changes.restart(Some(at(0)));
        let step = vec![Event::Vanished { name: name(2) }; 256];
        for index in 1..=513 {
            changes.step(index, &step, Some(at(index)));
        }
        assert_eq!(changes.kept, CHANGES_MAX);
        assert_eq!(changes.after(&at(0), 1), Told::Gap);
        assert_eq!(indexes(changes.after(&at(1), 1)), [2]);
    }
}
