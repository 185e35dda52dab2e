//! Which ways blocks went.

use std::{fmt, ops};

use kvmesh_client::client::Path;
use serde::Serialize;

/// Blocks by the way that they went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ways {
    /// Through memory that a node on this host shares.
    pub mapped: u64,
    /// Straight to or from a node.
    pub node: u64,
    /// Through a gateway.
    pub gateway: u64,
}

impl Ways {
    /// One more.
    pub fn count(&mut self, path: Path) {
        match path {
            Path::Mapped => self.mapped += 1,
            Path::Node => self.node += 1,
            Path::Gateway => self.gateway += 1,
        }
    }
}

impl ops::Add for Ways {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            mapped: self.mapped + other.mapped,
            node: self.node + other.node,
            gateway: self.gateway + other.gateway,
        }
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mapped,
            node,
            gateway,
        } = self;
        write!(
            f,
            "{mapped} through a node's memory, {node} by its address, {gateway} through a gateway"
        )
    }
}
