//! Metrics about one peer.

use std::sync::Arc;

use kvmesh_directory::{
    Command, PeerState, RegionId,
    cost::{LinkCost, Z95},
};

use crate::{
    compare::Difference,
    mesh::{Link, Mesh},
};

/// Writes the metrics of one peer. Labels: `instance`, `peer`.
#[derive(Clone)]
pub(crate) struct Meters {
    instance: Arc<str>,
    peer: RegionId,
}

impl Meters {
    pub(crate) fn new(instance: Arc<str>, peer: RegionId) -> Self {
        Self { instance, peer }
    }

    pub(crate) fn peer(&self) -> &str {
        self.peer.as_str()
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [
            ("instance", self.instance.to_string()),
            ("peer", self.peer.to_string()),
        ]
    }

    /// How far the shown view is behind the last position heard, and how much it has.
    pub(crate) fn standing(&self, mesh: &Mesh) {
        let (_, tags) = mesh.standing(&self.peer);
        let lag = mesh.lag(&self.peer).unwrap_or_default();
        let age = mesh
            .link(&self.peer)
            .map_or(0.0, |link| link.heard.elapsed().as_secs_f64());
        metrics::gauge!("kvmesh_region_sync_lag_entries", &self.labels()).set(lag as f64);
        metrics::gauge!("kvmesh_region_sync_age_seconds", &self.labels()).set(age);
        metrics::gauge!("kvmesh_region_sync_tags", &self.labels()).set(tags as f64);
    }

    /// A snapshot of the peer began.
    pub(crate) fn snapshot(&self) {
        metrics::counter!("kvmesh_region_sync_snapshots_total", &self.labels()).increment(1);
    }

    /// An attempt to commit at home failed.
    pub(crate) fn commit_failed(&self) {
        metrics::counter!("kvmesh_region_sync_commit_failures_total", &self.labels()).increment(1);
    }

    /// A command is proposed at home.
    pub(crate) fn carried(&self, command: &Command) {
        let names = |deletes: &[kvmesh_directory::command::Deletion]| {
            deletes.iter().map(|deletion| deletion.keys.len()).sum()
        };
        let counts = match command {
            Command::OpenNamespace(_) => [1, 0, 0],
            Command::Delete(deletion) => [0, deletion.keys.len(), 0],
            Command::RemoteEffects {
                namespaces,
                deletes,
                raises,
                ..
            } => [namespaces.len(), names(deletes), raises.len()],
            Command::RaiseGeneration { .. } => [0, 0, 1],
            _ => [0, 0, 0],
        };
        for (kind, count) in ["namespace", "delete", "raise"].into_iter().zip(counts) {
            let [instance, peer] = self.labels();
            let labels = [instance, peer, ("kind", kind.to_owned())];
            metrics::counter!("kvmesh_region_sync_effects_total", &labels).increment(count as u64);
        }
    }

    /// What waits to be brought here, and whether some range must be mended.
    pub(crate) fn push_standing(&self, waiting: usize, dirty: bool) {
        metrics::gauge!("kvmesh_region_sync_push_queue_blocks", &self.labels()).set(waiting as f64);
        metrics::gauge!("kvmesh_region_sync_push_dirty", &self.labels())
            .set(f64::from(u8::from(dirty)));
    }

    /// Names that the queue did not keep, and why.
    pub(crate) fn push_left(&self, reason: &'static str, blocks: u64) {
        let [instance, peer] = self.labels();
        let labels = [instance, peer, ("reason", reason.to_owned())];
        metrics::counter!("kvmesh_region_sync_push_left_blocks_total", &labels).increment(blocks);
    }

    /// A call for blocks that are pushed ended.
    pub(crate) fn pushed(&self, blocks: u64, bytes: u64, given_up: u64) {
        for (end, blocks) in [("ok", blocks), ("given_up", given_up)] {
            let [instance, peer] = self.labels();
            let labels = [instance, peer, ("end", end.to_owned())];
            metrics::counter!("kvmesh_region_sync_pushed_blocks_total", &labels).increment(blocks);
        }
        metrics::counter!("kvmesh_region_sync_pushed_bytes_total", &self.labels()).increment(bytes);
    }

    /// Nothing is known of what came of a call.
    pub(crate) fn push_call_failed(&self) {
        metrics::counter!("kvmesh_region_sync_push_failures_total", &self.labels()).increment(1);
    }

    /// A dirty range is mended.
    pub(crate) fn push_mended(&self) {
        metrics::counter!("kvmesh_region_sync_push_mends_total", &self.labels()).increment(1);
    }

    /// A comparison with the peer ended.
    pub(crate) fn compared(&self, end: &'static str) {
        let [instance, peer] = self.labels();
        let labels = [instance, peer, ("end", end.to_owned())];
        metrics::counter!("kvmesh_region_sync_compares_total", &labels).increment(1);
    }

    /// What a comparison mended, by what was wrong.
    pub(crate) fn mended(&self, difference: &Difference) {
        let ranges = metrics::counter!("kvmesh_region_sync_mended_ranges_total", &self.labels());
        ranges.increment(difference.ranges() as u64);
        for (kind, blocks) in [
            ("missing", difference.missing.len()),
            ("gone", difference.gone.len()),
            ("resized", difference.resized.len()),
        ] {
            let [instance, peer] = self.labels();
            let labels = [instance, peer, ("kind", kind.to_owned())];
            let counter = metrics::counter!("kvmesh_region_sync_mended_blocks_total", &labels);
            counter.increment(blocks as u64);
        }
        let objects = metrics::counter!("kvmesh_region_sync_mended_objects_total", &self.labels());
        objects.increment(difference.objects as u64);
    }

    /// An operator has the peer read again.
    pub(crate) fn resynced(&self, how: &'static str) {
        let [instance, peer] = self.labels();
        let labels = [instance, peer, ("how", how.to_owned())];
        metrics::counter!("kvmesh_region_sync_resyncs_total", &labels).increment(1);
    }

    /// What is thought of the peer: 1 at its state, 0 at the others.
    pub(crate) fn judged(&self, state: PeerState) {
        for each in PeerState::ALL {
            let [instance, peer] = self.labels();
            let labels = [instance, peer, ("state", each.name().to_owned())];
            let is = f64::from(u8::from(each == state));
            metrics::gauge!("kvmesh_region_sync_peer_state", &labels).set(is);
        }
        let reachable = f64::from(u8::from(state.is_asked()));
        metrics::gauge!("kvmesh_region_sync_reachable", &self.labels()).set(reachable);
    }

    /// What a fetch from the peer is expected to see: half of the time better, 19 times of 20
    /// better.
    pub(crate) fn link(&self, cost: &LinkCost) {
        for (quantile, z) in [("0.5", 0.0), ("0.95", Z95)] {
            let [instance, peer] = self.labels();
            let labels = [instance, peer, ("quantile", quantile.to_owned())];
            metrics::gauge!("kvmesh_region_sync_link_first_byte_seconds", &labels)
                .set(cost.first_byte.quantile(z));
            metrics::gauge!("kvmesh_region_sync_link_bandwidth_bytes", &labels)
                .set(cost.bandwidth.quantile(-z));
        }
    }

    /// A probe ended.
    pub(crate) fn probed(&self, link: &Link, failed: bool) {
        if let Some(rtt) = link.rtt {
            metrics::gauge!("kvmesh_region_sync_rtt_seconds", &self.labels())
                .set(rtt.as_secs_f64());
        }
        let failures = metrics::counter!("kvmesh_region_sync_probe_failures_total", &self.labels());
        failures.increment(u64::from(failed));
    }
}
