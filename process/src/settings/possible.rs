//! What several programs ask of a setting.

use std::{collections::BTreeSet, net::SocketAddr, str::FromStr};

use kvmesh_directory::RegionId;

use super::Impossible;

/// A listener on loopback: beyond it, traffic would need TLS, which is not built yet.
///
/// # Errors
/// When the address is not of this machine only.
pub fn loopback(key: &str, listen: SocketAddr) -> Result<(), Impossible> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let want = "listening beyond loopback needs TLS, which is not built yet: \
                use 127.0.0.1 or [::1], and a proxy that speaks TLS in front";
    Err(Impossible::new(key, listen, want))
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
