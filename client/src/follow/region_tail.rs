//! What a frame of a `REGION` feed means to a follower of one region.

use kvmesh_directory::{Command, DirectoryState, FeedPosition, RegionId};
use kvmesh_proto::v1::{self as wire, feed_frame::Kind};

use super::FeedError;
use crate::convert::{FromWire, optional, required, snapshot};

/// What to do about a frame.
#[derive(Debug)]
pub(super) enum Action {
    /// Nothing but noting that the feed lives.
    Heard,
    /// The view becomes this state.
    Replace(DirectoryState),
    /// The view takes this step.
    Step(FeedPosition, Option<Command>),
}

/// Decides; holds the snapshot that is on its way.
#[derive(Debug)]
pub(super) struct RegionTail {
    region: RegionId,
    assembler: Option<snapshot::Assembler>,
}

impl RegionTail {
    pub(super) fn new(region: RegionId) -> Self {
        Self {
            region,
            assembler: None,
        }
    }

    /// A new stream begins: what was half received does not go on.
    pub(super) fn restart(&mut self) {
        self.assembler = None;
    }

    /// `at` is where the view stands.
    pub(super) fn on_frame(
        &mut self,
        at: Option<&FeedPosition>,
        frame: wire::FeedFrame,
    ) -> Result<Action, FeedError> {
        match frame.kind {
            Some(Kind::SnapshotChunk(chunk)) => self.on_chunk(chunk),
            _ if self.assembler.is_some() => Err(FeedError::Unexpected("step within a snapshot")),
            Some(Kind::RegionStep(step)) => {
                let position: FeedPosition = required("position", step.position)?;
                self.check(&position.region)?;
                if at.is_some_and(|at| at.log_incarnation != position.log_incarnation) {
                    return Err(FeedError::Gap);
                }
                Ok(Action::Step(position, optional(step.command)?))
            }
            Some(Kind::Heartbeat(position)) => {
                let position = FeedPosition::from_wire(position)?;
                self.check(&position.region)?;
                match at {
                    Some(at) if at.log_incarnation == position.log_incarnation => Ok(Action::Heard),
                    Some(_) => Err(FeedError::Gap),
                    // Not a word about the region itself: it is not initialised yet.
                    None => Ok(Action::Heard),
                }
            }
            Some(Kind::MeshSnapshot(_) | Kind::MeshStep(_)) => Err(FeedError::Unexpected("MESH")),
            None => Err(FeedError::Unexpected("empty")),
        }
    }

    fn on_chunk(&mut self, chunk: wire::SnapshotChunk) -> Result<Action, FeedError> {
        let assembler = self.assembler.get_or_insert_default();
        let Some(state) = assembler.push(chunk)? else {
            return Ok(Action::Heard);
        };
        self.assembler = None;
        if let Some(region) = state.region() {
            self.check(region)?;
        }
        Ok(Action::Replace(state))
    }

    fn check(&self, got: &RegionId) -> Result<(), FeedError> {
        if *got == self.region {
            return Ok(());
        }
        Err(FeedError::Region {
            got: got.clone(),
            want: self.region.clone(),
        })
    }
}
