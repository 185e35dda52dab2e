//! Commits which nodes hold a block.

use kvmesh_client::BlockMeta;
use kvmesh_directory::{
    BlockName, ChangeKind, ChangeOutcome, Copy,
    command::{BlockChange, Claim},
    state::Entry,
};
use kvmesh_process::telemetry::SPANS;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::{consensus::ProposeError, node::Node, store::Brief};

/// What became of a claim; the directory of this node shows it.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The block is present, held by at least one of the copies.
    Present(Entry),
    /// Another content was first; it is this.
    Conflict(Option<Entry>),
    /// It was present, as this says, and is not any more: what was accepted was evicted or
    /// deleted right after.
    Went(Entry),
    /// A delete or a newer generation overtook it.
    Overtaken,
    /// The copies are of a past start.
    Stale,
    /// The namespace is not known.
    UnknownNamespace,
}

/// The claim of copies of a block.
pub(crate) fn claim_of(meta: &BlockMeta, replicas: u32, copies: Vec<Copy>) -> Claim {
    claim_of_brief(&Brief::of(meta), replicas, copies)
}

/// As [`claim_of`], of a block that was not read.
pub(crate) fn claim_of_brief(brief: &Brief, replicas: u32, copies: Vec<Copy>) -> Claim {
    Claim {
        put_hlc: brief.put_hlc,
        checksum: brief.checksum,
        bytes: u32::try_from(brief.bytes).unwrap_or(u32::MAX),
        depth: brief.depth,
        replicas,
        copies,
    }
}

/// Claims copies of a block and says what the directory made of it.
///
/// # Errors
/// See the promises of [`ProposeError`].
pub(crate) async fn claim(
    node: &Node,
    name: BlockName,
    claim: Claim,
    deadline: Instant,
) -> Result<Claimed, ProposeError> {
    let claimed = entry_of(&claim);
    let kind = ChangeKind::Claim(claim);
    let changes = vec![BlockChange { name, kind }];
    let committing = node.consensus.submit(changes, deadline);
    let span = info_span!(target: SPANS, "commit");
    let (_, outcomes) = committing.instrument(span).await?;
    let entry = node.directory.with(|state| state.entry(&name));
    Ok(match outcomes.first() {
        Some(ChangeOutcome::Accepted) => match entry {
            Some(entry) => Claimed::Present(entry),
            None => Claimed::Went(claimed),
        },
        Some(ChangeOutcome::Conflict) => Claimed::Conflict(entry),
        Some(ChangeOutcome::Deleted) => Claimed::Overtaken,
        Some(ChangeOutcome::UnknownNamespace) => Claimed::UnknownNamespace,
        Some(ChangeOutcome::Stale) | None => Claimed::Stale,
    })
}

/// What a claim makes of a block that was not there.
fn entry_of(claim: &Claim) -> Entry {
    Entry {
        put_hlc: claim.put_hlc,
        checksum: claim.checksum,
        bytes: claim.bytes,
        depth: claim.depth,
        wanted: claim.replicas,
        holders: claim.copies.clone(),
    }
}
