//! The whole read policy: who is asked for which block, in which order, for how long, and
//! when a run ends.
//!
//! Local holders come before other regions, nearer regions before farther ones. A wanted
//! range is cut at the first index of which a part is nowhere. A source that fails is
//! replaced by the next; without a next one the run ends there.
//!
//! Not here: how nodes (`local`) and regions (`far`, `flight`) are asked, and how their
//! streams become one (`merge`).

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use kvmesh_client::{
    Problem,
    client::{LeftOut, LeftOutReason},
    follow::Link,
};
use kvmesh_directory::{
    BlockName, DirectoryState, MeshView, NodeId, Part, RegionId, namespace::Fallback,
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    absent::Lacking,
    context::Gateway,
    fill::Filled,
    frame::{Frame, Outcome, Summary},
    hot,
    merge::{Merge, Run},
    reach::{self, Others, Under},
    request::{Position, Want},
    weigh::{Decided, Weighed, weigh},
};

/// Bytes that one round of calls to nodes asks for; two rounds are under way at most.
pub(crate) const ROUND_BYTES: u64 = 8 << 20;
/// Blocks of one round.
pub(crate) const ROUND_SLOTS: usize = 1_024;
/// How long the last message may wait for a slow client.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// Who can be asked for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A holder of this region.
    Node(NodeId),
    /// A gateway of another region.
    Region(RegionId),
}

/// What the views say about one block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// Holders, the one to ask first in front.
    pub(crate) nodes: Vec<NodeId>,
    /// Other regions that may be asked, the nearest first.
    pub(crate) regions: Vec<RegionId>,
    pub(crate) bytes: u64,
    /// A nearer region has it and is lost: asking the others is a failover.
    pub(crate) failover: bool,
}

/// One block to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Place in the chain.
    pub(crate) index: u32,
    pub(crate) part: Part,
    pub(crate) name: BlockName,
    /// As the views say.
    pub(crate) bytes: u64,
    /// Those of them that are sent.
    pub(crate) asked: u64,
    /// Those not asked in vain yet; the front one is asked.
    pub(crate) sources: VecDeque<Source>,
    /// See [`Whereabouts::failover`].
    pub(crate) failover: bool,
}

impl Slot {
    /// Asked first of another region.
    pub(crate) fn is_far(&self) -> bool {
        matches!(self.sources.front(), Some(Source::Region(_)))
    }
}

/// What a get sends, if no source fails.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of sending: chain order, parts innermost.
    pub(crate) slots: Vec<Slot>,
    /// Chain positions.
    pub(crate) run: usize,
    /// The next wanted position is nowhere.
    pub(crate) cut: bool,
}

/// Plans a get from what the views say about each block.
pub(crate) fn plan(want: &Want, mut find: impl FnMut(&BlockName) -> Whereabouts) -> Plan {
    let mut slots = Vec::with_capacity(want.indexes.len() * want.parts.len());
    for (run, &index) in want.indexes.iter().enumerate() {
        let before = slots.len();
        for &part in &want.parts {
            let name = want.name(index, part);
            let found = find(&name);
            let nodes = found.nodes.into_iter().map(Source::Node);
            let regions = found.regions.into_iter().map(Source::Region);
            let sources: VecDeque<Source> = nodes.chain(regions).collect();
            if sources.is_empty() {
                slots.truncate(before);
                return Plan {
                    slots,
                    run,
                    cut: true,
                };
            }
            slots.push(Slot {
                index,
                part,
                name,
                bytes: found.bytes,
                asked: want.ranges.touched_bytes(found.bytes),
                failover: found.failover,
                sources,
            });
        }
    }
    Plan {
        slots,
        run: want.indexes.len(),
        cut: false,
    }
}

/// The order in which to ask holders: spread by name and turn, those that live and did not
/// fail a moment ago first.
pub(crate) fn holders_in_turn(
    mut holders: Vec<NodeId>,
    point: u64,
    turn: usize,
    well: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    if holders.len() > 1 {
        let by = (point as usize ^ turn) % holders.len();
        holders.rotate_left(by);
        holders.sort_by_key(|&node| !well(node));
    }
    holders
}

/// Rounds in which nodes are asked, so that a slow client holds up nodes and not memory.
pub(crate) fn rounds(slots: &[Slot]) -> VecDeque<Range<usize>> {
    let mut rounds = VecDeque::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, slot) in slots.iter().enumerate() {
        let full = bytes + slot.asked > ROUND_BYTES || at - start == ROUND_SLOTS;
        if full && at > start {
            rounds.push_back(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += slot.asked;
    }
    if start < slots.len() {
        rounds.push_back(start..slots.len());
    }
    rounds
}

/// Until when a get waits for other regions; none: they are not asked.
pub(crate) fn far_until(gateway: &Gateway, want: &Want, now: Instant) -> Option<Instant> {
    if want.from_afar {
        return None;
    }
    let bounded = now + Duration::from_millis(gateway.settings.now().remote_fetch_max_ms);
    match want.namespace.policy.fallback {
        Fallback::Never => None,
        Fallback::Always => Some(want.deadline.at),
        // Where no prefill rate is known, this bound is what decides (`weigh`).
        Fallback::WhenFaster if want.deadline.named => Some(want.deadline.at),
        Fallback::WhenFaster => Some(bounded.min(want.deadline.at)),
    }
}

/// Serves a get into `out`, the summary last.
pub(crate) async fn get(
    gateway: Arc<Gateway>,
    want: Want,
    position: Position,
    out: mpsc::Sender<Frame>,
) -> Result<(), Problem> {
    let begun = Instant::now();
    let far_until = far_until(&gateway, &want, begun);
    let mut others = match far_until {
        Some(_) => reach::others(&gateway, &want.namespace),
        None => Others::default(),
    };
    let mut under = gateway.reach.get_begins();
    let mut plan = plan_from_views(&gateway, &want, &others);
    // Before it is cut, by whatever rule: some region has them.
    let matched = tokens(&want, plan.run);
    if !want.from_afar {
        hot::wanted(&gateway, &want, &plan);
    }
    turn(&gateway, &want, &mut plan, &mut under, &mut others);
    let (weighed, declined) = match weigh(&gateway, &want, &mut plan) {
        Decided::Unweighed => (None, false),
        Decided::Fetch(weighed) => (Some(Arc::new(weighed)), false),
        Decided::Recompute(weighed) => (Some(Arc::new(weighed)), true),
    };
    check_ranges(&want, &plan)?;
    let mut summary = if plan.run < want.blocks_min as usize {
        Summary::nothing(Outcome::TooShort, position)
    } else {
        let planned = plan.slots.iter().map(|slot| slot.asked).sum::<u64>();
        let share = planned.min(2 * ROUND_BYTES);
        let _share = gateway.get_bytes.take(share, want.deadline.at).await?;
        let patience = weighed.as_ref().and_then(|it| it.patience(&want));
        let patience = patience.filter(|_| !declined);
        let slots = plan.slots;
        let merge = Merge::new(&gateway, &want, slots, far_until, patience, &out, under);
        let served = async {
            let mut run = merge.run(plan.cut).await?;
            let took = begun.elapsed();
            let fills = wait_for_fills(&want, std::mem::take(&mut run.fills)).await;
            Some((run, took, fills))
        };
        // Whoever waits for the client's sake stops when it goes.
        let served = tokio::select! {
            served = served => served,
            () = out.closed() => None,
        };
        let Some((run, took, fills)) = served else {
            return Ok(());
        };
        if let Some(refused) = run.refused {
            return Err(refused);
        }
        let saved = weighed.as_ref().filter(|_| !declined);
        Summary {
            saved_ms: saved.and_then(|weighed| saved_ms(weighed, &run, took)),
            outcome: match run.outcome {
                Outcome::Complete if declined => Outcome::Recompute,
                other => other,
            },
            blocks: run.blocks,
            tokens: tokens(&want, run.blocks as usize),
            sources: run.sources,
            matched_tokens: 0,
            estimated_fetch_ms: run.estimated_fetch.map(|time| time.p50 * 1e3),
            estimated_fetch_p95_ms: run.estimated_fetch.map(|time| time.p95 * 1e3),
            estimated_recompute_ms: None,
            fetch_ms: run.fetch_ms,
            position,
            fill_position: fills.0,
            fill_failures: fills.1,
            local_only: false,
            left_out: Vec::new(),
        }
    };
    summary.local_only = others.local_only();
    summary.left_out = others.left_out;
    summary.matched_tokens = matched;
    if let Some(weighed) = weighed {
        let (p50, p95) = (weighed.fetch.p50 * 1e3, weighed.fetch.p95 * 1e3);
        summary.estimated_fetch_ms.get_or_insert(p50);
        summary.estimated_fetch_p95_ms.get_or_insert(p95);
        summary.estimated_recompute_ms = Some(weighed.recompute_all() * 1e3);
    }
    if !want.from_afar {
        count(&gateway, &want, &summary);
    }
    // The deadline may have passed already; the summary is what the caller then waits for.
    let _ = tokio::time::timeout(FAREWELL, out.send(Frame::Summary(summary))).await;
    Ok(())
}

fn tokens(want: &Want, blocks: usize) -> u64 {
    blocks as u64 * u64::from(want.namespace.description.block_tokens)
}

/// What recomputing the blocks that came from afar would have taken, less what they took.
fn saved_ms(weighed: &Weighed, run: &Run, took: Duration) -> Option<f64> {
    let waited = match run.outcome {
        // It was waited for what did not come, too.
        Outcome::OutOfTime | Outcome::Recompute => Some(took.as_secs_f64() * 1e3),
        _ => run.fetch_ms,
    };
    waited.map(|waited| weighed.recompute(0, run.blocks as usize) * 1e3 - waited)
}

/// Counts tokens by where they came from, and what a decision to fetch has cost.
fn count(gateway: &Gateway, want: &Want, summary: &Summary) {
    for source in &summary.sources {
        gateway.meters.served_tokens(&source.region, source.tokens);
    }
    let left = tokens(want, want.indexes.len()) - summary.tokens;
    gateway.meters.left_tokens(summary.outcome.name(), left);
    if let Some(saved) = summary.saved_ms {
        gateway.meters.regretted((-saved).max(0.0) / 1e3);
    }
}

/// Refuses ranges that a block of this region does not have, before anything is sent. What the
/// mesh view says of others is a hint: they say so themselves.
fn check_ranges(want: &Want, plan: &Plan) -> Result<(), Problem> {
    let here = |slot: &&Slot| matches!(slot.sources.front(), Some(Source::Node(_)));
    let mut local = plan.slots.iter().filter(here);
    Ok(local.try_for_each(|slot| want.ranges.check(slot.bytes))?)
}

/// Where the nearest region of a block is lost, the get turns to others, if it may; else the
/// plan is cut before the first such block.
fn turn(gateway: &Gateway, want: &Want, plan: &mut Plan, under: &mut Under, others: &mut Others) {
    let fails_over = |slot: &Slot| slot.is_far() && slot.failover;
    let Some(first) = plan.slots.iter().position(fails_over) else {
        return;
    };
    let may = under.may_turn(gateway.settings.now().failover_share_max_permille);
    gateway.meters.turned(may);
    if may {
        return;
    }
    if let Some(Source::Region(region)) = plan.slots[first].sources.front() {
        others.left_out.push(LeftOut {
            region: region.clone(),
            reason: LeftOutReason::FailoverShare,
        });
    }
    let run = first / want.parts.len();
    plan.slots.truncate(run * want.parts.len());
    (plan.run, plan.cut) = (run, true);
}

/// Plans from both views; the others that may be asked come in their order.
pub(crate) fn plan_from_views(gateway: &Gateway, want: &Want, others: &Others) -> Plan {
    let turn = gateway.peers.turn();
    let lacking = gateway.absent.read();
    gateway.views.local.with(|state| {
        gateway.views.mesh.with(|mesh| {
            let sight = (state, mesh, &lacking);
            plan(want, |name| find(gateway, sight, others, turn, name))
        })
    })
}

fn find(
    gateway: &Gateway,
    (state, mesh, lacking): (&DirectoryState, &MeshView, &Lacking<'_>),
    others: &Others,
    turn: usize,
    name: &BlockName,
) -> Whereabouts {
    let mut found = Whereabouts::default();
    if !others.asked.is_empty() {
        let (set, bytes) = mesh.whereabouts(name.tag());
        let set = lacking.less(mesh, name, set);
        let has = |(region, _): &&(RegionId, Link)| mesh.names(set, region);
        let named: Vec<_> = others.asked.iter().filter(has).collect();
        found.failover = named.first().is_some_and(|(_, asked)| {
            let nearer = |(_, lost): &(RegionId, Link)| lost.rtt_ms <= asked.rtt_ms;
            others.lost.iter().filter(has).any(nearer)
        });
        found.regions = named
            .into_iter()
            .map(|(region, _)| region.clone())
            .collect();
        found.bytes = bytes.into();
    }
    if let Some(entry) = state.entry(name) {
        let holders = entry.holders.iter().map(|copy| copy.node).collect();
        let well = |node| {
            let alive = state.node(node).is_some_and(|record| record.alive);
            let member = state.topology().member(node);
            alive && member.is_some_and(|member| !gateway.peers.is_failing(&member.address))
        };
        found.nodes = holders_in_turn(holders, name.point(), turn, well);
        found.bytes = entry.bytes.into();
    }
    found
}

/// The newest position of the fills, and how many failed; those that take longer than the call count as failed.
async fn wait_for_fills(want: &Want, fills: Vec<Filled>) -> (Position, u32) {
    if !want.await_fill {
        return (None, 0);
    }
    let (mut newest, mut failures): (Position, u32) = (None, 0);
    for fill in fills {
        match fill.wait(want.deadline.at).await {
            Some(at) if newest.as_ref().is_none_or(|newest| at.index > newest.index) => {
                newest = Some(at);
            }
            Some(_) => {}
            None => failures += 1,
        }
    }
    (newest, failures)
}

#[cfg(test)]
#[path = "read_test.rs"]
mod read_test;
