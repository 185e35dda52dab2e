//! Whether an offered block is wanted.

use std::{sync::Arc, time::Duration};

use kvmesh_client::BlockMeta;
use kvmesh_directory::{BlockName, Copy, NodeId, state::Entry};
use tokio::time::{Instant, timeout_at};

use super::{Acked, Claimed, Failure, Flight, Reason, Terms, claim, claim::take_back, spread};
use crate::{
    node::Node,
    store::{CopyKey, Lookup},
};

/// A second writer waits at most so long for the first one, and then goes on by itself.
const JOIN_WAIT: Duration = Duration::from_secs(2);

/// What is to be done about an offer.
pub(crate) enum Decision {
    /// It is held at the level asked for.
    Have(Acked),
    /// Its bytes are wanted. None: another writer is slow, and both may go on.
    Send(Option<Flight>),
}

/// Decides about an offer; makes the missing copies of a block that is here with too few.
///
/// # Errors
/// When the level asked for cannot be reached.
pub(crate) async fn decide(
    node: &Node,
    name: BlockName,
    terms: &Terms,
    deadline: Instant,
) -> Result<Decision, Failure> {
    let patience = deadline.min(Instant::now() + JOIN_WAIT);
    let flight = loop {
        match node.flights.begin(name) {
            Ok(flight) => break Some(flight),
            Err(mut busy) => {
                if timeout_at(patience, busy.changed()).await.is_err() {
                    break None;
                }
            }
        }
    };
    Ok(match standing(node, name, terms, deadline).await? {
        Some(acked) => Decision::Have(acked),
        None => Decision::Send(flight),
    })
}

/// The acknowledgement of a block that is here already. None: this node does not have it.
async fn standing(
    node: &Node,
    name: BlockName,
    terms: &Terms,
    deadline: Instant,
) -> Result<Option<Acked>, Failure> {
    let Some((entry, key)) = node.listed(&name) else {
        return Ok(None);
    };
    if !node.store.holds(key) {
        node.stale_claim(key);
        return Ok(None);
    }
    node.store.put_again(key);
    let entry = complete(node, name, entry, terms, deadline).await?;
    let position = node.position().map_err(Failure::Unknown)?;
    Ok(Some(terms.acked(&entry, position, true)))
}

/// Makes the copies that a present block lacks for the level asked for.
pub(super) async fn complete(
    node: &Node,
    name: BlockName,
    mut entry: Entry,
    terms: &Terms,
    deadline: Instant,
) -> Result<Entry, Failure> {
    let too_few = |have: usize| {
        let needed = terms.needed();
        let message = format!("{have} of {needed} owners have the block: the others do not answer");
        Failure::later(Reason::Unavailable, message)
    };
    while entry.holders.len() < terms.needed() {
        let have = entry.holders.len();
        let block = match own_copy(node, name, &entry) {
            Some(key) => node.store.read(key).await,
            None => Lookup::Miss,
        };
        let Lookup::Hit(block) = block else {
            return Err(too_few(have));
        };
        let holders: Vec<NodeId> = entry.holders.iter().map(|copy| copy.node).collect();
        let block = Arc::new(kvmesh_client::Block {
            meta: BlockMeta {
                put_hlc: entry.put_hlc,
                ..block.meta.clone()
            },
            pieces: block.pieces.clone(),
        });
        let missing = terms.needed() - have;
        let copies = spread(node, name, &block, missing, &holders, deadline).await;
        if copies.is_empty() {
            return Err(too_few(have));
        }
        let claim = super::claim_of(&block.meta, terms.replicas, copies);
        match claim::claim(node, name, claim, deadline)
            .await
            .map_err(Failure::of_claim)?
        {
            Claimed::Present(now) if now.holders.len() > have => entry = now,
            Claimed::Overtaken => {
                return Err(Failure::later(
                    Reason::Overtaken,
                    "a delete overtook the put",
                ));
            }
            _ => return Err(too_few(have)),
        }
    }
    Ok(entry)
}

fn own_copy(node: &Node, name: BlockName, entry: &Entry) -> Option<CopyKey> {
    let copy = *entry.holders.iter().find(|copy| copy.node == node.me)?;
    Some(CopyKey { name, copy })
}

/// As [`complete`], for a block that this put made present: when it fails, the put's copies
/// are taken back.
pub(super) async fn complete_or_take_back(
    node: &Node,
    name: BlockName,
    entry: Entry,
    terms: &Terms,
    copies: &[Copy],
    deadline: Instant,
) -> Result<Entry, Failure> {
    match complete(node, name, entry, terms, deadline).await {
        Err(refused @ Failure::Refused { .. }) => {
            // The deadline may be over; without an answer the outcome would be unknown.
            let until = deadline.max(Instant::now() + Duration::from_secs(1));
            let taken = take_back(node, name, copies, until).await;
            Err(taken.map_or_else(|error| Failure::Unknown(error.into()), |()| refused))
        }
        other => other,
    }
}
