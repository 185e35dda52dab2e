//! What a node counts. Names and labels are bounded and listed here only.

mod disk;
mod gpu;
mod local;

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

pub(crate) use disk::DiskMetrics;
pub(crate) use gpu::GpuMetrics;
pub(crate) use local::LocalMetrics;

/// Handles of all metrics of one node.
pub(crate) struct Metrics {
    pub(crate) blocks: Gauge,
    pub(crate) under_replicated: Gauge,
    pub(crate) tombstones: Gauge,
    pub(crate) applied_index: Gauge,
    pub(crate) memory_used: Gauge,
    pub(crate) memory_max: Gauge,
    pub(crate) memory_mapped: Gauge,
    pub(crate) memory_scattered: Gauge,
    pub(crate) copies: Gauge,
    pub(crate) provisional: Gauge,
    pub(crate) leases: Gauge,
    pub(crate) leased_copies: Gauge,
    pub(crate) leased_bytes: Gauge,
    pub(crate) get_hits: Counter,
    pub(crate) get_misses: Counter,
    pub(crate) get_bytes: Counter,
    pub(crate) puts_stored: Counter,
    pub(crate) puts_existed: Counter,
    pub(crate) puts_refused: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) copies_received: Counter,
    pub(crate) evictions: Counter,
    pub(crate) expired: Counter,
    pub(crate) outlived: Counter,
    pub(crate) stale_claims: Counter,
    pub(crate) checksum_failures: Counter,
    pub(crate) repairs: Counter,
    pub(crate) repair_failures: Counter,
    pub(crate) move_blocks_left: Gauge,
    pub(crate) disk: DiskMetrics,
    pub(crate) gpu: GpuMetrics,
    pub(crate) local: LocalMetrics,
}

impl Metrics {
    pub(crate) fn new(instance: &Arc<str>) -> Self {
        let count = |name: &'static str, outcome: Option<&'static str>| match outcome {
            None => counter!(name, "instance" => instance.to_string()),
            Some(outcome) => {
                counter!(name, "instance" => instance.to_string(), "outcome" => outcome)
            }
        };
        let level = |name: &'static str| gauge!(name, "instance" => instance.to_string());
        let memory = |kind: &'static str| {
            let name = "kvmesh_node_memory_bytes";
            gauge!(name, "instance" => instance.to_string(), "kind" => kind)
        };
        Self {
            blocks: level("kvmesh_blocks"),
            under_replicated: level("kvmesh_blocks_under_replicated"),
            tombstones: level("kvmesh_tombstones"),
            applied_index: level("kvmesh_node_applied_index"),
            memory_used: memory("used"),
            memory_max: memory("max"),
            memory_mapped: memory("mapped"),
            memory_scattered: memory("scattered"),
            copies: level("kvmesh_node_copies"),
            provisional: level("kvmesh_node_copies_provisional"),
            leases: level("kvmesh_node_leases"),
            leased_copies: level("kvmesh_node_leased_copies"),
            leased_bytes: level("kvmesh_node_leased_bytes"),
            get_hits: count("kvmesh_node_get_blocks_total", Some("hit")),
            get_misses: count("kvmesh_node_get_blocks_total", Some("miss")),
            get_bytes: count("kvmesh_node_get_bytes_total", None),
            puts_stored: count("kvmesh_node_put_blocks_total", Some("stored")),
            puts_existed: count("kvmesh_node_put_blocks_total", Some("existed")),
            puts_refused: count("kvmesh_node_put_blocks_total", Some("refused")),
            put_bytes: count("kvmesh_node_put_bytes_total", None),
            copies_received: count("kvmesh_node_copies_received_total", None),
            evictions: count("kvmesh_node_evictions_total", None),
            expired: count("kvmesh_node_provisional_expired_total", None),
            outlived: count("kvmesh_node_ttl_expired_total", None),
            stale_claims: count("kvmesh_node_stale_claims_total", None),
            checksum_failures: count("kvmesh_node_checksum_failures_total", None),
            repairs: count("kvmesh_node_repairs_total", Some("made")),
            repair_failures: count("kvmesh_node_repairs_total", Some("failed")),
            move_blocks_left: level("kvmesh_node_move_blocks_left"),
            disk: DiskMetrics::new(instance),
            gpu: GpuMetrics::new(instance),
            local: LocalMetrics::new(instance),
        }
    }
}
