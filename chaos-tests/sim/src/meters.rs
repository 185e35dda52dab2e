//! The product's own counters, added up over all processes of a run: some of them must stay 0.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Costs one failed read and heals itself: told, and no bug while it is rare. What the directory
/// claims at the end is the auditor's business.
/// In one run; sound runs were seen to have no more. It is what finds a claim that is taken
/// whatever start it is of.
const STALE_CLAIMS_MAX: u64 = 1;
const STALE_CLAIMS: &str = "kvmesh_node_stale_claims_total";

/// What no run may count, and what it means when one does.
const NEVER: [(&str, &str); 3] = [
    (
        "kvmesh_node_checksum_failures_total",
        "Bytes: a node met bytes that are not their checksum",
    ),
    (
        "kvmesh_node_evictions_total",
        "Evicted: memory was short, which no run means to be",
    ),
    (
        "kvmesh_region_sync_mended_ranges_total",
        "Mended: a region-sync knew something of another region that was not so",
    ),
];

/// Keeps counters by name.
#[derive(Default)]
pub(crate) struct Meters {
    counters: RefCell<BTreeMap<String, Arc<AtomicU64>>>,
}

impl Meters {
    /// Copies that the directory claimed and their holders did not have.
    pub(crate) fn stale_claims(&self) -> u64 {
        let counters = self.counters.borrow();
        let counter = counters.get(STALE_CLAIMS);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// What was counted and must not be, in words.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let counters = self.counters.borrow();
        let counted = |(name, means): &(&str, &str)| {
            let count = counters.get(*name)?.load(Ordering::Relaxed);
            (count > 0).then(|| format!("{means}: {count} times"))
        };
        let mut wrong: Vec<String> = NEVER.iter().filter_map(counted).collect();
        let stale = self.stale_claims();
        if stale > STALE_CLAIMS_MAX {
            wrong.push(format!(
                "Claims: {stale} times the directory claimed a copy that its holder did not have"
            ));
        }
        wrong
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.counters.borrow_mut();
        let counter = counters.entry(key.name().to_owned()).or_default();
        Counter::from_arc(Arc::clone(counter))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_counted_is_told() {
        let meters = Meters::default();
        metrics::with_local_recorder(&meters, || {
            metrics::counter!("kvmesh_node_repairs_total", "instance" => "a").increment(1);
            metrics::counter!("kvmesh_node_evictions_total", "instance" => "a").increment(0);
            metrics::counter!("kvmesh_node_stale_claims_total", "instance" => "a").increment(1);
            assert_eq!(meters.wrong(), [""; 0]);
            assert_eq!(meters.stale_claims(), 1);
            metrics::counter!("kvmesh_node_stale_claims_total", "instance" => "b").increment(1);
            assert_eq!(meters.wrong().len(), 1);
            metrics::counter!("kvmesh_node_evictions_total", "instance" => "b").increment(2);
        });
        let wrong = meters.wrong();
        assert!(
            wrong.len() == 2 && wrong[0].ends_with("2 times"),
            "{wrong:?}"
        );
    }
}
