//! A region-sync's settings, their defaults, and what is possible.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use kvmesh_directory::{RegionId, limits::REGIONS_MAX, peer::Patience};
use kvmesh_process::{
    program::ProgramSettings,
    settings::{Check, Impossible, Outside, possible},
    telemetry::{LOG_FILTER, TRACE_RATIO, TraceSettings},
    tls::{Expected, Role, TlsSettings},
};
use serde::{Deserialize, Serialize};

/// Names of one peer's queue, at most: some hundred bytes each.
const PUSH_QUEUE_MAX: u64 = 1 << 22;
/// Blocks a second that are mended, at most: a second's worth comes as one answer.
const MEND_RATE_MAX: u32 = 1 << 17;

/// Settings of one region-sync. Times are in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Region that it works for.
    pub region: String,
    /// Name among those of its role in the region, in logs, metrics and traces; empty: the
    /// host's and the port that it listens on.
    pub name: String,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where Prometheus metrics are served.
    pub metrics_listen: SocketAddr,
    /// Whether metrics, which are plain HTTP, may be served beyond loopback.
    pub metrics_beyond_loopback: bool,
    /// Log filter, as `tracing`'s `EnvFilter` reads it.
    pub log: String,
    /// Collector that traces are sent to by OTLP over gRPC, `http://host:port`; empty: none is.
    pub otlp_endpoint: String,
    /// Share of calls that begin a trace, 0 to 1, where the caller has not begun one.
    pub trace_ratio: f64,
    /// `host:port` of nodes of its own region: what other regions did is committed there.
    pub nodes: Vec<String>,
    /// `host:port` of gateways of its own region, in which what is pushed to it is brought here;
    /// empty: nothing is.
    pub gateways: Vec<String>,
    /// Every other region of the mesh.
    pub peers: Vec<PeerSettings>,
    /// Period of round-trip probes.
    pub probe_interval_ms: u64,
    /// How long a probe may take.
    pub probe_timeout_ms: u64,
    /// A region that does not answer for so long, and `offline_failures` probes, is offline.
    pub offline_after_ms: u64,
    /// Failed probes, one after the other, after which a region can be offline.
    pub offline_failures: u32,
    /// A region that was lost must answer for so long without a failure before it is asked again.
    pub return_after_ms: u64,
    /// How long one attempt to commit effects at home may take.
    pub commit_timeout_ms: u64,
    /// Thousandths of a link's `bandwidth_bits` that what is pushed may take.
    pub push_share_permille: u32,
    /// Names of blocks of one peer that may wait to be brought here.
    pub push_queue_max: usize,
    /// How long one may wait; later it is found again by comparing both regions.
    pub push_queue_age_max_ms: u64,
    /// How often what is known of each peer is compared with what it has; 0: only when an
    /// operator orders it.
    pub compare_every_ms: u64,
    /// Blocks a second that are read of a peer to mend what differs.
    pub mend_blocks_per_second: u32,
    /// How long calls in flight may go on at shutdown.
    pub shutdown_grace_ms: u64,
    /// Certificate, key and CA; without them gRPC is plaintext, on loopback only.
    pub tls: TlsSettings,
}

/// Another region of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSettings {
    /// Its name.
    pub region: String,
    /// `host:port` of nodes there, whose feed is followed.
    pub nodes: Vec<String>,
    /// `host:port` of gateways there, of which blocks are asked.
    pub gateways: Vec<String>,
    /// Bits per second of the link, until it is measured.
    #[serde(default = "gigabit")]
    pub bandwidth_bits: u64,
    /// Dollars that 1e9 bytes from there cost; 0: not known. Lookups say it, nothing decides by it.
    #[serde(default)]
    pub dollars_per_gb: f64,
}

fn gigabit() -> u64 {
    1_000_000_000
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: String::new(),
            name: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 7421)),
            metrics_beyond_loopback: false,
            log: LOG_FILTER.to_owned(),
            otlp_endpoint: String::new(),
            trace_ratio: TRACE_RATIO,
            nodes: Vec::new(),
            gateways: Vec::new(),
            peers: Vec::new(),
            probe_interval_ms: 1_000,
            probe_timeout_ms: 2_000,
            offline_after_ms: 5_000,
            offline_failures: 3,
            return_after_ms: 30_000,
            commit_timeout_ms: 5_000,
            push_share_permille: 500,
            push_queue_max: 65_536,
            push_queue_age_max_ms: 600_000,
            compare_every_ms: 600_000,
            mend_blocks_per_second: 65_536,
            shutdown_grace_ms: 5_000,
            tls: TlsSettings::default(),
        }
    }
}

impl Settings {
    pub(crate) fn probe_interval(&self) -> Duration {
        Duration::from_millis(self.probe_interval_ms)
    }

    pub(crate) fn probe_timeout(&self) -> Duration {
        Duration::from_millis(self.probe_timeout_ms)
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience {
            offline_after: Duration::from_millis(self.offline_after_ms),
            failures: self.offline_failures,
            return_after: Duration::from_millis(self.return_after_ms),
        }
    }

    pub(crate) fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.commit_timeout_ms)
    }

    pub(crate) fn push_queue_age_max(&self) -> Duration {
        Duration::from_millis(self.push_queue_age_max_ms)
    }

    /// None: never by itself.
    pub(crate) fn compare_every(&self) -> Option<Duration> {
        let every = Duration::from_millis(self.compare_every_ms);
        (!every.is_zero()).then_some(every)
    }

    pub(crate) fn shutdown_grace(&self) -> Duration {
        Duration::from_millis(self.shutdown_grace_ms)
    }

    fn check_peers(&self, own: &RegionId) -> Result<(), Impossible> {
        if self.peers.len() >= REGIONS_MAX {
            let want = format!("a mesh has at most {REGIONS_MAX} regions, this one included");
            return Err(Impossible::new("peers", self.peers.len(), want));
        }
        let mut seen = BTreeSet::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let at = |field: &str| format!("peers[{index}].{field}");
            let region = possible::region(&at("region"), &peer.region)?;
            if region == *own {
                let want = "list only the other regions: this is the region-sync's own";
                return Err(Impossible::new(at("region"), region, want));
            }
            let name = region.to_string();
            if !seen.insert(region) {
                let want = "list each region once, with all of its addresses";
                return Err(Impossible::new(at("region"), name, want));
            }
            let whose = format!("nodes of {name}, whose feed is followed");
            possible::addresses(&at("nodes"), &peer.nodes, &whose)?;
            let whose = format!("gateways of {name}, of which blocks are asked");
            possible::addresses(&at("gateways"), &peer.gateways, &whose)?;
            if !(peer.dollars_per_gb.is_finite() && peer.dollars_per_gb >= 0.0) {
                let want = "dollars that 1e9 bytes cost, or 0 when it is not known";
                let key = at("dollars_per_gb");
                return Err(Impossible::new(key, peer.dollars_per_gb, want));
            }
            if peer.bandwidth_bits < 8 {
                let want = "bits per second of the link, such as 1000000000";
                let key = at("bandwidth_bits");
                return Err(Impossible::new(key, peer.bandwidth_bits, want));
            }
        }
        Ok(())
    }
}

impl Check for Settings {
    fn check(&self) -> Result<(), Impossible> {
        let own = possible::region("region", &self.region)?;
        possible::name("name", &self.name)?;
        possible::Listeners {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            metrics_beyond_loopback: self.metrics_beyond_loopback,
            tls: &self.tls,
        }
        .check()?;
        self.traces().check()?;
        possible::addresses("nodes", &self.nodes, "nodes of the own region")?;
        if !self.gateways.is_empty() {
            possible::addresses("gateways", &self.gateways, "gateways of the own region")?;
        }
        self.check_peers(&own)?;
        for (key, got) in [
            ("probe_interval_ms", self.probe_interval_ms),
            ("probe_timeout_ms", self.probe_timeout_ms),
            ("offline_after_ms", self.offline_after_ms),
            ("commit_timeout_ms", self.commit_timeout_ms),
            ("push_queue_age_max_ms", self.push_queue_age_max_ms),
        ] {
            possible::within(key, got, 10, 3_600_000)?;
        }
        possible::within("offline_failures", self.offline_failures, 1, 1_000)?;
        possible::within("push_share_permille", self.push_share_permille, 1, 1_000)?;
        let names = self.push_queue_max as u64;
        possible::within("push_queue_max", names, 1, PUSH_QUEUE_MAX)?;
        possible::within("compare_every_ms", self.compare_every_ms, 0, 86_400_000)?;
        let rate = self.mend_blocks_per_second;
        possible::within("mend_blocks_per_second", rate, 1, MEND_RATE_MAX)?;
        possible::within("return_after_ms", self.return_after_ms, 0, 3_600_000)?;
        possible::within("shutdown_grace_ms", self.shutdown_grace_ms, 0, 3_600_000)
    }
}

impl ProgramSettings for Settings {
    const RELOADABLE: &'static [&'static str] = &[
        "commit_timeout_ms",
        "compare_every_ms",
        "log",
        "mend_blocks_per_second",
        "offline_after_ms",
        "offline_failures",
        "probe_interval_ms",
        "probe_timeout_ms",
        "push_queue_age_max_ms",
        "push_share_permille",
        "return_after_ms",
    ];

    fn listen(&self) -> SocketAddr {
        self.listen
    }

    fn metrics_listen(&self) -> Option<SocketAddr> {
        Some(self.metrics_listen)
    }

    fn outside(&self) -> Outside {
        let peers = self.peers.iter().enumerate();
        let outside = Outside::default()
            .addresses("nodes", &self.nodes)
            .addresses("gateways", &self.gateways)
            .address("otlp_endpoint", self.traces().authority());
        peers.fold(outside, |outside, (index, peer)| {
            outside
                .addresses(&format!("peers[{index}].nodes"), &peer.nodes)
                .addresses(&format!("peers[{index}].gateways"), &peer.gateways)
        })
    }

    fn listening(&mut self, taken: SocketAddr) {
        self.listen = taken;
    }

    fn instance(&self) -> String {
        possible::instance(&self.region, "region-sync", &self.name, self.listen)
    }

    fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    fn own_identity(&self) -> Expected {
        Expected {
            role: Some(Role::RegionSync),
            region: self.region.parse().ok(),
            name: None,
        }
    }

    fn log(&self) -> &str {
        &self.log
    }

    fn traces(&self) -> TraceSettings {
        TraceSettings {
            endpoint: self.otlp_endpoint.clone(),
            ratio: self.trace_ratio,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn possible() -> Settings {
        let peer = |region: &str| PeerSettings {
            region: region.to_owned(),
            nodes: vec!["10.0.0.1:7410".to_owned()],
            gateways: vec!["10.0.0.1:7400".to_owned()],
            bandwidth_bits: gigabit(),
            dollars_per_gb: 0.0,
        };
        Settings {
            region: "us-east".to_owned(),
            nodes: vec!["127.0.0.1:7410".to_owned()],
            peers: vec![peer("eu-west"), peer("ap-south")],
            ..Settings::default()
        }
    }

    #[track_caller]
    fn refused(key: &str, change: impl FnOnce(&mut Settings)) {
        let mut settings = possible();
        change(&mut settings);
        let error = settings.check().unwrap_err();
        assert_eq!(error.key, key, "{error}");
    }

    #[test]
    fn impossible_values_name_their_key() {
        possible().check().unwrap();
        refused("region", |s| s.region = "US".to_owned());
        refused("nodes", |s| s.nodes.clear());
        refused("nodes[0]", |s| s.nodes[0] = "here".to_owned());
        refused("listen", |s| s.listen = ([0, 0, 0, 0], 7420).into());
        refused("metrics_listen", |s| {
            s.metrics_listen = ([0, 0, 0, 0], 1).into();
        });
        refused("peers[1].region", |s| {
            s.peers[1].region = "us-east".to_owned();
        });
        refused("peers[1].region", |s| {
            s.peers[1].region = "eu-west".to_owned();
        });
        refused("peers[0].nodes", |s| s.peers[0].nodes.clear());
        refused("peers[1].gateways", |s| s.peers[1].gateways.clear());
        refused("peers[0].bandwidth_bits", |s| s.peers[0].bandwidth_bits = 0);
        refused("peers[0].dollars_per_gb", |s| {
            s.peers[0].dollars_per_gb = -0.1;
        });
        refused("gateways[0]", |s| s.gateways = vec!["here".to_owned()]);
        refused("push_share_permille", |s| s.push_share_permille = 0);
        refused("push_queue_max", |s| s.push_queue_max = 0);
        refused("compare_every_ms", |s| s.compare_every_ms = u64::MAX);
        refused("mend_blocks_per_second", |s| s.mend_blocks_per_second = 0);
        refused("probe_timeout_ms", |s| s.probe_timeout_ms = 0);
        refused("peers", |s| s.peers = vec![s.peers[0].clone(); REGIONS_MAX]);
    }
}
