//! Scope `REGION`: the commands themselves.

use std::sync::Arc;

use kvmesh_client::{ToWire, convert::snapshot};
use kvmesh_directory::{DirectoryState, LogIncarnation};
use kvmesh_proto::v1::{self as wire, feed_frame::Kind};

use super::{Follow, Gone};
use crate::directory::Step;

pub(super) async fn snapshot(follow: &Follow, state: DirectoryState) -> Result<(), Gone> {
    for chunk in snapshot::chunks(state) {
        follow.send(Kind::SnapshotChunk(chunk)).await?;
    }
    Ok(())
}

pub(super) async fn steps(
    follow: &Follow,
    steps: &[Arc<Step>],
    log: LogIncarnation,
) -> Result<(), Gone> {
    for step in steps {
        let frame = wire::RegionStep {
            position: Some(follow.position(step.index, log).to_wire()),
            command: step.command.as_deref().map(ToWire::to_wire),
        };
        follow.send(Kind::RegionStep(frame)).await?;
    }
    Ok(())
}
