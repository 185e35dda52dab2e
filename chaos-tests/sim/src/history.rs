//! What clients asked, and what they were told.

use std::collections::BTreeMap;

use crate::{
    content::{Content, Name},
    rpc::Opening,
    trace::Mark,
};

/// One call, or one block of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Who asked.
    pub client: String,
    /// Whose gateways were asked.
    pub region: usize,
    /// When it began.
    pub begun: Mark,
    /// When it was answered; none: never.
    pub ended: Option<Mark>,
    /// What it was.
    pub kind: Kind,
}

/// What was asked, and what was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One block was put.
    Put {
        /// Under which name.
        name: Name,
        /// What.
        content: Content,
        /// The answer.
        told: PutTold,
    },
    /// A range was read.
    Get {
        /// Blocks that came, and the region that each came from.
        got: Vec<(Name, Result<Content, String>, String)>,
        /// Every fault had healed, and what was deleted should have arrived everywhere.
        settled: bool,
    },
    /// Names were looked up, by a view that shows everything that the client wrote.
    Lookup {
        /// Whether each is in the client's region; empty: there was no such view.
        found: Vec<(Name, bool)>,
    },
    /// A node was asked to take a put by a ring older than the one that it has said to have.
    Straggle {
        /// The node, from 0.
        node: usize,
        /// The answer.
        told: Opening,
    },
    /// A range was deleted.
    Delete {
        /// Which names.
        names: Vec<Name>,
        /// It was acknowledged.
        acked: bool,
    },
}

/// What the client of a put was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutTold {
    /// It is stored, on so many nodes as committed.
    Acked {
        /// Distinct nodes that hold it.
        copies: u32,
        /// It was there already.
        existed: bool,
    },
    /// It was not stored.
    Refused,
    /// Nothing: it may be stored.
    Unknown,
}

/// A node that lost its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Region of the node.
    pub region: usize,
    /// The node, from 0.
    pub node: usize,
    /// When.
    pub at: Mark,
}

/// A region's directory at the end, after everything healed.
pub type Present = BTreeMap<Name, u32>;

/// Everything that an oracle judges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// In the order in which they began.
    pub ops: Vec<Op>,
    /// In the order in which they happened.
    pub losses: Vec<Loss>,
    /// By region: a moment from which on every block had all its copies on living nodes.
    pub whole: Vec<(usize, Mark)>,
    /// By region: the blocks that its directory has at the end, with their copies.
    pub present: Vec<Present>,
}

impl History {
    /// Notes the begin of a call; the number by which it is ended.
    pub fn begin(&mut self, client: &str, region: usize, begun: Mark, kind: Kind) -> usize {
        self.ops.push(Op {
            client: client.to_owned(),
            region,
            begun,
            ended: None,
            kind,
        });
        self.ops.len() - 1
    }

    /// Notes the answer of a call.
    pub fn end(&mut self, op: usize, ended: Mark, kind: Kind) {
        self.ops[op].ended = Some(ended);
        self.ops[op].kind = kind;
    }
}
