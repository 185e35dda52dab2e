//! Putting blocks: offered first, sent when wanted, each tried again on its own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use kvmesh_directory::{
    FeedPosition, Namespace, NamespaceId, Part, RingEpoch, namespace::AckLevel,
};
use tokio::time::{Instant, timeout_at};

use super::{
    CallError, Path, Shared,
    attempts::Attempts,
    put_attempt::{self, Way},
    to_nodes,
};
use crate::{block::Block, refusal::RefusalReason, rpc::PutOpen};

/// Bounds a put whose deadline is left to the gateway.
const DEADLINE_MAX: Duration = Duration::from_secs(30);

/// A block to put.
#[derive(Debug, Clone)]
pub struct PutBlock {
    /// The engine's hash, as wide as the namespace says.
    pub hash: Bytes,
    /// Slice of the block.
    pub part: Part,
    /// Its bytes, with its depth in the chain.
    pub block: Block,
}

/// How to put blocks.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// How sure before it is acknowledged. None: the namespace's policy decides.
    pub ack: Option<AckLevel>,
    /// Bounds the whole put, and overrides the gateway's own bound of one block. None: the
    /// gateway's.
    pub deadline: Option<Duration>,
}

/// What became of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutResult {
    /// It is stored.
    Acked(Acked),
    /// It was not stored.
    Refused(Refused),
    /// No gateway said: it may have been stored. Putting it again is safe.
    Unanswered {
        /// What went wrong last.
        why: String,
    },
}

/// A block that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// The level reached.
    pub level: AckLevel,
    /// A view at this position shows the block.
    pub position: FeedPosition,
    /// Distinct nodes that hold it, as committed.
    pub copies: u32,
    /// It was there before this put.
    pub existed: bool,
    /// Which way it went.
    pub path: Path,
}

/// A block that was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why, for programs.
    pub reason: RefusalReason,
    /// Why, for people.
    pub message: String,
    /// When to try again; none: never as it is.
    pub retry_after: Option<Duration>,
}

impl Refused {
    /// Whether the same block may be taken after a moment.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        // Of these the block itself is not the cause, whatever hint came.
        let passing = matches!(
            self.reason,
            RefusalReason::Unavailable
                | RefusalReason::StaleEpoch
                | RefusalReason::Overtaken
                | RefusalReason::Truncated
                | RefusalReason::OutOfTime
        );
        passing || self.retry_after.is_some()
    }
}

/// What is known of each block; none: nothing yet.
pub(super) type Results = Vec<Option<PutResult>>;

pub(super) async fn put(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    blocks: &[PutBlock],
    options: PutOptions,
) -> Result<Vec<PutResult>, CallError> {
    let deadline = Instant::now() + options.deadline.unwrap_or(DEADLINE_MAX);
    let mut attempts = Attempts::new(Arc::clone(shared), "put", deadline);
    let mut results: Results = vec![None; blocks.len()];
    let mut why = "the deadline passed".to_owned();
    // Blocks that an attempt may have stored without saying so.
    let mut perhaps = BTreeSet::new();
    if let (Some(_), Ok(attempt)) = (&shared.nodes, attempts.begin()) {
        let open = opening(namespace.id, &options, attempt.left);
        to_nodes::put(
            shared,
            (attempts.at(), attempt.rpc),
            (&open, namespace.policy.replicas),
            blocks,
            (deadline, attempts.silent()),
            &mut results,
            &mut perhaps,
        )
        .await;
        note_positions(shared, attempts.at(), results.iter().flatten());
    }
    loop {
        let pending = pending(&results);
        if pending.is_empty() {
            break;
        }
        let hint = hint(&results);
        let again = results.iter().any(Option::is_some) && hint.is_some();
        if again && !attempts.pause(hint).await {
            break;
        }
        let Ok(attempt) = attempts.begin() else { break };
        let open = opening(namespace.id, &options, attempt.left);
        // What this attempt does not answer is not known: it may store what an earlier one
        // refused.
        pending.iter().for_each(|index| results[*index] = None);
        let mut given = BTreeSet::new();
        let attempt = put_attempt::run(
            Way::Rpc(attempt.rpc),
            open,
            blocks,
            &pending,
            &mut results,
            &mut given,
        );
        let attempt = async {
            tokio::select! {
                biased;
                ended = attempt => ended,
                silent = attempts.silent() => Err(silent.into()),
            }
        };
        let ended = timeout_at(deadline, attempt).await;
        given.retain(|index| results[*index].is_none());
        perhaps.append(&mut given);
        let now = pending.iter().filter_map(|index| results[*index].as_ref());
        note_positions(shared, attempts.at(), now);
        if matches!(ended, Ok(Ok(()))) {
            attempts.answered();
        }
        match ended {
            Err(_) => break,
            Ok(Ok(())) => {
                let unanswered = results.iter().any(Option::is_none);
                if unanswered {
                    let error = attempts.protocol("it ended before every block was answered");
                    why = error.to_string();
                    if attempts.retry(error).await.is_err() {
                        break;
                    }
                }
            }
            Ok(Err(error)) => {
                let error = error.explain(&attempts);
                why = error.to_string();
                if let Err(error) = attempts.retry(error).await {
                    if results.iter().all(Option::is_none) {
                        return Err(error);
                    }
                    break;
                }
            }
        }
    }
    let settle = |(index, result)| match result {
        // A later gateway did not store it; an earlier one may have.
        Some(PutResult::Refused(refused)) if perhaps.contains(&index) => PutResult::Unanswered {
            why: refused.message,
        },
        Some(result) => result,
        None => PutResult::Unanswered { why: why.clone() },
    };
    Ok(results.into_iter().enumerate().map(settle).collect())
}

fn opening(namespace: NamespaceId, options: &PutOptions, left: Duration) -> PutOpen {
    PutOpen {
        namespace,
        ack: options.ack,
        epoch: RingEpoch(0),
        overrides: options.deadline.is_some(),
        left,
    }
}

/// Blocks that are not answered for good.
fn pending(results: &Results) -> Vec<usize> {
    let open = |result: &Option<PutResult>| match result {
        None => true,
        Some(PutResult::Refused(refused)) => refused.is_retryable(),
        Some(_) => false,
    };
    let indexed = results.iter().enumerate();
    indexed
        .filter(|(_, result)| open(result))
        .map(|(index, _)| index)
        .collect()
}

/// When the refused blocks may be tried again: the latest hint; none: no block was refused.
fn hint(results: &Results) -> Option<Duration> {
    let refused = results.iter().filter_map(|result| match result {
        Some(PutResult::Refused(refused)) if refused.is_retryable() => {
            Some(refused.retry_after.unwrap_or_default())
        }
        _ => None,
    });
    refused.max()
}

/// Of results that came by a gateway, or by the nodes of its region.
fn note_positions<'a>(shared: &Shared, at: usize, results: impl Iterator<Item = &'a PutResult>) {
    for result in results {
        if let PutResult::Acked(acked) = result {
            shared.positions.note(&acked.position);
            shared.gateways.resides(at, &acked.position.region);
        }
    }
}
