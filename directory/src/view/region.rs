//! A region's directory, followed by replaying its commands.

use crate::{
    command::{Command, Event},
    state::DirectoryState,
};

/// What a follower made of a step of a `REGION` feed.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// It was the next one.
    Applied(Vec<Event>),
    /// It is known already.
    Repeated,
    /// Steps are missing: resume from the follower's own position.
    Gap,
}

/// A region's directory as a follower outside of the Raft group keeps it.
#[derive(Debug, Clone)]
pub struct RegionView {
    state: DirectoryState,
}

impl RegionView {
    /// From a snapshot, or empty.
    #[must_use]
    pub fn new(state: DirectoryState) -> Self {
        Self { state }
    }

    /// The directory as of [`DirectoryState::position`].
    #[must_use]
    pub fn state(&self) -> &DirectoryState {
        &self.state
    }

    /// Takes the step at a log index; none: an entry without a command.
    pub fn step(&mut self, index: u64, command: Option<&Command>) -> Followed {
        let applied = self.state.applied_index();
        if index <= applied {
            return Followed::Repeated;
        }
        if index > applied + 1 {
            return Followed::Gap;
        }
        match command {
            Some(command) => Followed::Applied(self.state.apply(index, command).1),
            None => {
                self.state.advance(index);
                Followed::Applied(Vec::new())
            }
        }
    }
}
