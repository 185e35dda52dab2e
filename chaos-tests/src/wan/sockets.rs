//! What the kernel says of a gateway's connections over a link, by `ss`.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context, Result, ensure};

use super::Wan;

const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const PROGRAM: &str = "\"kvmesh-gateway\"";

impl Wan {
    /// How many connections the gateway of a region, 0 or 1, has with the other region, by their
    /// congestion control.
    ///
    /// # Errors
    /// Without `ss`.
    pub(crate) fn congestion(&self, region: usize) -> Result<BTreeMap<String, u32>> {
        let (end, other) = (&self.ends[region], &self.ends[1 - region].address);
        let ran = Command::new("ip")
            .args(["netns", "exec", &end.name, "ss", "-HtinpO"])
            .args(["state", "established", "dst", other])
            .output()?;
        ensure!(
            ran.status.success(),
            "`ss` is needed: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        let available = fs::read_to_string(AVAILABLE).context(AVAILABLE)?;
        Ok(used(&String::from_utf8_lossy(&ran.stdout), &available))
    }
}

/// Of the lines about a gateway's sockets, each with the name of one of those available.
fn used(said: &str, available: &str) -> BTreeMap<String, u32> {
    let mut used = BTreeMap::new();
    for line in said.lines().filter(|line| line.contains(PROGRAM)) {
        let names = |word: &&str| available.split_whitespace().any(|name| name == *word);
        if let Some(name) = line.split_whitespace().find(names) {
            *used.entry(name.to_owned()).or_default() += 1;
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_gateways_count() {
        let said = "0 0 10.64.1.2:15000 10.64.2.2:40000 users:((\"kvmesh-gateway\",pid=7,fd=12)) \
                    ts sack bbr wscale:7,7 rto:280 rtt:80/1\n\
                    0 0 10.64.1.2:15000 10.64.2.2:40001 users:((\"kvmesh-gateway\",pid=7,fd=13)) \
                    ts sack cubic wscale:7,7\n\
                    0 0 10.64.1.2:15001 10.64.2.2:40002 users:((\"kvmesh-node\",pid=8,fd=9)) \
                    ts sack cubic wscale:7,7\n";
        let used = used(said, "reno bbr cubic\n");
        assert_eq!(
            used,
            [("bbr".to_owned(), 1), ("cubic".to_owned(), 1)].into()
        );
    }
}
