//! Settings of a gateway, with their defaults. Times are in milliseconds.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use kvmesh_directory::{
    RegionId,
    limits::{BLOCK_BYTES_MAX, HOT_AFTER_MAX, LINK_MEASURE_BYTES_MAX, REGIONS_MAX, REPLICAS_MAX},
};
use kvmesh_process::{
    program::ProgramSettings,
    settings::{Check, Impossible, Outside, possible},
    telemetry::{LOG_FILTER, TRACE_RATIO, TraceSettings},
    tls::{Expected, Role, TlsSettings},
};
use serde::{Deserialize, Serialize};

use crate::templates::{self, Replication, Template};

/// What an operator can say to a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name of the region that this gateway is the front door of.
    pub region: String,
    /// Name among those of its role in the region, in logs, metrics and traces; empty: the
    /// host's and the port that it listens on.
    pub name: String,
    /// `host:port` for gRPC; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` for Prometheus.
    pub metrics_listen: SocketAddr,
    /// Whether metrics, which are plain HTTP, may be served beyond loopback.
    pub metrics_beyond_loopback: bool,
    /// Other regions whose clients this gateway serves, by their certificates: for when their own
    /// region is lost. They see of namespaces what their region may. Without certificates
    /// everybody is served.
    pub clients_of: Vec<String>,
    /// Addresses of the region's nodes: where its feed is followed and namespaces are opened.
    pub nodes: Vec<String>,
    /// Addresses of the region's region-syncs; without any the mesh is this region alone.
    pub region_syncs: Vec<String>,
    /// A lookup that takes longer is given up.
    pub lookup_deadline_ms: u64,
    /// Of a get that names none.
    pub get_deadline_ms: u64,
    /// Of one block of a put that names none.
    pub put_deadline_ms: u64,
    /// How long a call waits for the positions that it wants to see.
    pub at_least_wait_ms: u64,
    /// How long a get of a `when_faster` namespace waits for other regions.
    pub remote_fetch_max_ms: u64,
    /// Bytes fetched from other regions that may wait to be kept here; what exceeds them is not kept.
    pub fill_queue_bytes: u64,
    /// Bytes of puts that may be in memory at once.
    pub inflight_bytes_max: u64,
    /// A region view that has not heard from its feed for so long is not answered from; another
    /// region of which nothing was heard for so long is not asked.
    pub view_age_max_ms: u64,
    /// A node that has not decided on a block, or acknowledged it, in this time and its bytes at
    /// 100 MB/s is given up for the next owner.
    pub owner_timeout_ms: u64,
    /// How long a caller whose ring epoch is ahead of the gateway's waits for it.
    pub epoch_wait_ms: u64,
    /// How long a gateway of another region may take to connect and answer, over twice its round trip.
    pub connect_timeout_ms: u64,
    /// Share of the gets under way that may turn to another region at once when the nearest one
    /// that has a block is lost, in thousandths; a few always may.
    pub failover_share_max_permille: u64,
    /// Share of the calls to other regions that may be made a second time, of another gateway,
    /// because their first bytes are late; in thousandths. 0: none is.
    pub hedge_budget_permille: u64,
    /// A new connection to another region carries at most so many bytes that say nothing, before
    /// anybody waits for blocks on it; it then sends at the link's rate from the first block on.
    /// 0: none does.
    pub measure_bytes_max: u64,
    /// A node or far gateway that could not be reached is left alone for so long.
    pub failure_memory_ms: u64,
    /// Gets, puts and lookups that may be under way at once.
    pub calls_max: usize,
    /// How long calls in flight may take to end at shutdown.
    pub shutdown_grace_ms: u64,
    /// `EnvFilter` directive for logs.
    pub log: String,
    /// Collector that traces are sent to by OTLP over gRPC, `http://host:port`; empty: none is.
    pub otlp_endpoint: String,
    /// Share of calls that begin a trace, 0 to 1, where the caller has not begun one.
    pub trace_ratio: f64,
    /// Congestion control of connections from and to other regions, which need TLS, such as
    /// "bbr"; empty: the kernel's usual one. All other connections keep that.
    pub congestion_control: String,
    /// `local_socket` of a node on this host, or a folder of such sockets: blocks are read where
    /// these nodes keep them. Empty: all come over gRPC.
    pub local_sockets: PathBuf,
    /// Certificate, key and CA; without them gRPC is plaintext, on loopback only.
    pub tls: TlsSettings,
    /// Policies that a namespace may be opened with, by name.
    pub templates: BTreeMap<String, Template>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: String::new(),
            name: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            metrics_beyond_loopback: false,
            clients_of: Vec::new(),
            nodes: Vec::new(),
            region_syncs: Vec::new(),
            lookup_deadline_ms: 50,
            get_deadline_ms: 5_000,
            put_deadline_ms: 30_000,
            at_least_wait_ms: 50,
            remote_fetch_max_ms: 1_000,
            fill_queue_bytes: 1 << 30,
            inflight_bytes_max: 1 << 30,
            view_age_max_ms: 30_000,
            owner_timeout_ms: 1_000,
            epoch_wait_ms: 500,
            connect_timeout_ms: 500,
            failover_share_max_permille: 200,
            hedge_budget_permille: 50,
            measure_bytes_max: 16 << 20,
            failure_memory_ms: 1_000,
            calls_max: 4_096,
            shutdown_grace_ms: 30_000,
            log: LOG_FILTER.to_owned(),
            otlp_endpoint: String::new(),
            trace_ratio: TRACE_RATIO,
            congestion_control: String::new(),
            local_sockets: PathBuf::new(),
            tls: TlsSettings::default(),
            templates: templates::built_in(),
        }
    }
}

impl Settings {
    /// The region, as [`Check::check`] has found it to be possible.
    ///
    /// # Errors
    /// When it is not.
    pub fn region_id(&self) -> Result<RegionId, Impossible> {
        self.region.parse().map_err(|_| {
            impossible(
                "region",
                &format!("{:?}", self.region),
                "1 to 32 characters of a-z, 0-9 and '-'",
            )
        })
    }

    /// See [`Settings::clients_of`].
    #[must_use]
    pub fn serves_clients_of(&self, region: &RegionId) -> bool {
        self.clients_of.iter().any(|name| name == region.as_str())
    }

    /// See [`Settings::shutdown_grace_ms`].
    #[must_use]
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_millis(self.shutdown_grace_ms)
    }
}

impl Check for Settings {
    fn check(&self) -> Result<(), Impossible> {
        self.region_id()?;
        possible::name("name", &self.name)?;
        possible::Listeners {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            metrics_beyond_loopback: self.metrics_beyond_loopback,
            tls: &self.tls,
        }
        .check()?;
        let congestion = &self.congestion_control;
        possible::congestion_control("congestion_control", congestion, &self.tls)?;
        self.traces().check()?;
        for name in &self.clients_of {
            possible::region("clients_of", name)?;
        }
        if self.clients_of.len() > REGIONS_MAX {
            let got = self.clients_of.len();
            return Err(impossible("clients_of", &got, "at most 64 regions"));
        }
        if self.nodes.is_empty() {
            let want = "the addresses of the region's nodes, at least one";
            return Err(impossible("nodes", &"empty", want));
        }
        self.check_addresses()?;
        self.check_sizes()?;
        for (name, template) in &self.templates {
            check_template(name, template)?;
        }
        if !self.templates.contains_key(templates::DEFAULT) {
            return Err(impossible("templates", &"without \"default\"", "add it"));
        }
        Ok(())
    }
}

impl ProgramSettings for Settings {
    const RELOADABLE: &'static [&'static str] = &[
        "at_least_wait_ms",
        "calls_max",
        "clients_of",
        "connect_timeout_ms",
        "epoch_wait_ms",
        "failover_share_max_permille",
        "failure_memory_ms",
        "fill_queue_bytes",
        "get_deadline_ms",
        "hedge_budget_permille",
        "inflight_bytes_max",
        "log",
        "lookup_deadline_ms",
        "measure_bytes_max",
        "owner_timeout_ms",
        "put_deadline_ms",
        "remote_fetch_max_ms",
        "view_age_max_ms",
    ];

    fn listen(&self) -> SocketAddr {
        self.listen
    }

    fn metrics_listen(&self) -> Option<SocketAddr> {
        Some(self.metrics_listen)
    }

    fn outside(&self) -> Outside {
        Outside::default()
            .addresses("nodes", &self.nodes)
            .addresses("region_syncs", &self.region_syncs)
            .address("otlp_endpoint", self.traces().authority())
    }

    fn listening(&mut self, taken: SocketAddr) {
        self.listen = taken;
    }

    fn instance(&self) -> String {
        possible::instance(&self.region, "gateway", &self.name, self.listen)
    }

    fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    fn congestion_control(&self) -> &str {
        &self.congestion_control
    }

    fn own_identity(&self) -> Expected {
        Expected {
            role: Some(Role::Gateway),
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

impl Settings {
    fn check_addresses(&self) -> Result<(), Impossible> {
        for (key, addresses) in [("nodes", &self.nodes), ("region_syncs", &self.region_syncs)] {
            for address in addresses {
                let port = address
                    .rsplit_once(':')
                    .map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(1..))) {
                    return Err(impossible(
                        key,
                        &format!("{address:?}"),
                        "host:port of each",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), Impossible> {
        for (key, value) in [
            ("lookup_deadline_ms", self.lookup_deadline_ms),
            ("get_deadline_ms", self.get_deadline_ms),
            ("put_deadline_ms", self.put_deadline_ms),
            ("owner_timeout_ms", self.owner_timeout_ms),
            ("view_age_max_ms", self.view_age_max_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("calls_max", self.calls_max as u64),
        ] {
            if value == 0 {
                return Err(impossible(key, &value, "at least 1"));
            }
        }
        for (key, share) in [
            (
                "failover_share_max_permille",
                self.failover_share_max_permille,
            ),
            ("hedge_budget_permille", self.hedge_budget_permille),
        ] {
            if share > 1_000 {
                return Err(impossible(key, &share, "0 to 1000"));
            }
        }
        if self.measure_bytes_max > LINK_MEASURE_BYTES_MAX {
            let want = "at most 67108864";
            return Err(impossible(
                "measure_bytes_max",
                &self.measure_bytes_max,
                want,
            ));
        }
        if self.calls_max > 1 << 20 {
            return Err(impossible("calls_max", &self.calls_max, "at most 1048576"));
        }
        for (key, value) in [
            ("fill_queue_bytes", self.fill_queue_bytes),
            ("inflight_bytes_max", self.inflight_bytes_max),
        ] {
            if !(BLOCK_BYTES_MAX..=1 << 40).contains(&value) {
                let want = "268435456 (the largest block) to 1099511627776";
                return Err(impossible(key, &value, want));
            }
        }
        Ok(())
    }
}

fn check_template(name: &str, template: &Template) -> Result<(), Impossible> {
    let key = |field: &str| format!("templates.{name}.{field}");
    if !(1..=REPLICAS_MAX).contains(&template.replicas) {
        return Err(impossible(&key("replicas"), &template.replicas, "1 to 8"));
    }
    if template.quota_permille == 0 || template.quota_permille > 1_000 {
        let got = template.quota_permille;
        return Err(impossible(&key("quota_permille"), &got, "1 to 1000"));
    }
    if let Some((field, cost)) = template.policy().impossible_cost() {
        let want = "a number of at least 0, or 0 when it is not known";
        return Err(impossible(&key(field), &cost, want));
    }
    let regions = &template.regions;
    for name in regions {
        possible::region(&key("regions"), name)?;
    }
    let pushes = template.replication == Replication::Push;
    if regions.len() > REGIONS_MAX || (regions.is_empty() && pushes) {
        let want = "1 to 64 regions that every block is brought to";
        return Err(impossible(&key("regions"), &regions.len(), want));
    }
    if template.hot_after > HOT_AFTER_MAX {
        let want = "0 to 100 wants";
        return Err(impossible(&key("hot_after"), &template.hot_after, want));
    }
    Ok(())
}

fn impossible(key: &str, got: &dyn ToString, want: &str) -> Impossible {
    Impossible {
        key: key.to_owned(),
        got: got.to_string(),
        want: want.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn possible() -> Settings {
        Settings {
            region: "us-east".to_owned(),
            nodes: vec!["127.0.0.1:7410".to_owned()],
            ..Settings::default()
        }
    }

    fn tls() -> TlsSettings {
        let file = || "file.pem".into();
        TlsSettings {
            certificate: file(),
            key: file(),
            ca: file(),
        }
    }

    #[test]
    fn a_congestion_control_that_is_not_there_is_named_with_those_that_are() {
        let (congestion_control, tls) = ("nonesuch".to_owned(), tls());
        let settings = Settings {
            congestion_control,
            tls,
            ..possible()
        };
        let said = settings.check().unwrap_err().to_string();
        let allowed = "net.ipv4.tcp_allowed_congestion_control";
        assert!(
            said.contains("nonesuch") && said.contains(allowed),
            "{said}"
        );
        // Any kernel has it, and lets everybody use it.
        assert!(said.contains("reno"), "{said}");
        let settings = Settings {
            congestion_control: "reno".to_owned(),
            ..settings
        };
        settings.check().unwrap();
    }

    #[test]
    fn impossible_values_are_refused_by_key() {
        type Case = (&'static str, fn(&mut Settings));
        let cases: [Case; 13] = [
            ("region", |s| s.region = "US East".to_owned()),
            ("listen", |s| s.listen = SocketAddr::from(([0, 0, 0, 0], 1))),
            ("nodes", |s| s.nodes.clear()),
            ("clients_of", |s| s.clients_of = vec!["EU".to_owned()]),
            ("clients_of", |s| {
                s.clients_of = (0..65).map(|at| format!("r{at}")).collect();
            }),
            ("nodes", |s| s.nodes = vec!["no-port".to_owned()]),
            ("get_deadline_ms", |s| s.get_deadline_ms = 0),
            ("fill_queue_bytes", |s| s.fill_queue_bytes = 1),
            ("hedge_budget_permille", |s| s.hedge_budget_permille = 1_001),
            ("measure_bytes_max", |s| {
                s.measure_bytes_max = (64 << 20) + 1
            }),
            ("congestion_control", |s| {
                s.congestion_control = "reno".to_owned()
            }),
            ("congestion_control", |s| {
                (s.congestion_control, s.tls) = ("nonesuch".to_owned(), tls());
            }),
            ("templates.default.replicas", |s| {
                s.templates.get_mut("default").unwrap().replicas = 9;
            }),
        ];
        assert!(possible().check().is_ok());
        for (key, spoil) in cases {
            let mut settings = possible();
            spoil(&mut settings);
            assert_eq!(settings.check().unwrap_err().key, key);
        }
    }
}
