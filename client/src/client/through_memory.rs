//! Blocks of a put whose node is on this host go through memory that it shares.
//!
//! What does not go so is put to the same node over gRPC.

use std::{collections::BTreeSet, mem, sync::Arc};

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{
    PutBlock, PutResult, Shared,
    put_attempt::{self, AttemptError, Way},
    to_nodes::Share,
};
use crate::{refusal::RefusalReason, rpc::PutOpen};

/// Puts what can be put this way. Which blocks the node is to get over gRPC.
pub(super) async fn put(
    shared: &Arc<Shared>,
    share: &mut Share,
    open: &PutOpen,
    blocks: &[PutBlock],
    until: Instant,
) -> Vec<usize> {
    let Some(local) = shared.local.get() else {
        return share.blocks.clone();
    };
    let door = timeout_at(until, local.door(open.namespace, share.node)).await;
    let Some(door) = door.ok().flatten() else {
        return share.blocks.clone();
    };
    let attempt = put_attempt::run(
        Way::Memory(door),
        open.clone(),
        blocks,
        &share.blocks,
        &mut share.results,
        &mut share.given,
    );
    let ended = timeout_at(until, attempt).await;
    // Of another ring: over gRPC it would say the same.
    let elsewhere = match &ended {
        Ok(Err(AttemptError::Rpc(error))) => error.is_stale_epoch(),
        _ => false,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(AttemptError::Rpc(error))) => debug!(%error, "a put through memory ended early"),
        Ok(Err(AttemptError::Protocol(what))) => debug!(what, "a put through memory ended early"),
        Err(_) => debug!("a put through memory was not answered in time"),
    }
    let given = mem::take(&mut share.given);
    let silent = |at: &usize| share.results[*at].is_none();
    share.perhaps = given.into_iter().filter(silent).collect::<BTreeSet<_>>();
    let acked = share.blocks.iter().filter(|at| has_gone(share, **at));
    let bytes = acked.map(|at| blocks[*at].block.meta.bytes).sum();
    let pending = share.blocks.iter().filter(|at| is_for_grpc(share, **at));
    let pending: Vec<usize> = pending.copied().collect();
    local.has_put(bytes, pending.len() as u64);
    if elsewhere {
        return Vec::new();
    }
    pending.iter().for_each(|at| share.results[*at] = None);
    pending
}

fn has_gone(share: &Share, at: usize) -> bool {
    matches!(share.results[at], Some(PutResult::Acked(_)))
}

fn is_for_grpc(share: &Share, at: usize) -> bool {
    match &share.results[at] {
        None => true,
        // Over the bounds of this way, perhaps not over those of gRPC.
        Some(PutResult::Refused(refused)) => refused.reason == RefusalReason::NoSpace,
        Some(_) => false,
    }
}
