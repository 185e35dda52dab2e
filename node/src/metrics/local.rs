//! What a node counts of clients on its host.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};

pub(crate) struct LocalMetrics {
    pub(crate) clients: Gauge,
    pub(crate) shared_bytes: Gauge,
    pub(crate) blocks: Counter,
    pub(crate) bytes: Counter,
    pub(crate) held: Counter,
    pub(crate) no_room: Counter,
    pub(crate) staging_bytes: Gauge,
    pub(crate) put_blocks: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) no_staging: Counter,
}

impl LocalMetrics {
    pub(super) fn new(instance: &Arc<str>) -> Self {
        let instance = || instance.to_string();
        let refused = |why: &'static str| {
            let name = "kvmesh_node_local_refused_total";
            counter!(name, "instance" => instance(), "reason" => why)
        };
        Self {
            clients: gauge!("kvmesh_node_local_clients", "instance" => instance()),
            shared_bytes: gauge!("kvmesh_node_local_shared_bytes", "instance" => instance()),
            blocks: counter!("kvmesh_node_local_blocks_total", "instance" => instance()),
            bytes: counter!("kvmesh_node_local_bytes_total", "instance" => instance()),
            held: refused("held"),
            no_room: refused("no_room"),
            staging_bytes: gauge!("kvmesh_node_local_staging_bytes", "instance" => instance()),
            put_blocks: counter!("kvmesh_node_local_put_blocks_total", "instance" => instance()),
            put_bytes: counter!("kvmesh_node_local_put_bytes_total", "instance" => instance()),
            no_staging: refused("staging"),
        }
    }
}
