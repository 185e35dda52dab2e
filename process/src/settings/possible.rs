//! What several programs ask of a setting.

use std::{collections::BTreeSet, error::Error, net::SocketAddr, str::FromStr};

use kvmesh_client::channel::CongestionControl;
use kvmesh_directory::RegionId;

use super::{Check, Impossible};
use crate::tls::TlsSettings;

/// Where a program listens. Beyond loopback, gRPC needs TLS, and the metrics, which are plain
/// HTTP to whoever asks, need to be meant.
#[derive(Debug, Clone, Copy)]
pub struct Listeners<'a> {
    /// Of gRPC.
    pub listen: SocketAddr,
    /// Of the metrics.
    pub metrics_listen: SocketAddr,
    /// Whether the metrics may be read from elsewhere.
    pub metrics_beyond_loopback: bool,
    /// How gRPC is secured.
    pub tls: &'a TlsSettings,
}

impl Check for Listeners<'_> {
    fn check(&self) -> Result<(), Impossible> {
        self.tls.check()?;
        if !self.listen.ip().is_loopback() && !self.tls.is_set() {
            let want = "listening beyond loopback needs TLS: set tls.certificate, tls.key and \
                        tls.ca, or use 127.0.0.1 or [::1]";
            return Err(Impossible::new("listen", self.listen, want));
        }
        if !self.metrics_listen.ip().is_loopback() && !self.metrics_beyond_loopback {
            let want = "metrics are plain HTTP to whoever asks: use 127.0.0.1 or [::1], or set \
                        metrics_beyond_loopback = true where the network is yours";
            return Err(Impossible::new("metrics_listen", self.metrics_listen, want));
        }
        Ok(())
    }
}

/// A region's name.
///
/// # Errors
/// When it is empty or has other characters than `a-z`, `0-9` and `-`.
pub fn region(key: &str, name: &str) -> Result<RegionId, Impossible> {
    RegionId::from_str(name).map_err(|_| {
        let want = "name the region with 1 to 32 characters of a-z, 0-9 and '-'";
        Impossible::new(key, format!("{name:?}"), want)
    })
}

/// A congestion control for connections between regions, or none.
///
/// # Errors
/// When the kernel does not let this process use it, or nobody could tell who is in another
/// region.
pub fn congestion_control(key: &str, name: &str, tls: &TlsSettings) -> Result<(), Impossible> {
    if name.is_empty() {
        return Ok(());
    }
    if !tls.is_set() {
        let want = "set up TLS: without certificates nobody knows which connections are between \
                    regions";
        return Err(Impossible::new(key, format!("{name:?}"), want));
    }
    CongestionControl::new(name).map(drop).map_err(|error| {
        let why = error.source().map(|why| format!(": {why}"));
        let allowed = CongestionControl::allowed().join(", ");
        let want = format!(
            "this kernel lets any process use {allowed} (sysctl \
             net.ipv4.tcp_allowed_congestion_control); empty is the kernel's usual one"
        );
        let got = format!("{name:?}{}", why.unwrap_or_default());
        Impossible::new(key, got, want)
    })
}

/// Characters of a process's name.
const NAME_CHARS_MAX: usize = 63;

fn may_be_in_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.'
}

/// A process's name, or none.
///
/// # Errors
/// When it is too long, or has other characters than `a-z`, `0-9`, `-` and `.`.
pub fn name(key: &str, name: &str) -> Result<(), Impossible> {
    if name.len() <= NAME_CHARS_MAX && name.chars().all(may_be_in_a_name) {
        return Ok(());
    }
    let want = "name the process with at most 63 characters of a-z, 0-9, '-' and '.'";
    Err(Impossible::new(key, format!("{name:?}"), want))
}

/// What a process is called in logs, metrics and traces, such as `us-east/gateway-1`. Without
/// a name it is told from others by its host and port, such as `us-east/gateway-door-7400`.
#[must_use]
pub fn instance(region: &str, role: &str, name: &str, listen: SocketAddr) -> String {
    let own;
    let name = match name {
        "" => {
            own = format!("{}-{}", host(), listen.port());
            &own
        }
        name => name,
    };
    format!("{region}/{role}-{name}")
}

/// This machine's name, as far as it may be in a process's.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_lowercase();
    let plain = name
        .chars()
        .map(|c| if may_be_in_a_name(c) { c } else { '-' });
    let plain: String = plain.take(NAME_CHARS_MAX).collect();
    match plain.is_empty() {
        true => "host".to_owned(),
        false => plain,
    }
}

/// An address that can be called, `host:port`.
///
/// # Errors
/// When the host is empty or the port is not 1 to 65535.
pub fn address(key: &str, address: &str) -> Result<(), Impossible> {
    let fits = address.rsplit_once(':').is_some_and(|(host, port)| {
        let host_fits = !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@')
            && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
        host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if fits {
        return Ok(());
    }
    let want = "write it as host:port, such as 10.0.0.7:7410";
    Err(Impossible::new(key, format!("{address:?}"), want))
}

/// At least one address, each `host:port` and none twice. `what` says whose.
///
/// # Errors
/// Names the list or its entry.
pub fn addresses(key: &str, list: &[String], what: &str) -> Result<(), Impossible> {
    if list.is_empty() {
        return Err(Impossible::new(
            key,
            "empty",
            format!("list at least one address of {what}"),
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, entry) in list.iter().enumerate() {
        let key = format!("{key}[{index}]");
        address(&key, entry)?;
        if !seen.insert(entry) {
            return Err(Impossible::new(key, entry, "list each address once"));
        }
    }
    Ok(())
}

/// A number inside a range.
///
/// # Errors
/// When it is outside.
pub fn within<N: PartialOrd + ToString>(
    key: &str,
    got: N,
    least: N,
    most: N,
) -> Result<(), Impossible> {
    if got >= least && got <= most {
        return Ok(());
    }
    let want = format!("{} to {} is possible", least.to_string(), most.to_string());
    Err(Impossible::new(key, got, want))
}
