//! Calls as words, once the wire's edge has read them.

use std::sync::Arc;

use kvmesh_client::{Encoding, Ranges};
use kvmesh_directory::{BlockName, FeedPosition, Namespace, Part, namespace::AckLevel};

use crate::{chain::Chain, deadline::Deadline, way::Class};

/// A get.
#[derive(Debug)]
pub(crate) struct Want {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) chain: Chain,
    /// Wanted places of the chain, ascending.
    pub(crate) indexes: Vec<u32>,
    /// Ascending, at least one.
    pub(crate) parts: Vec<Part>,
    /// Places whose recency is renewed and that are not sent.
    pub(crate) touch: Vec<u32>,
    /// Of each block only the pieces that they touch are sent.
    pub(crate) ranges: Ranges,
    pub(crate) blocks_min: u32,
    /// Blocks are sent as they become ready.
    pub(crate) any_order: bool,
    pub(crate) await_fill: bool,
    /// Another region's gateway asks: it is answered from this region only.
    pub(crate) from_afar: bool,
    /// What is sent is copied elsewhere, which is no use of it.
    pub(crate) aside: bool,
    /// What comes from other regions for it comes as such.
    pub(crate) class: Class,
    /// In which that gateway may be sent pieces.
    pub(crate) encoding: Option<Encoding>,
    /// By which it may be sent blocks that are rounded.
    pub(crate) lossy_encoding: Option<Encoding>,
    /// Blocks that were rounded on their way here may be sent: here, and where it asks from, the
    /// policy is lossy.
    pub(crate) lossy: bool,
    pub(crate) deadline: Deadline,
}

impl Want {
    pub(crate) fn name(&self, index: u32, part: Part) -> BlockName {
        self.chain.name(self.namespace.id, index, part)
    }
}

/// One chain of a lookup.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) chain: Chain,
    pub(crate) start: usize,
    pub(crate) parts: Vec<Part>,
}

/// What a put is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) level: AckLevel,
    /// The block came from another region and keeps its clock.
    pub(crate) fill: bool,
    /// Nobody here has wanted it yet.
    pub(crate) aside: bool,
    pub(crate) deadline: Deadline,
}

/// A position, if the call's answer has one.
pub(crate) type Position = Option<FeedPosition>;
