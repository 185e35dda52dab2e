//! What a node and its leader say to one another on the `Attend` stream.

use kvmesh_client::{FromWire, WireError, convert};
use kvmesh_directory::{
    ChangeOutcome, Incarnation, NodeId, command::BlockChange, limits::ENTRY_CHANGES_MAX,
};
use kvmesh_proto::v1 as wire;

/// Reports with changes that a node has open at once.
pub(super) const FLIGHTS_MAX: usize = 32;
/// Reports without changes that a node has open at once.
pub(super) const PLAIN_MAX: usize = 4;
/// Messages that a stream may hold in either direction: one for each open report.
pub(super) const STREAM_MAX: usize = FLIGHTS_MAX + PLAIN_MAX;

/// From a node to its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) node: NodeId,
    /// 0: not begun.
    pub(super) incarnation: Incarnation,
    /// Last log index that the node has applied.
    pub(super) applied: u64,
    /// Numbers `changes`; 0: a plain report.
    pub(super) sequence: u64,
    /// At most [`ENTRY_CHANGES_MAX`].
    pub(super) changes: Vec<BlockChange>,
}

/// The leader's answer to one report. Plain reports are answered in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// Of the report.
    pub(super) sequence: u64,
    /// One per change; none: the changes were not taken, the leader has too many waiting.
    pub(super) outcomes: Vec<ChangeOutcome>,
    /// Of the entry that carried them.
    pub(super) index: u64,
    /// The node may serve.
    pub(super) lease: bool,
    /// The region does not list the node.
    pub(super) not_member: bool,
}

impl Report {
    pub(super) fn to_wire(&self) -> wire::NodeReport {
        wire::NodeReport {
            node: self.node.0,
            incarnation: self.incarnation.0,
            applied_index: self.applied,
            sequence: self.sequence,
            changes: convert::each(&self.changes),
        }
    }

    pub(super) fn from_wire(report: wire::NodeReport) -> Result<Self, WireError> {
        if report.changes.len() > ENTRY_CHANGES_MAX {
            let why = format!("at most {ENTRY_CHANGES_MAX} fit a report");
            return Err(WireError::field("changes", why));
        }
        if report.changes.is_empty() != (report.sequence == 0) {
            return Err(WireError::field("sequence", "changes are numbered from 1"));
        }
        Ok(Self {
            node: NodeId(report.node),
            incarnation: Incarnation(report.incarnation),
            applied: report.applied_index,
            sequence: report.sequence,
            changes: report
                .changes
                .into_iter()
                .map(BlockChange::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Notice {
    /// The region does not list the node; the last one.
    pub(super) fn not_member() -> Self {
        Self {
            not_member: true,
            ..Self::plain(false)
        }
    }

    /// Answers a plain report.
    pub(super) fn plain(lease: bool) -> Self {
        Self {
            sequence: 0,
            outcomes: Vec::new(),
            index: 0,
            lease,
            not_member: false,
        }
    }

    pub(super) fn to_wire(&self) -> wire::LeaderNotice {
        wire::LeaderNotice {
            sequence: self.sequence,
            outcomes: convert::each(&self.outcomes),
            index: self.index,
            lease: self.lease,
            not_member: self.not_member,
        }
    }

    pub(super) fn from_wire(notice: wire::LeaderNotice) -> Result<Self, WireError> {
        Ok(Self {
            sequence: notice.sequence,
            outcomes: convert::all(notice.outcomes)?,
            index: notice.index,
            lease: notice.lease,
            not_member: notice.not_member,
        })
    }
}
