//! Which way blocks travel: by the nodes that hold them, through a gateway, or not at all.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{channel::Channels, rpc::CacheRpc};

/// Which way a block came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Through a gateway.
    Gateway,
    /// Straight from or to a node.
    Node,
    /// Read where a node on this host keeps it, or put into memory that it shares.
    Mapped,
}

/// A node that failed is left alone for so long at first, and twice as long each time after.
const ALONE_MIN: Duration = Duration::from_secs(1);
const ALONE_MAX: Duration = Duration::from_secs(60);
/// Addresses of nodes that are remembered as failing.
const FAILING_MAX: usize = 4_096;

/// The nodes as this client reaches them.
pub(super) struct Nodes {
    channels: Channels,
    failing: Mutex<BTreeMap<String, Failing>>,
}

struct Failing {
    until: Instant,
    alone: Duration,
}

impl Nodes {
    pub(super) fn new(channels: Channels) -> Self {
        Self {
            channels,
            failing: Mutex::default(),
        }
    }

    /// Whether a node did not fail a moment ago.
    pub(super) fn is_usable(&self, address: &str) -> bool {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing
            .get(address)
            .is_none_or(|failing| failing.until <= Instant::now())
    }

    pub(super) fn rpc(&self, address: &str) -> Option<CacheRpc> {
        self.channels.to(address).ok().map(CacheRpc::new)
    }

    /// A node cannot be reached, or is silent: for a while gateways are asked instead.
    pub(super) fn failed(&self, address: &str, why: &dyn Display) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failing.get(address).map(|failing| failing.alone);
        if before.is_none() {
            tracing::warn!(
                node = address,
                %why,
                "a node is not reached, its blocks go through gateways"
            );
        }
        let alone = before.map_or(ALONE_MIN, |alone| (alone * 2).min(ALONE_MAX));
        let until = Instant::now() + alone;
        if failing.len() >= FAILING_MAX {
            failing.pop_first();
        }
        failing.insert(address.to_owned(), Failing { until, alone });
    }

    pub(super) fn answered(&self, address: &str) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.remove(address).is_some() {
            tracing::info!(node = address, "a node is reached again");
        }
    }
}
