//! What the program asks of a node's settings: which may change while it runs, what must be
//! there outside, and whether the file says the same of the node in both places.

use std::net::SocketAddr;

use kvmesh_process::{
    program::ProgramSettings,
    settings::{Impossible, Outside, possible},
    telemetry::TraceSettings,
    tls::{Expected, Role, TlsSettings},
};

use super::{MemberSetting, Settings, impossible};
use crate::{budget, consensus};

impl ProgramSettings for Settings {
    const RELOADABLE: &'static [&'static str] = &[
        "at_least_wait_ms",
        "epoch_wait_ms",
        "get_deadline_ms",
        "inflight_bytes_max",
        "lease_ttl_ms",
        "log",
        "memory_bytes",
        "owner_rate",
        "owner_timeout_ms",
        "provisional_ttl_ms",
        "put_deadline_ms",
        "repair_rate",
    ];

    /// Memory is mapped when the node starts.
    fn can_become(&self, new: &Self) -> Result<(), Impossible> {
        let (most, got) = (budget::memory_bytes(self), budget::memory_bytes(new));
        if got > most {
            let want = format!("at most {most} while the node runs: start it again for more");
            return Err(impossible("memory_bytes", got, want));
        }
        Ok(())
    }

    fn listen(&self) -> SocketAddr {
        self.listen
    }

    fn metrics_listen(&self) -> Option<SocketAddr> {
        Some(self.metrics_listen)
    }

    fn instance(&self) -> String {
        format!("{}/node-{}", self.region, self.node)
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

    fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    fn own_identity(&self) -> Expected {
        Expected {
            role: Some(Role::Node),
            region: self.region.parse().ok(),
            name: Some(self.node.to_string()),
        }
    }

    fn outside(&self) -> Outside {
        let members = self.members.iter().enumerate();
        let directories = match self.disk_dir.as_os_str().is_empty() {
            true => Outside::default(),
            false => Outside::default().directory("disk_dir", &self.disk_dir),
        };
        let outside = directories
            .directory("raft_dir", &self.raft_dir)
            .problem(self.no_reserve())
            .address("advertise", &self.advertise)
            .addresses("join", &self.join)
            .address("otlp_endpoint", self.traces().authority());
        members.fold(outside, |outside, (index, member)| {
            outside.address(format!("members[{index}].address"), &member.address)
        })
    }

    fn listening(&mut self, taken: SocketAddr) {
        self.listen = taken;
    }
}

impl Settings {
    /// What is in the way of `raft_reserve`; a `raft_dir` that is not there is named by itself.
    fn no_reserve(&self) -> Option<Impossible> {
        let missing = consensus::reserve_missing(&self.raft_dir, self.raft_reserve).ok()?;
        let want = || format!("{missing} bytes less, or as many freed on the file system");
        (missing > 0).then(|| impossible("raft_reserve", self.raft_reserve, want()))
    }

    pub(super) fn check_members(&self) -> Result<(), Impossible> {
        let mut nodes: Vec<u64> = self.members.iter().map(|member| member.node).collect();
        nodes.sort_unstable();
        if nodes.windows(2).any(|pair| pair[0] == pair[1]) {
            let want = "every node once";
            return Err(impossible("members", format!("{nodes:?}"), want));
        }
        if !nodes.is_empty() && !self.join.is_empty() {
            let want = "none, or no join: a region is formed by members or joined";
            return Err(impossible("members", format!("{nodes:?}"), want));
        }
        if !nodes.is_empty() && !nodes.contains(&self.node) {
            let want = "a list with this node in it";
            return Err(impossible("members", format!("{nodes:?}"), want));
        }
        for (index, member) in self.members.iter().enumerate() {
            possible::address(&format!("members[{index}].address"), &member.address)?;
        }
        for (index, address) in self.join.iter().enumerate() {
            possible::address(&format!("join[{index}]"), address)?;
        }
        if !self.advertise.is_empty() {
            possible::address("advertise", &self.advertise)?;
        }
        match self.members.iter().find(|member| member.node == self.node) {
            Some(own) => self.check_own(own),
            None => Ok(()),
        }
    }

    /// What this file says of the node itself agrees with what its entry says. A default does.
    fn check_own(&self, own: &MemberSetting) -> Result<(), Impossible> {
        let differs = |key: &str, got: &dyn ToString, listed: &dyn ToString| {
            let want = format!("{} in members: make both the same", listed.to_string());
            Err(impossible(key, got.to_string(), want))
        };
        if !self.zone.is_empty() && self.zone != own.zone {
            return differs(
                "zone",
                &format!("{:?}", self.zone),
                &format!("{:?}", own.zone),
            );
        }
        if self.weight != 1 && self.weight != own.weight {
            return differs("weight", &self.weight, &own.weight);
        }
        if !self.advertise.is_empty() && self.advertise != own.address {
            return differs("advertise", &self.advertise, &own.address);
        }
        if self.voter && !own.voter {
            return differs("voter", &self.voter, &own.voter);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directories_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let keys = |disk_dir: &std::path::Path| {
            let settings = Settings {
                raft_dir: dir.path().to_owned(),
                disk_dir: disk_dir.to_owned(),
                ..Settings::default()
            };
            let problems = settings.outside().problems().into_iter();
            problems.map(|it| it.key).collect::<Vec<_>>()
        };
        assert_eq!(keys("".as_ref()), [""; 0], "there need not be one");
        assert_eq!(keys(dir.path()), [""; 0]);
        assert_eq!(keys(&dir.path().join("absent")), ["disk_dir"]);
    }

    #[test]
    fn there_must_be_room_for_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let keys = |raft_reserve| {
            let settings = Settings {
                raft_dir: dir.path().to_owned(),
                raft_reserve,
                ..Settings::default()
            };
            let problems = settings.outside().problems().into_iter();
            problems.map(|it| it.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(32 << 20), [""; 0]);
        assert_eq!(keys(1 << 60), ["raft_reserve"]);
        assert_eq!(keys(0), [""; 0]);
    }

    #[test]
    fn memory_may_shrink_and_grow_no_further_than_it_was_mapped() {
        let of = |memory_bytes| Settings {
            memory_bytes,
            ..Settings::default()
        };
        let started = of(1 << 30);
        assert_eq!(started.can_become(&of(1 << 20)), Ok(()));
        assert_eq!(started.can_become(&of(1 << 30)), Ok(()));
        let refused = started.can_become(&of((1 << 30) + 1)).unwrap_err();
        assert_eq!(refused.key, "memory_bytes");
    }
}
