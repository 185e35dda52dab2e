//! Writes answers.

use kvmesh_client::{ToWire, convert::each};
use kvmesh_directory::{
    FeedPosition,
    cost::Advice,
    limits::{
        BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX, LOOKUP_CHAINS_MAX, LOOKUP_HASHES_MAX, MESSAGE_BYTES_MAX,
        PIECE_BYTES,
    },
};
use kvmesh_proto::v1::{self as wire, put_decision::Verdict, put_response};

use crate::{
    context::Gateway,
    frame::{Frame, Header, Outcome, Summary},
    locate::Located,
    lookup::{Match, Remote},
    write::{Ack, Refused, Reply},
};

pub(super) fn limits() -> wire::Limits {
    wire::Limits {
        message_bytes_max: MESSAGE_BYTES_MAX as u64,
        block_bytes_max: BLOCK_BYTES_MAX,
        piece_bytes: PIECE_BYTES as u64,
        chain_blocks_max: CHAIN_BLOCKS_MAX as u32,
        lookup_chains_max: LOOKUP_CHAINS_MAX as u32,
        lookup_hashes_max: LOOKUP_HASHES_MAX as u32,
    }
}

pub(super) fn frame(frame: Frame) -> wire::GetResponse {
    match frame {
        Frame::Block {
            header,
            piece,
            encoding,
            whole,
        } => wire::GetResponse {
            header: header.map(write_header),
            piece: piece.unwrap_or_default(),
            end: match whole {
                true => wire::BlockEnd::Complete.into(),
                false => wire::BlockEnd::Unspecified.into(),
            },
            summary: None,
            encoding: encoding.map_or(0, |encoding| encoding.to_wire()),
        },
        Frame::Aborted(place) => wire::GetResponse {
            header: place.map(|(index, part)| wire::BlockHeader {
                index,
                part: Some(part.to_wire()),
                ..wire::BlockHeader::default()
            }),
            end: wire::BlockEnd::Aborted.into(),
            ..wire::GetResponse::default()
        },
        Frame::Summary(summary) => wire::GetResponse {
            summary: Some(write_summary(summary)),
            ..wire::GetResponse::default()
        },
    }
}

fn write_header(header: Header) -> wire::BlockHeader {
    wire::BlockHeader {
        index: header.index,
        part: Some(header.part.to_wire()),
        meta: Some(header.meta.to_wire()),
        region: header.region.to_wire(),
        pieces: header.pieces,
    }
}

fn write_summary(summary: Summary) -> wire::GetSummary {
    let outcome = match summary.outcome {
        Outcome::Complete => wire::GetOutcome::Complete,
        Outcome::Miss => wire::GetOutcome::Miss,
        Outcome::OutOfTime => wire::GetOutcome::OutOfTime,
        Outcome::ViewBehind => wire::GetOutcome::ViewBehind,
        Outcome::TooShort => wire::GetOutcome::TooShort,
        Outcome::SourceFailed => wire::GetOutcome::SourceFailed,
        Outcome::Recompute => wire::GetOutcome::Recompute,
    };
    let sources = summary.sources.into_iter();
    wire::GetSummary {
        outcome: outcome.into(),
        sources: sources
            .map(|source| wire::SourceCount {
                region: source.region.to_wire(),
                blocks: source.blocks,
                bytes: source.bytes,
                tokens: source.tokens,
            })
            .collect(),
        blocks: summary.blocks,
        tokens: summary.tokens,
        estimated_fetch_ms: summary.estimated_fetch_ms,
        estimated_recompute_ms: summary.estimated_recompute_ms,
        fetch_ms: summary.fetch_ms,
        matched_tokens: summary.matched_tokens,
        estimated_fetch_p95_ms: summary.estimated_fetch_p95_ms,
        saved_ms: summary.saved_ms,
        position: summary.position.map(|at| at.to_wire()),
        fill_position: summary.fill_position.map(|at| at.to_wire()),
        fill_failures: summary.fill_failures,
        local_only: summary.local_only,
        left_out: each(&summary.left_out),
    }
}

pub(super) fn reply(id: u64, reply: Reply) -> wire::PutResponse {
    let decision = |verdict: Verdict| wire::PutDecision {
        verdict: verdict.into(),
        ..wire::PutDecision::default()
    };
    let frame = match reply {
        Reply::Send => put_response::Frame::Decision(decision(Verdict::Send)),
        Reply::Have => put_response::Frame::Decision(decision(Verdict::Have)),
        Reply::Refused(refused) => put_response::Frame::Decision(write_refused(refused)),
        Reply::Acked(ack) => put_response::Frame::Ack(write_ack(&ack)),
    };
    wire::PutResponse {
        id,
        frame: Some(frame),
    }
}

fn write_refused(refused: Refused) -> wire::PutDecision {
    let retry_after_ms = refused.retry_after.as_millis();
    wire::PutDecision {
        verdict: Verdict::Refused.into(),
        reason: refused.reason.to_wire(),
        message: refused.message,
        retry_after_ms: u32::try_from(retry_after_ms).unwrap_or(u32::MAX),
    }
}

fn write_ack(ack: &Ack) -> wire::PutAck {
    wire::PutAck {
        level: ack.level.to_wire(),
        position: ack.position.as_ref().map(ToWire::to_wire),
        copies: ack.copies,
        existed: ack.existed,
        put_hlc: ack.put_hlc,
    }
}

pub(super) fn lookup(
    gateway: &Gateway,
    matches: Option<Vec<Match>>,
    position: Option<&FeedPosition>,
) -> wire::LookupResponse {
    wire::LookupResponse {
        view_behind: matches.is_none(),
        matches: matches.into_iter().flatten().map(write_match).collect(),
        position: position.map(ToWire::to_wire),
        age_ms: millis(gateway.views.local.age()),
        regions: regions(gateway),
        ..Default::default()
    }
}

fn write_match(found: Match) -> wire::ChainMatch {
    let remote = found.remote.into_iter();
    wire::ChainMatch {
        local_blocks: found.local_blocks,
        local_bytes: found.local_bytes,
        pending_blocks: found.pending_blocks,
        mesh_blocks: found.mesh_blocks,
        remote: remote
            .map(|it| write_remote(it, found.local_blocks))
            .collect(),
        ..Default::default()
    }
}

/// Milliseconds on the wire, and blocks counted from the query's start.
fn write_remote(remote: Remote, local_blocks: u32) -> wire::RemoteRun {
    let weighed = remote.weighed;
    let split = weighed.and_then(|weighed| weighed.split);
    wire::RemoteRun {
        region: remote.region.to_wire(),
        blocks: remote.blocks,
        fetch_bytes: remote.fetch_bytes,
        estimated_fetch_ms: remote.fetch.p50 * 1e3,
        rtt_ms: remote.rtt_ms,
        estimated_recompute_ms: weighed.map(|it| it.recompute * 1e3),
        advice: match weighed.map(|it| it.advice()) {
            None => wire::Advice::Unspecified,
            Some(Advice::Fetch) => wire::Advice::Fetch,
            Some(Advice::Recompute) => wire::Advice::Recompute,
            Some(Advice::Split) => wire::Advice::Split,
        }
        .into(),
        estimated_fetch_p95_ms: remote.fetch.p95 * 1e3,
        split_at: split.map(|split| local_blocks + split.block),
        estimated_split_ms: split.map(|split| split.seconds * 1e3),
        fetch_dollars: remote.fetch_dollars,
        recompute_dollars: remote.recompute_dollars,
    }
}

fn regions(gateway: &Gateway) -> Vec<wire::RegionView> {
    let mesh = &gateway.views.mesh;
    let others = mesh.links().into_iter();
    others
        .filter(|(region, _)| *region != gateway.region)
        .map(|(region, link)| wire::RegionView {
            position: mesh.position(&region).map(|at| at.to_wire()),
            age_ms: millis(link.heard.elapsed()),
            reachable: link.reachable,
            rtt_ms: link.rtt_ms,
            region: region.to_wire(),
        })
        .collect()
}

pub(super) fn located(located: &Located) -> wire::LocateResponse {
    let nodes = located.nodes.iter();
    let blocks = located.blocks.iter();
    wire::LocateResponse {
        ring_epoch: located.epoch.0,
        nodes: nodes
            .map(|member| wire::NodeEndpoint {
                node: member.node.0,
                address: member.address.clone(),
                zone: member.zone.clone(),
            })
            .collect(),
        blocks: blocks
            .map(|(owners, holders)| wire::BlockOwners {
                owners: owners.clone(),
                holders: holders.clone(),
            })
            .collect(),
        ring: each(&located.ring),
    }
}

pub(super) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a gateway knows of its region's members.
pub(super) fn members(members: &[kvmesh_directory::Member]) -> Vec<wire::Member> {
    each(members)
}
