//! Free loopback ports. Outside of the range from which the kernel takes ports for
//! outgoing connections, so that a port stays free while its process is down.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, bail};

const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;
const TRIES: usize = 10_000;

/// Ports that this program gave out: whoever got one may listen later, or not now.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// So many addresses, all different, on which nobody listens now. None is given out twice.
pub(crate) fn free(count: usize) -> Result<Vec<String>> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut held = Vec::new();
    for _ in 0..TRIES {
        if held.len() == count {
            break;
        }
        let port = kvmesh_client::random::in_range(FIRST..=LAST);
        if given.contains(&port) {
            continue;
        }
        // Held until all are found: none is found twice.
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    if held.len() < count {
        bail!("only {} free ports from {FIRST} to {LAST}", held.len());
    }
    let mut addresses = Vec::with_capacity(count);
    for listener in &held {
        let address = listener.local_addr()?;
        given.insert(address.port());
        addresses.push(address.to_string());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_differ() {
        let given = || super::free(500).unwrap();
        let mut ports = [given(), given(), given()].concat();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 1_500);
    }
}
