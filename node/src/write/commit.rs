//! Keeps a whole block, copies it to the other owners and claims all copies at once.

use std::sync::Arc;

use kvmesh_client::{Block, BlockMeta};
use kvmesh_directory::{
    BlockName, ChangeKind, Copy,
    command::{BlockChange, Claim},
    mutation::{self, Mutation},
    namespace::AckLevel,
};
use tokio::time::Instant;

use super::{
    Acked, Claimed, Failure, Reason, Terms, claim, claim_of, confirm, decide::complete_own, spread,
};
use crate::{node::Node, store::CopyKey};

/// Puts a verified block.
///
/// # Errors
/// Refused: nothing was stored. Unknown: it may have been committed.
pub(crate) async fn commit(
    node: &Node,
    name: BlockName,
    block: Block,
    terms: &Terms,
    deadline: Instant,
) -> Result<Acked, Failure> {
    let put_hlc = match terms.fill {
        true => block.meta.put_hlc,
        false => node.stamp(),
    };
    let block = Arc::new(Block {
        meta: BlockMeta {
            put_hlc,
            ..block.meta
        },
        pieces: block.pieces,
    });
    let kept = node.keep(name, Arc::clone(&block)).await;
    let own = kept.map_err(|problem| Failure::of_keeping(&problem))?;
    let committed = committed(node, name, &block, own, terms, deadline).await;
    // An unknown outcome leaves the copy provisional: a late claim finds it.
    if matches!(committed, Err(Failure::Refused { .. })) {
        node.store.withdraw(CopyKey { name, copy: own }).await;
    }
    committed
}

async fn committed(
    node: &Node,
    name: BlockName,
    block: &Arc<Block>,
    own: Copy,
    terms: &Terms,
    deadline: Instant,
) -> Result<Acked, Failure> {
    let needed = terms.needed();
    let others = async {
        match needed {
            0 | 1 => Vec::new(),
            _ => {
                let count = (needed - 1, terms.durable());
                spread(node, name, block, count, &[node.me], deadline).await
            }
        }
    };
    let on_disk = async {
        match terms.durable() {
            true => {
                let own = CopyKey { name, copy: own };
                let made = node.store.make_durable(own, deadline).await;
                made.map_err(Failure::of_disk)
            }
            false => Ok(()),
        }
    };
    let (others, on_disk) = tokio::join!(others, on_disk);
    on_disk?;
    let mut copies = vec![own];
    copies.extend(others);
    if copies.len() < needed {
        let have = copies.len();
        let disk = if terms.durable() {
            " or have a disk"
        } else {
            ""
        };
        let message =
            format!("{have} of {needed} owners took the block: too few nodes are alive{disk}");
        return Err(Failure::later(Reason::Unavailable, message));
    }
    if Instant::now() >= deadline {
        return Err(Failure::later(
            Reason::OutOfTime,
            "the owners took longer than the deadline",
        ));
    }
    let claim = claim_of(&block.meta, terms.replicas, copies);
    if mutation::on(Mutation::AckBeforeApply) {
        return ack_early(node, name, claim, terms, deadline);
    }
    let claimed = claim::claim(node, name, claim, deadline).await;
    let position = || node.position().map_err(Failure::Unknown);
    match claimed.map_err(Failure::of_claim)? {
        Claimed::Present(entry) => {
            let entry = complete_own(node, name, entry, terms, deadline).await?;
            // Another put of the same content was first: the block has that one's clock.
            let existed = entry.put_hlc != block.meta.put_hlc;
            Ok(terms.acked(&entry, position()?, existed))
        }
        // Where memory is short, a block may have to go at once. The put was done before.
        Claimed::Went(entry) if needed <= 1 && !terms.durable() => {
            Ok(terms.acked(&entry, position()?, false))
        }
        Claimed::Conflict(Some(first))
            if confirm::holders(node, name, &first, terms, deadline)
                .await
                .len()
                >= needed =>
        {
            node.store.withdraw(CopyKey { name, copy: own }).await;
            Ok(terms.acked(&first, position()?, true))
        }
        Claimed::Conflict(_) => Err(Failure::later(
            Reason::Unavailable,
            "another content of this block was first and has too few copies yet: put it again",
        )),
        Claimed::Went(_) => Err(Failure::later(
            Reason::Overtaken,
            "the block was evicted or deleted before it was acknowledged: put it again",
        )),
        Claimed::Overtaken => Err(Failure::later(
            Reason::Overtaken,
            "a delete or a newer generation overtook the put: put it again",
        )),
        Claimed::Stale => Err(Failure::later(
            Reason::Unavailable,
            "this node has begun a new start meanwhile: put it again",
        )),
        Claimed::UnknownNamespace => Err(Failure::never(
            Reason::Invalid,
            "the namespace is not known here: open it first",
        )),
    }
}

/// The bug of [`Mutation::AckBeforeApply`].
fn ack_early(
    node: &Node,
    name: BlockName,
    claim: Claim,
    terms: &Terms,
    deadline: Instant,
) -> Result<Acked, Failure> {
    let acked = Acked {
        level: match claim.copies.len() >= terms.replicas as usize {
            true => AckLevel::Replicated,
            false => AckLevel::Memory,
        },
        position: node.position().map_err(Failure::Unknown)?,
        copies: u32::try_from(claim.copies.len()).unwrap_or(u32::MAX),
        existed: false,
        put_hlc: claim.put_hlc,
    };
    let consensus = node.consensus.clone();
    node.tasks.spawn(async move {
        let kind = ChangeKind::Claim(claim);
        let claimed = consensus.submit(vec![BlockChange { name, kind }], deadline);
        drop(claimed.await);
    });
    Ok(acked)
}
