//! What a node's disk tier counts.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

use crate::store::disk::DiskUsage;

/// Handles of the metrics of one node's disk.
pub(crate) struct DiskMetrics {
    used: Gauge,
    max: Gauge,
    live: Gauge,
    copies: Gauge,
    written: Counter,
    carried: Counter,
    read: Counter,
    syncs: Counter,
    corrupt: Counter,
    torn: Counter,
    failures: Counter,
    skipped: Counter,
    pub(crate) evictions: Counter,
}

impl DiskMetrics {
    pub(super) fn new(instance: &Arc<str>) -> Self {
        let count = |name: &'static str| counter!(name, "instance" => instance.to_string());
        let bytes = |kind: &'static str| {
            let name = "kvmesh_node_disk_bytes";
            gauge!(name, "instance" => instance.to_string(), "kind" => kind)
        };
        let written = |kind: &'static str| {
            let name = "kvmesh_node_disk_written_bytes_total";
            counter!(name, "instance" => instance.to_string(), "kind" => kind)
        };
        let copies = "kvmesh_node_disk_copies";
        Self {
            used: bytes("used"),
            max: bytes("max"),
            live: bytes("live"),
            copies: gauge!(copies, "instance" => instance.to_string()),
            written: written("blocks"),
            carried: written("carried"),
            read: count("kvmesh_node_disk_read_bytes_total"),
            syncs: count("kvmesh_node_disk_syncs_total"),
            corrupt: count("kvmesh_node_disk_corrupt_total"),
            torn: count("kvmesh_node_disk_torn_total"),
            failures: count("kvmesh_node_disk_failures_total"),
            skipped: count("kvmesh_node_disk_skipped_total"),
            evictions: count("kvmesh_node_disk_evictions_total"),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub(crate) fn show(&self, usage: &DiskUsage) {
        self.used.set(usage.used as f64);
        self.max.set(usage.max as f64);
        self.live.set(usage.live as f64);
        self.copies.set(usage.copies as f64);
        self.written.absolute(usage.written);
        self.carried.absolute(usage.carried);
        self.read.absolute(usage.read);
        self.syncs.absolute(usage.syncs);
        self.corrupt.absolute(usage.corrupt);
        self.torn.absolute(usage.torn);
        self.failures.absolute(usage.failures);
        self.skipped.absolute(usage.skipped);
    }
}
