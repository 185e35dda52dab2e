//! What a node's GPU tier counts.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

use crate::store::gpu::GpuUsage;

/// Handles of the metrics of one node's device.
pub(crate) struct GpuMetrics {
    used: Gauge,
    max: Gauge,
    copies: Gauge,
    copied_in: Counter,
    copied_out: Counter,
    corrupt: Counter,
    failures: Counter,
    skipped: Counter,
    pub(crate) evictions: Counter,
}

impl GpuMetrics {
    pub(super) fn new(instance: &Arc<str>) -> Self {
        let count = |name: &'static str| counter!(name, "instance" => instance.to_string());
        let bytes = |kind: &'static str| {
            let name = "kvmesh_node_gpu_bytes";
            gauge!(name, "instance" => instance.to_string(), "kind" => kind)
        };
        let copied = |direction: &'static str| {
            let name = "kvmesh_node_gpu_copied_bytes_total";
            counter!(name, "instance" => instance.to_string(), "direction" => direction)
        };
        let copies = "kvmesh_node_gpu_copies";
        Self {
            used: bytes("used"),
            max: bytes("max"),
            copies: gauge!(copies, "instance" => instance.to_string()),
            copied_in: copied("in"),
            copied_out: copied("out"),
            corrupt: count("kvmesh_node_gpu_corrupt_total"),
            failures: count("kvmesh_node_gpu_failures_total"),
            skipped: count("kvmesh_node_gpu_skipped_total"),
            evictions: count("kvmesh_node_gpu_evictions_total"),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub(crate) fn show(&self, usage: &GpuUsage) {
        self.used.set(usage.used as f64);
        self.max.set(usage.max as f64);
        self.copies.set(usage.copies as f64);
        self.copied_in.absolute(usage.copied_in);
        self.copied_out.absolute(usage.copied_out);
        self.corrupt.absolute(usage.corrupt);
        self.failures.absolute(usage.failures);
        self.skipped.absolute(usage.skipped);
    }
}
