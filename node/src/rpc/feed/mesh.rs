//! Scope `MESH`: what another region may see.

use std::sync::Arc;

use kvmesh_client::{
    ToWire,
    convert::{mesh::MeshPart, snapshot::CHUNK_RECORDS_MAX},
};
use kvmesh_directory::{
    DirectoryState, LogIncarnation, RegionId,
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
    let part = |last| MeshPart {
        position: position.clone(),
        blocks: Vec::new(),
        namespaces: Vec::new(),
        tombstones: Vec::new(),
        last,
    };
    let send = async |part: MeshPart| follow.send(Kind::MeshSnapshot(part.to_wire())).await;
    let namespaces: Vec<_> = mesh_namespaces(state, follower).cloned().collect();
    for namespaces in namespaces.chunks(CHUNK_RECORDS_MAX) {
        let namespaces = namespaces.to_vec();
        send(MeshPart {
            namespaces,
            ..part(false)
        })
        .await?;
    }
    let mut blocks = mesh_blocks(state, follower);
    loop {
        let chunk: Vec<_> = blocks.by_ref().take(CHUNK_RECORDS_MAX).collect();
        if chunk.is_empty() {
            break;
        }
        send(MeshPart {
            blocks: chunk,
            ..part(false)
        })
        .await?;
    }
    let mut tombstones = mesh_tombstones(state, follower);
    loop {
        let chunk: Vec<_> = tombstones.by_ref().take(CHUNK_RECORDS_MAX).collect();
        if chunk.is_empty() {
            break;
        }
        send(MeshPart {
            tombstones: chunk,
            ..part(false)
        })
        .await?;
    }
    send(part(true)).await
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
