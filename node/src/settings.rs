//! A node's settings, their defaults, and what is possible.

mod program;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kvmesh_directory::{
    Member, NodeId, RegionId,
    limits::{LEASE_MS_MAX, WEIGHT_MAX},
};
use kvmesh_process::{
    program::ProgramSettings,
    settings::{Check, Impossible, possible},
    telemetry::{self, TRACE_RATIO},
    tls::TlsSettings,
};
use serde::{Deserialize, Serialize};

use crate::store::gpu;

/// A disk has some segments, at least.
const DISK_BYTES_MIN: u64 = 64 << 20;
/// Room for a step of the log, at least.
const RESERVE_BYTES_MIN: u64 = 32 << 20;
/// What the kernel takes as the path of a socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Settings of one node. Times are in milliseconds, sizes in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Region that the node belongs to.
    pub region: String,
    /// Stable number, unique in the region, above 0.
    pub node: u64,
    /// Failure domain.
    pub zone: String,
    /// Share of blocks relative to other nodes.
    pub weight: u32,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// `host:port` by which others reach it; empty: the listen address.
    pub advertise: String,
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
    /// Memory for blocks; 0: 60 % of what the process may use.
    pub memory_bytes: u64,
    /// Where blocks are kept on disk, too. Empty: nowhere.
    pub disk_dir: PathBuf,
    /// Disk for blocks; 0: as much as `disk_stop_writes` leaves.
    pub disk_bytes: u64,
    /// Percent of the file system over which no block is written.
    pub disk_stop_writes: u64,
    /// Memory of a GPU for blocks; 0: none. Only programs that were built for it have some.
    pub gpu_bytes: u64,
    /// Asks the kernel for huge pages for blocks.
    pub memory_huge_pages: bool,
    /// Memory that is made present ahead of its use: a put need not wait for pages.
    pub memory_ahead_bytes: u64,
    /// Where clients on this host connect to read blocks where they lie. Empty: nowhere.
    pub local_socket: PathBuf,
    /// Blocks that are on their way into memory; 0: 10 % of `memory_bytes`.
    pub inflight_bytes_max: u64,
    /// Where the Raft log and snapshots are kept. Empty: in memory, for trials and tests only.
    pub raft_dir: PathBuf,
    /// Of the file system of `raft_dir`, kept for the log and the snapshots when it is full.
    /// 0: nothing.
    pub raft_reserve: u64,
    /// A snapshot is made when the log since the last one is as large as that one is, but at
    /// the latest when it has so many bytes,
    pub raft_log_bytes_max: u64,
    /// or so many entries: a restart has to apply them.
    pub raft_log_entries_max: u64,
    /// Which nodes form the region at first; committed once by `meshctl region init`.
    pub members: Vec<MemberSetting>,
    /// Members (`host:port`) of a region that exists, through any of which this node becomes
    /// one; instead of `members`.
    pub join: Vec<String>,
    /// With `join`: asks to vote.
    pub voter: bool,
    /// Period of the Raft leader's heartbeats.
    pub raft_heartbeat_ms: u64,
    /// Silence after which an election starts, at least.
    pub election_min_ms: u64,
    /// Silence after which an election starts, at most.
    pub election_max_ms: u64,
    /// Period of a node's reports to the leader.
    pub report_ms: u64,
    /// Silence after which the leader suspects a node.
    pub suspect_after_ms: u64,
    /// Silence after which the leader gives a node up.
    pub dead_after_ms: u64,
    /// Blocks wait for a member that has never begun for so long; then the leader forgets it.
    pub begin_within_ms: u64,
    /// A node that has not heard from a quorum's leader for so long answers misses.
    pub serve_lease_ms: u64,
    /// How long another owner may take for a copy, besides the time for its bytes.
    pub owner_timeout_ms: u64,
    /// Rate that is expected of another owner, bytes per second.
    pub owner_rate: u64,
    /// How long a call waits for this node to reach the caller's ring epoch.
    pub epoch_wait_ms: u64,
    /// How long a call waits for this node to reach `at_least`.
    pub at_least_wait_ms: u64,
    /// How long a get may take when the call does not say.
    pub get_deadline_ms: u64,
    /// How long a put or an open may take when the call does not say.
    pub put_deadline_ms: u64,
    /// An unclaimed copy is dropped after so long.
    pub provisional_ttl_ms: u64,
    /// How long a lease holds when its caller does not say; 5 minutes at most.
    pub lease_ttl_ms: u64,
    /// Rate of repairs, bytes per second.
    pub repair_rate: u64,
    /// How long calls in flight may go on at shutdown.
    pub shutdown_grace_ms: u64,
    /// Certificate, key and CA; without them gRPC is plaintext, on loopback only.
    pub tls: TlsSettings,
}

/// One of a region's first members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSetting {
    /// Its number.
    pub node: u64,
    /// `host:port` by which others reach it.
    pub address: String,
    /// Its failure domain.
    #[serde(default)]
    pub zone: String,
    /// Its share of blocks.
    #[serde(default = "one")]
    pub weight: u32,
    /// Whether it votes.
    #[serde(default = "yes")]
    pub voter: bool,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: String::new(),
            node: 0,
            zone: String::new(),
            weight: 1,
            listen: SocketAddr::from(([127, 0, 0, 1], 7410)),
            advertise: String::new(),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 7411)),
            metrics_beyond_loopback: false,
            log: telemetry::LOG_FILTER.to_owned(),
            otlp_endpoint: String::new(),
            trace_ratio: TRACE_RATIO,
            memory_bytes: 0,
            disk_dir: PathBuf::new(),
            disk_bytes: 0,
            disk_stop_writes: 95,
            gpu_bytes: 0,
            memory_huge_pages: false,
            memory_ahead_bytes: 64 << 20,
            local_socket: PathBuf::new(),
            inflight_bytes_max: 0,
            raft_dir: PathBuf::new(),
            raft_reserve: 1 << 30,
            raft_log_bytes_max: 512 << 20,
            raft_log_entries_max: 500_000,
            members: Vec::new(),
            join: Vec::new(),
            voter: false,
            raft_heartbeat_ms: 200,
            election_min_ms: 1_000,
            election_max_ms: 2_000,
            report_ms: 200,
            suspect_after_ms: 2_000,
            dead_after_ms: 10_000,
            begin_within_ms: 600_000,
            serve_lease_ms: 5_000,
            owner_timeout_ms: 1_000,
            owner_rate: 100_000_000,
            epoch_wait_ms: 500,
            at_least_wait_ms: 50,
            get_deadline_ms: 30_000,
            put_deadline_ms: 30_000,
            provisional_ttl_ms: 30_000,
            lease_ttl_ms: 30_000,
            repair_rate: 100_000_000,
            shutdown_grace_ms: 30_000,
            tls: TlsSettings::default(),
        }
    }
}

impl Settings {
    /// The address that others use.
    #[must_use]
    pub fn advertised(&self) -> String {
        if self.advertise.is_empty() {
            self.listen.to_string()
        } else {
            self.advertise.clone()
        }
    }

    /// The members as words, ascending by node.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.members.iter().map(MemberSetting::member).collect();
        members.sort_by_key(|member| member.node);
        members
    }

    /// This node, as it asks to join.
    #[must_use]
    pub fn own_member(&self) -> Member {
        Member {
            node: NodeId(self.node),
            address: self.advertised(),
            zone: self.zone.clone(),
            weight: self.weight,
            voter: self.voter,
        }
    }

    /// Of a setting in milliseconds.
    pub(crate) fn millis(setting: u64) -> Duration {
        Duration::from_millis(setting)
    }

    fn check_numbers(&self) -> Result<(), Impossible> {
        let positive = [
            ("raft_log_bytes_max", self.raft_log_bytes_max),
            ("raft_log_entries_max", self.raft_log_entries_max),
            ("raft_heartbeat_ms", self.raft_heartbeat_ms),
            ("report_ms", self.report_ms),
            ("suspect_after_ms", self.suspect_after_ms),
            ("begin_within_ms", self.begin_within_ms),
            ("owner_timeout_ms", self.owner_timeout_ms),
            ("owner_rate", self.owner_rate),
            ("get_deadline_ms", self.get_deadline_ms),
            ("put_deadline_ms", self.put_deadline_ms),
            ("provisional_ttl_ms", self.provisional_ttl_ms),
            ("repair_rate", self.repair_rate),
            ("node", self.node),
        ];
        for (key, got) in positive {
            if got == 0 {
                return Err(impossible(key, got, "above 0"));
            }
        }
        if !(1..=LEASE_MS_MAX).contains(&self.lease_ttl_ms) {
            let want = "1 to 300000";
            return Err(impossible("lease_ttl_ms", self.lease_ttl_ms, want));
        }
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return Err(impossible("weight", self.weight, "1 to 16"));
        }
        if (1..DISK_BYTES_MIN).contains(&self.disk_bytes) {
            let want = "0, or 67108864 or more";
            return Err(impossible("disk_bytes", self.disk_bytes, want));
        }
        if (1..RESERVE_BYTES_MIN).contains(&self.raft_reserve) {
            let want = "0, or 33554432 or more";
            return Err(impossible("raft_reserve", self.raft_reserve, want));
        }
        if !(1..=100).contains(&self.disk_stop_writes) {
            let want = "1 to 100";
            return Err(impossible("disk_stop_writes", self.disk_stop_writes, want));
        }
        if self.gpu_bytes > 0 && !gpu::BUILT {
            let want = "0: this program was built without the feature gpu or cuda";
            return Err(impossible("gpu_bytes", self.gpu_bytes, want));
        }
        if self.election_min_ms / 2 <= self.raft_heartbeat_ms {
            let want = "above twice raft_heartbeat_ms";
            return Err(impossible("election_min_ms", self.election_min_ms, want));
        }
        if self.election_max_ms <= self.election_min_ms {
            let want = "above election_min_ms";
            return Err(impossible("election_max_ms", self.election_max_ms, want));
        }
        if self.suspect_after_ms >= self.dead_after_ms {
            let want = "under dead_after_ms";
            return Err(impossible("suspect_after_ms", self.suspect_after_ms, want));
        }
        if self.report_ms >= self.suspect_after_ms {
            return Err(impossible(
                "report_ms",
                self.report_ms,
                "under suspect_after_ms",
            ));
        }
        if self.local_socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let got = self.local_socket.display();
            return Err(impossible("local_socket", got, "at most 107 bytes"));
        }
        if self.memory_bytes > 0 && self.inflight_bytes_max > self.memory_bytes {
            let want = "at most memory_bytes";
            return Err(impossible(
                "inflight_bytes_max",
                self.inflight_bytes_max,
                want,
            ));
        }
        if self.serve_lease_ms == 0 || self.serve_lease_ms >= self.dead_after_ms {
            let want = "above 0 and under dead_after_ms";
            return Err(impossible("serve_lease_ms", self.serve_lease_ms, want));
        }
        Ok(())
    }
}

impl MemberSetting {
    fn member(&self) -> Member {
        Member {
            node: NodeId(self.node),
            address: self.address.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            voter: self.voter,
        }
    }
}

impl Check for Settings {
    fn check(&self) -> Result<(), Impossible> {
        if let Err(error) = self.region.parse::<RegionId>() {
            return Err(impossible("region", &self.region, error));
        }
        self.check_numbers()?;
        possible::Listeners {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            metrics_beyond_loopback: self.metrics_beyond_loopback,
            tls: &self.tls,
        }
        .check()?;
        self.traces().check()?;
        if self.raft_dir.as_os_str().is_empty() {
            let want = "a directory that survives restarts";
            return Err(impossible("raft_dir", "empty", want));
        }
        self.check_members()
    }
}

fn impossible(key: &str, got: impl ToString, want: impl ToString) -> Impossible {
    Impossible {
        key: key.to_owned(),
        got: got.to_string(),
        want: want.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn possible() -> Settings {
        Settings {
            region: "us-east".to_owned(),
            node: 1,
            raft_dir: "raft".into(),
            ..Settings::default()
        }
    }

    #[test]
    fn memory_of_a_device_needs_a_program_that_has_code_for_it() {
        let wished = Settings {
            gpu_bytes: 1 << 30,
            ..possible()
        };
        let refused = wished.check().err();
        assert_eq!(refused.is_none(), cfg!(feature = "gpu"));
        if let Some(refused) = refused {
            assert_eq!(refused.key, "gpu_bytes");
            assert!(refused.want.contains("feature gpu"), "{refused}");
        }
    }

    #[test]
    fn impossible_values_name_their_key() {
        assert!(possible().check().is_ok());
        type Spoil = fn(&mut Settings);
        let wrong: [(&str, Spoil); 13] = [
            ("raft_reserve", |s| s.raft_reserve = 1),
            ("local_socket", |s| s.local_socket = "x".repeat(108).into()),
            ("disk_bytes", |s| s.disk_bytes = 1),
            ("disk_stop_writes", |s| s.disk_stop_writes = 101),
            ("region", |s| s.region = "US".into()),
            ("node", |s| s.node = 0),
            ("weight", |s| s.weight = 17),
            ("lease_ttl_ms", |s| s.lease_ttl_ms = 300_001),
            ("raft_dir", |s| s.raft_dir = PathBuf::new()),
            ("listen", |s| s.listen = ([0, 0, 0, 0], 1).into()),
            ("serve_lease_ms", |s| s.serve_lease_ms = 10_000),
            ("election_max_ms", |s| s.election_max_ms = 1),
            ("members", |s| {
                s.join = vec!["127.0.0.1:7410".into()];
                s.members = vec![MemberSetting {
                    node: 1,
                    address: "127.0.0.1:7411".into(),
                    zone: String::new(),
                    weight: 1,
                    voter: true,
                }];
            }),
        ];
        for (key, spoil) in wrong {
            let mut settings = possible();
            spoil(&mut settings);
            assert_eq!(settings.check().unwrap_err().key, key);
        }
    }
}
