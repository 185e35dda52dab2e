//! Whether an offered block is wanted.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kvmesh_client::{BlockMeta, Problem};
use kvmesh_directory::{BlockName, NodeId, state::Entry};
use tokio::time::{Instant, timeout_at};

use super::{Acked, Claimed, Failure, Flight, Reason, Terms, claim, confirm, spread};
use crate::{
    node::Node,
    store::{CopyKey, Lookup, disk::NotDurable},
};

/// A second writer waits for the first one until that has not got on for so long, and then
/// goes on by itself. The first one's client may be sending other blocks meanwhile.
const JOIN_WAIT: Duration = Duration::from_secs(10);

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
    if terms.durable() && !node.store.has_disk() {
        return Err(Failure::of_disk(NotDurable::NoDisk));
    }
    let flight = loop {
        match node.flights.begin(name) {
            Ok(flight) => break Some(flight),
            Err(mut busy) => {
                let patience = deadline.min(Instant::now() + JOIN_WAIT);
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
    if node.is_withheld(key) {
        let why = "a copy that went through a lossy encoding, which the policy does not allow any \
                   more, is being let go: put it again";
        return Err(Failure::later(Reason::Unavailable, why));
    }
    node.store.put_again(key);
    node.store.touch(&[key]);
    let holders = confirm::holders(node, name, &entry, terms, deadline).await;
    let entry = complete(node, name, entry, &holders, terms, deadline).await?;
    let position = node.position().map_err(Failure::Unknown)?;
    Ok(Some(terms.acked(&entry, position, true)))
}

/// Makes the copies that a present block lacks for the level asked for; `sure` are the
/// holders that surely have it.
pub(super) async fn complete(
    node: &Node,
    name: BlockName,
    mut entry: Entry,
    sure: &BTreeSet<NodeId>,
    terms: &Terms,
    deadline: Instant,
) -> Result<Entry, Failure> {
    let too_few = |have: usize| {
        let needed = terms.needed();
        let (kept, why) = match terms.durable() {
            true => (" on disk", ", or their disks take nothing now"),
            false => ("", ""),
        };
        let message = format!(
            "{have} of {needed} owners have the block{kept}: the others do not answer{why}"
        );
        Failure::later(Reason::Unavailable, message)
    };
    let mut sure = sure.clone();
    while sure.len() < terms.needed() {
        let have = sure.len();
        let block = match own_copy(node, name, &entry) {
            Some(key) => node.store.read(key).await,
            None => Lookup::Miss,
        };
        let Lookup::Hit(block) = block else {
            return Err(too_few(have));
        };
        let block = Arc::new(kvmesh_client::Block {
            meta: BlockMeta {
                put_hlc: entry.put_hlc,
                ..block.meta.clone()
            },
            pieces: block.pieces.clone(),
        });
        // One that is listed and did not confirm has it, or its copy is not to be had now.
        let mut except: Vec<NodeId> = entry.holders.iter().map(|copy| copy.node).collect();
        except.extend(&sure);
        let missing = (terms.needed() - have, terms.durable());
        let copies = spread(node, name, &block, missing, &except, deadline).await;
        if copies.is_empty() {
            return Err(too_few(have));
        }
        let took: Vec<NodeId> = copies.iter().map(|copy| copy.node).collect();
        let claim = super::claim_of(&block.meta, terms.replicas, copies);
        match claim::claim(node, name, claim, deadline)
            .await
            .map_err(Failure::of_claim)?
        {
            Claimed::Present(now) => {
                let listed = |node: &NodeId| now.holders.iter().any(|copy| copy.node == *node);
                sure.extend(took.iter().filter(|node| listed(node)));
                if sure.len() == have {
                    return Err(too_few(have));
                }
                entry = now;
            }
            Claimed::Overtaken | Claimed::Went(_) => {
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

/// As [`complete`], for a block that this put made present: others may rely on its copies by
/// now, so that they cannot be taken back, and who wants more of them is not told that
/// nothing was stored.
pub(super) async fn complete_own(
    node: &Node,
    name: BlockName,
    entry: Entry,
    terms: &Terms,
    deadline: Instant,
) -> Result<Entry, Failure> {
    let sure = match terms.durable() {
        true => confirm::holders(node, name, &entry, terms, deadline).await,
        // They were committed a moment ago, these among them.
        false => entry.holders.iter().map(|copy| copy.node).collect(),
    };
    match complete(node, name, entry, &sure, terms, deadline).await {
        Err(Failure::Refused {
            reason, message, ..
        }) if reason != Reason::Overtaken => Err(Failure::Unknown(Problem::unavailable(message))),
        other => other,
    }
}
