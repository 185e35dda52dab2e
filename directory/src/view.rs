//! What others see of a region's directory.

use crate::{
    command::{Command, Deletion, Event},
    namespace::Namespace,
    state::DirectoryState,
    words::{BlockName, FeedPosition, Hlc, NamespaceId, RegionId, Tag},
};

/// What one applied command means to another region. Positions advance also when it is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshStep {
    /// Blocks that have their first copy, with their size.
    pub appeared: Vec<(BlockName, u32)>,
    /// Blocks whose last copy went.
    pub vanished: Vec<BlockName>,
    /// Opened or changed.
    pub namespaces: Vec<Namespace>,
    /// Deleted names.
    pub deletes: Vec<Deletion>,
    /// Raised generations.
    pub raises: Vec<(NamespaceId, Hlc)>,
}

impl MeshStep {
    /// The events of one command as `follower` may see them: a namespace whose residency
    /// does not name the follower, or that is not known, is left out.
    #[must_use]
    pub fn project(_events: &[Event], _state: &DirectoryState, _follower: &RegionId) -> Self {
        todo!()
    }
}

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
    pub fn step(&mut self, _index: u64, _command: Option<&Command>) -> Followed {
        todo!()
    }
}

/// A set of regions of one [`MeshView`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionSet(pub u64);

/// Which other region has which block: tag → set of regions. Soft state.
#[derive(Debug, Clone, Default)]
pub struct MeshView {}

impl MeshView {
    /// Nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a region's blocks and position; its number stays.
    pub fn reset(&mut self, _region: &RegionId) {
        todo!()
    }

    /// Takes one indivisible step of a region. A position that is covered already is ignored;
    /// none: part of a snapshot that goes on.
    pub fn step(
        &mut self,
        _region: &RegionId,
        _appeared: &[(Tag, u32)],
        _vanished: &[Tag],
        _position: Option<FeedPosition>,
    ) {
        todo!()
    }

    /// Which regions may have a block, and its size as last heard.
    #[must_use]
    pub fn whereabouts(&self, _tag: Tag) -> (RegionSet, u32) {
        todo!()
    }

    /// Whether a set names a region.
    #[must_use]
    pub fn names(&self, _set: RegionSet, _region: &RegionId) -> bool {
        todo!()
    }

    /// Every region heard of, with the position of its blocks and their number.
    pub fn regions(&self) -> impl Iterator<Item = (&RegionId, Option<&FeedPosition>, u64)> {
        std::iter::empty()
    }

    /// A region's blocks, in the order of their tags.
    #[must_use]
    pub fn tags_of(&self, _region: &RegionId) -> Vec<(Tag, u32)> {
        todo!()
    }

    /// The position of a region's blocks.
    #[must_use]
    pub fn position(&self, _region: &RegionId) -> Option<&FeedPosition> {
        todo!()
    }
}
