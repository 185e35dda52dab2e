//! Whether a planned get goes to other regions, by what it would take and what recomputing
//! would; see `recompute` for the rule.

use std::collections::BTreeMap;

use kvmesh_directory::{RegionId, namespace::Fallback};

use crate::{
    context::Gateway,
    far::estimate_ms,
    read::{Plan, Source},
    recompute::Speed,
    request::Want,
};

/// What a get of blocks that only other regions have is expected to take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weighed {
    pub(crate) fetch_ms: f64,
    pub(crate) recompute_ms: f64,
}

/// Weighs a plan; none: nothing comes from afar, or no prefill rate is known. When the
/// policy says so and recomputing is faster, the plan is cut before the first block from
/// afar, and the second value is true. A get that names its deadline has decided by itself.
pub(crate) fn weigh(gateway: &Gateway, want: &Want, plan: &mut Plan) -> (Option<Weighed>, bool) {
    let mut lacking: BTreeMap<RegionId, u64> = BTreeMap::new();
    let mut local = None;
    for (at, slot) in plan.slots.iter().enumerate() {
        if let Some(Source::Region(region)) = slot.sources.front() {
            *lacking.entry(region.clone()).or_default() += slot.bytes;
            local = local.or(Some(at / want.parts.len()));
        }
    }
    let Some(local) = local else {
        return (None, false);
    };
    let decides = want.namespace.policy.fallback == Fallback::WhenFaster && !want.deadline.named;
    let meters = &gateway.meters;
    let speed = Speed {
        block_tokens: want.namespace.description.block_tokens,
        rate: gateway.prefill.rate(&want.namespace),
    };
    // Whatever lies behind the first lacking block has to be computed after it.
    let Some(recompute_ms) = speed.recompute_ms(plan.run - local) else {
        if decides {
            meters.decided("unknown");
        }
        return (None, false);
    };
    let estimate = |(region, bytes): (&RegionId, &u64)| {
        let link = gateway.views.mesh.link(region);
        link.map_or(0.0, |link| estimate_ms(&link, *bytes))
    };
    // Regions are asked at the same time.
    let fetch_ms = lacking.iter().map(estimate).fold(0.0, f64::max);
    let weighed = Weighed {
        fetch_ms,
        recompute_ms,
    };
    let declined = decides && fetch_ms > recompute_ms;
    if decides {
        meters.decided(if declined { "recompute" } else { "fetch" });
    }
    if declined {
        plan.slots.truncate(local * want.parts.len());
        plan.run = local;
        plan.cut = false;
    }
    (Some(weighed), declined)
}
