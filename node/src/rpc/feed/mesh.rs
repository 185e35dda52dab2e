//! Scope `MESH`: what another region may see.

use std::sync::Arc;

use kvmesh_client::{
    ToWire,
    convert::{mesh::MeshPart, snapshot::CHUNK_RECORDS_MAX},
};
use kvmesh_directory::{
    DirectoryState, FeedPosition, LogIncarnation, RegionId,
    view::{MeshStep, mesh_blocks, mesh_namespaces, mesh_tombstones},
};
use kvmesh_proto::v1::feed_frame::Kind;

use super::{Follow, Gone};
use crate::directory::Step;

pub(super) async fn snapshot(
    follow: &Follow,
    state: &DirectoryState,
    follower: &RegionId,
) -> Result<(), Gone> {
    let Some(position) = state.position() else {
        return Err(Gone);
    };
    let send = async |part: MeshPart| follow.send(Kind::MeshSnapshot(part.to_wire())).await;
    let namespaces = mesh_namespaces(state, follower).cloned();
    for part in parts(&position, namespaces, |part| &mut part.namespaces) {
        send(part).await?;
    }
    for part in parts(&position, mesh_blocks(state, follower), |part| {
        &mut part.blocks
    }) {
        send(part).await?;
    }
    let tombstones = mesh_tombstones(state, follower);
    for part in parts(&position, tombstones, |part| &mut part.tombstones) {
        send(part).await?;
    }
    send(last(position)).await
}

/// Parts of a snapshot that have these in a field, as many as one message has room for.
pub(in crate::rpc) fn parts<T>(
    position: &FeedPosition,
    mut all: impl Iterator<Item = T>,
    field: impl Fn(&mut MeshPart) -> &mut Vec<T>,
) -> impl Iterator<Item = MeshPart> {
    std::iter::from_fn(move || {
        let some: Vec<T> = all.by_ref().take(CHUNK_RECORDS_MAX).collect();
        let mut part = MeshPart {
            last: false,
            ..last(position.clone())
        };
        let any = !some.is_empty();
        *field(&mut part) = some;
        any.then_some(part)
    })
}

/// The part that ends a snapshot.
pub(in crate::rpc) fn last(position: FeedPosition) -> MeshPart {
    MeshPart {
        position,
        blocks: Vec::new(),
        namespaces: Vec::new(),
        tombstones: Vec::new(),
        last: true,
    }
}

/// Sends what the follower may see; entries that it may not only advance its position.
pub(super) async fn steps(
    follow: &Follow,
    steps: &[Arc<Step>],
    log: LogIncarnation,
    follower: &RegionId,
) -> Result<(), Gone> {
    let mut unsaid = None;
    for step in steps {
        // Residency never changes, so that the present state says who may see what.
        let seen = follow
            .node
            .directory
            .with(|state| MeshStep::project(&step.events, state, follower));
        if seen.is_empty() {
            unsaid = Some(step.index);
            continue;
        }
        unsaid = None;
        let position = follow.position(step.index, log);
        follow
            .send(Kind::MeshStep((position, seen).to_wire()))
            .await?;
    }
    match unsaid {
        Some(index) => follow.heartbeat(index, log).await,
        None => Ok(()),
    }
}
