//! Free loopback ports. Outside of the range from which the kernel takes ports for
//! outgoing connections, so that a port stays free while its process is down.

use std::net::TcpListener;

use anyhow::{Result, bail};

const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;
const TRIES: usize = 10_000;

/// So many addresses, all different, on which nobody listens now.
pub(crate) fn free(count: usize) -> Result<Vec<String>> {
    let mut held = Vec::new();
    for _ in 0..TRIES {
        if held.len() == count {
            break;
        }
        let port = kvmesh_client::random::in_range(FIRST..=LAST);
        // Held until all are found: none is found twice.
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    if held.len() < count {
        bail!("only {} free ports from {FIRST} to {LAST}", held.len());
    }
    let address = |listener: &TcpListener| Ok(listener.local_addr()?.to_string());
    held.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_differ() {
        let mut ports = super::free(20).unwrap();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }
}
