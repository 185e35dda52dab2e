//! Whether a planned get goes to other regions, by what it would take and what recomputing
//! would; see `directory/src/cost.rs` for the rule.

use std::{collections::BTreeMap, sync::Arc};

use kvmesh_directory::{
    RegionId,
    cost::{Advice, LinkCost, Pace, Prefill, Run, Time, Weighed as Both},
    namespace::Fallback,
};
use tokio::time::{Duration, Instant, timeout_at};

use crate::{
    coding,
    context::Gateway,
    far,
    patience::Patience,
    read::{Plan, Slot, Source},
    request::Want,
};

/// Bytes that a fetch must bring to tell something of a link: its first piece is not counted.
const PROBE_BYTES_MIN: u64 = 4 << 20;
/// Bytes from which on nothing is added to a probe.
const PROBE_BYTES: u64 = 8 << 20;
/// A block that is larger is not worth a probe.
const PROBE_BYTES_MAX: u64 = 64 << 20;
/// How long a probe may take.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// What a get of blocks that only other regions have is expected to take.
pub(crate) struct Weighed {
    /// Seconds to fetch them.
    pub(crate) fetch: Time,
    run: Run,
    prefill: Prefill,
    /// First planned position that comes from afar.
    first: usize,
    pace: Pace,
    bytes: f64,
}

/// What became of a plan.
pub(crate) enum Decided {
    /// Nothing comes from afar, or no prefill rate is known.
    Unweighed,
    /// It is as it was.
    Fetch(Weighed),
    /// Recomputing is faster: it was cut before the first block from afar.
    Recompute(Weighed),
}

/// Weighs a plan. A get that names its deadline has decided by itself.
pub(crate) fn weigh(gateway: &Arc<Gateway>, want: &Want, plan: &mut Plan) -> Decided {
    let far = |slot: &Slot| matches!(slot.sources.front(), Some(Source::Region(_)));
    let Some(slot) = plan.slots.iter().position(far) else {
        return Decided::Unweighed;
    };
    let first = slot / want.parts.len();
    let decides = decides(want);
    let Some(weighed) = weighed(gateway, want, plan, first) else {
        if decides {
            gateway.meters.decided("unknown");
        }
        return Decided::Unweighed;
    };
    let recompute = decides && weighed.advice() != Advice::Fetch;
    if decides {
        let decision = if recompute { "recompute" } else { "fetch" };
        gateway.meters.decided(decision);
    }
    if !recompute {
        return Decided::Fetch(weighed);
    }
    let left = plan.slots.split_off(first * want.parts.len());
    plan.run = first;
    plan.cut = false;
    probe(gateway, want, &left);
    Decided::Recompute(weighed)
}

/// Whether the policy leaves the decision to the model, and the caller, too.
fn decides(want: &Want) -> bool {
    want.namespace.policy.fallback == Fallback::WhenFaster && !want.deadline.named
}

/// None: no prefill rate is known.
fn weighed(gateway: &Gateway, want: &Want, plan: &Plan, first: usize) -> Option<Weighed> {
    let prefill = gateway.prefill.speed(&want.namespace)?;
    let mut lacking: BTreeMap<RegionId, u64> = BTreeMap::new();
    for slot in &plan.slots {
        if let Some(Source::Region(region)) = slot.sources.front() {
            *lacking.entry(region.clone()).or_default() += slot.bytes;
        }
    }
    let costs = lacking.iter().filter_map(|(region, bytes)| {
        let link = gateway.views.mesh.link(region)?;
        let cost = coding::cost(gateway, &want.namespace, region, &link);
        Some((cost, *bytes as f64))
    });
    // Regions are asked at the same time: the slowest one counts.
    let mean = |(cost, bytes): &(LinkCost, f64)| cost.fetch(*bytes).mean;
    let (slowest, own) = costs.max_by(|a, b| mean(a).total_cmp(&mean(b)))?;
    let bytes: u64 = lacking.values().sum();
    let block_tokens = want.namespace.description.block_tokens;
    Some(Weighed {
        fetch: slowest.fetch(own),
        pace: Pace::new(&slowest, own, bytes as f64),
        // Whatever lies behind the first lacking block has to be computed after it.
        run: Run {
            behind: u64::from(want.indexes[first]) * u64::from(block_tokens),
            blocks: (plan.run - first) as u32,
            block_tokens,
            bytes,
        },
        prefill,
        first,
        bytes: bytes as f64,
    })
}

impl Weighed {
    /// Seconds to recompute the planned positions from one on and before another.
    pub(crate) fn recompute(&self, from: usize, to: usize) -> f64 {
        let block = |position: usize| {
            let lacking = position.saturating_sub(self.first) as u32;
            lacking.min(self.run.blocks)
        };
        self.run.recompute(&self.prefill, block(from), block(to))
    }

    /// Seconds to recompute all that is lacking.
    pub(crate) fn recompute_all(&self) -> f64 {
        self.recompute(self.first, usize::MAX)
    }

    fn advice(&self) -> Advice {
        let both = Both {
            fetch: self.fetch,
            recompute: self.recompute_all(),
            split: None,
        };
        both.advice()
    }

    /// How long it is waited for; none: the policy or the caller says how long.
    pub(crate) fn patience(self: &Arc<Self>, want: &Want) -> Option<Patience> {
        let patience = || Patience::new(Arc::clone(self), self.pace, self.bytes);
        decides(want).then(patience)
    }
}

/// Fetches a little of what was left to be recomputed, where the link was not measured for
/// long: otherwise one that once was slow would never be asked again.
fn probe(gateway: &Arc<Gateway>, want: &Want, left: &[Slot]) {
    let Some(Some(Source::Region(region))) = left.first().map(|slot| slot.sources.front()) else {
        return;
    };
    let there = |slot: &&Slot| slot.sources.front() == Some(&Source::Region(region.clone()));
    let mut bytes = 0;
    let wanted: Vec<&Slot> = left
        .iter()
        .take_while(there)
        .take_while(|slot| {
            let more = bytes < PROBE_BYTES;
            bytes += slot.bytes;
            more
        })
        .collect();
    let bytes: u64 = wanted.iter().map(|slot| slot.bytes).sum();
    let fits = (PROBE_BYTES_MIN..=PROBE_BYTES_MAX).contains(&bytes);
    let link = gateway.views.mesh.link(region);
    if !fits || !link.is_some_and(|link| gateway.links.wants_probe(region, &link)) {
        return;
    }
    gateway.meters.decided("probe");
    let until = Instant::now() + PROBE_TIME;
    let (tickets, _) = far::join(gateway, want, region, &wanted, until);
    gateway.tasks.spawn(async move {
        for mut ticket in tickets {
            let _ = timeout_at(until, ticket.arrived()).await;
        }
    });
}
