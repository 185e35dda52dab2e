//! Between openraft's types and the wire; the same messages are kept on disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvmesh_client::WireError;
use kvmesh_proto::{
    raft_entry::{Payload, RaftEntry},
    v1 as wire,
};
use openraft::{
    CommittedLeaderId, EntryPayload, SnapshotSegmentId,
    error::{InstallSnapshotError, SnapshotMismatch},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use wire::append_entries_response::Result as Appended;

use super::{
    logged::Logged,
    raft::{Entry, LogId, Membership, Peer, SnapshotMeta, StoredMembership, TypeConfig, Vote},
    snapshot_intake::Taken,
};

/// Format of [`RaftEntry`] that this build writes, and the newest that it reads.
const ENTRY_VERSION: u32 = 1;

pub(super) fn vote_to_wire(vote: &Vote) -> wire::RaftVote {
    wire::RaftVote {
        term: vote.leader_id().term,
        node: vote.leader_id().node_id,
        committed: vote.is_committed(),
    }
}

pub(super) fn vote_from_wire(vote: Option<wire::RaftVote>) -> Result<Vote, WireError> {
    let vote = vote.ok_or(WireError::Missing("vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    })
}

pub(super) fn log_id_to_wire(id: &LogId) -> wire::RaftLogId {
    wire::RaftLogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(super) fn log_id_from_wire(id: wire::RaftLogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node), id.index)
}

fn membership_to_wire(membership: &Membership) -> wire::RaftMembership {
    let configs = membership.get_joint_config().iter();
    wire::RaftMembership {
        configs: configs
            .map(|voters| wire::RaftVoters {
                voters: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(node, peer)| wire::RaftNode {
                node: *node,
                address: peer.address.clone(),
            })
            .collect(),
    }
}

fn membership_from_wire(membership: wire::RaftMembership) -> Membership {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|config| config.voters.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Peer> = membership
        .nodes
        .into_iter()
        .map(|node| {
            let address = node.address;
            (node.node, Peer { address })
        })
        .collect();
    Membership::new(configs, nodes)
}

/// An entry that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    /// Not to be skipped, and not to be waited for: it is committed, or will be.
    #[error("entry {index} of the log is of a later version than this build reads: upgrade it")]
    Later { index: u64 },
    #[error(transparent)]
    Malformed(#[from] WireError),
}

pub(super) fn entry_to_wire(entry: &Entry) -> RaftEntry {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(logged) => Some(Payload::Command(logged.encoded())),
        EntryPayload::Membership(membership) => {
            Some(Payload::Membership(membership_to_wire(membership)))
        }
    };
    RaftEntry {
        version: ENTRY_VERSION,
        id: Some(log_id_to_wire(&entry.log_id)),
        payload,
    }
}

pub(super) fn entry_from_wire(entry: RaftEntry) -> Result<Entry, EntryError> {
    let id = entry.id.ok_or(WireError::Missing("id"))?;
    let later = EntryError::Later { index: id.index };
    match entry.version {
        0 => return Err(WireError::Missing("version").into()),
        ENTRY_VERSION => {}
        _ => return Err(later),
    }
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(Payload::Command(encoded)) => {
            EntryPayload::Normal(Logged::decode(&encoded)?.ok_or(later)?)
        }
        Some(Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_wire(membership))
        }
    };
    Ok(Entry {
        log_id: log_id_from_wire(id),
        payload,
    })
}

pub(super) fn meta_to_wire(meta: &SnapshotMeta) -> wire::RaftSnapshotMeta {
    wire::RaftSnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(meta.last_membership.membership())),
        snapshot_id: meta.snapshot_id.clone(),
    }
}

pub(super) fn meta_from_wire(meta: wire::RaftSnapshotMeta) -> Result<SnapshotMeta, WireError> {
    let membership = meta.membership.ok_or(WireError::Missing("membership"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.map(log_id_from_wire),
        last_membership: StoredMembership::new(
            meta.membership_log_id.map(log_id_from_wire),
            membership_from_wire(membership),
        ),
        snapshot_id: meta.snapshot_id,
    })
}

pub(super) fn append_to_wire(
    request: &AppendEntriesRequest<TypeConfig>,
) -> wire::AppendEntriesRequest {
    wire::AppendEntriesRequest {
        vote: Some(vote_to_wire(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(entry_to_wire).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
    }
}

pub(super) fn append_from_wire(
    request: wire::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, EntryError> {
    let entries = request.entries.into_iter().map(entry_from_wire);
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(request.vote)?,
        prev_log_id: request.prev_log_id.map(log_id_from_wire),
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(log_id_from_wire),
    })
}

pub(super) fn appended_to_wire(
    response: &AppendEntriesResponse<u64>,
) -> wire::AppendEntriesResponse {
    let mut appended = wire::AppendEntriesResponse::default();
    let result = match response {
        AppendEntriesResponse::Success => Appended::Success,
        AppendEntriesResponse::PartialSuccess(matched) => {
            appended.matched = matched.as_ref().map(log_id_to_wire);
            Appended::PartialSuccess
        }
        AppendEntriesResponse::Conflict => Appended::Conflict,
        AppendEntriesResponse::HigherVote(vote) => {
            appended.vote = Some(vote_to_wire(vote));
            Appended::HigherVote
        }
    };
    appended.set_result(result);
    appended
}

pub(super) fn appended_from_wire(
    response: wire::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<u64>, WireError> {
    match response.result() {
        Appended::Success => Ok(AppendEntriesResponse::Success),
        Appended::PartialSuccess => Ok(AppendEntriesResponse::PartialSuccess(
            response.matched.map(log_id_from_wire),
        )),
        Appended::Conflict => Ok(AppendEntriesResponse::Conflict),
        Appended::HigherVote => {
            let vote = vote_from_wire(response.vote)?;
            Ok(AppendEntriesResponse::HigherVote(vote))
        }
        Appended::Unspecified => Err(WireError::Missing("result")),
    }
}

pub(super) fn vote_request_to_wire(request: &VoteRequest<u64>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(super) fn vote_request_from_wire(
    request: wire::VoteRequest,
) -> Result<VoteRequest<u64>, WireError> {
    let last_log_id = request.last_log_id.map(log_id_from_wire);
    Ok(VoteRequest::new(vote_from_wire(request.vote)?, last_log_id))
}

pub(super) fn vote_response_to_wire(response: &VoteResponse<u64>) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
        not_member: false,
    }
}

pub(super) fn vote_response_from_wire(
    response: wire::VoteResponse,
) -> Result<VoteResponse<u64>, WireError> {
    let last_log_id = response.last_log_id.map(log_id_from_wire);
    let vote = vote_from_wire(response.vote)?;
    Ok(VoteResponse::new(vote, last_log_id, response.granted))
}

pub(super) fn install_to_wire(
    request: InstallSnapshotRequest<TypeConfig>,
) -> wire::InstallSnapshotRequest {
    wire::InstallSnapshotRequest {
        vote: Some(vote_to_wire(&request.vote)),
        meta: Some(meta_to_wire(&request.meta)),
        offset: request.offset,
        data: Bytes::from(request.data),
        done: request.done,
    }
}

pub(super) fn install_from_wire(
    request: wire::InstallSnapshotRequest,
) -> Result<InstallSnapshotRequest<TypeConfig>, WireError> {
    Ok(InstallSnapshotRequest {
        vote: vote_from_wire(request.vote)?,
        meta: meta_from_wire(request.meta.ok_or(WireError::Missing("meta"))?)?,
        offset: request.offset,
        data: request.data.into(),
        done: request.done,
    })
}

/// Which segment of which snapshot a request brings.
pub(super) fn segment(request: &InstallSnapshotRequest<TypeConfig>) -> SnapshotSegmentId {
    SnapshotSegmentId {
        id: request.meta.snapshot_id.clone(),
        offset: request.offset,
    }
}

pub(super) fn taken_to_wire(taken: &Taken) -> wire::InstallSnapshotResponse {
    let (mismatch, damaged) = match taken {
        Taken::Here(installed) => {
            return wire::InstallSnapshotResponse {
                vote: Some(vote_to_wire(&installed.vote)),
                ..Default::default()
            };
        }
        Taken::Unexpected(mismatch) => (mismatch, false),
        Taken::Damaged(mismatch) => (mismatch, true),
    };
    let InstallSnapshotError::SnapshotMismatch(mismatch) = mismatch;
    wire::InstallSnapshotResponse {
        vote: None,
        expected_offset: Some(mismatch.expect.offset),
        expected_snapshot_id: mismatch.expect.id.clone(),
        damaged,
    }
}

pub(super) fn taken_from_wire(
    response: wire::InstallSnapshotResponse,
    got: SnapshotSegmentId,
) -> Result<Taken, WireError> {
    if let Some(offset) = response.expected_offset {
        let id = response.expected_snapshot_id;
        let expect = SnapshotSegmentId { id, offset };
        let mismatch = SnapshotMismatch { expect, got }.into();
        return Ok(match response.damaged {
            true => Taken::Damaged(mismatch),
            false => Taken::Unexpected(mismatch),
        });
    }
    let vote = vote_from_wire(response.vote)?;
    Ok(Taken::Here(InstallSnapshotResponse { vote }))
}
