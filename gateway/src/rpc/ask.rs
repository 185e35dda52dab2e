//! Gets that leave the gateway: to nodes and to far gateways.

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;
use futures::stream;
use kvmesh_client::{
    BlockMeta, Encoding, FromWire, Problem, Ranges, ToWire, bulk,
    channel::Channel,
    convert::{self, WireError, parts_of},
};
use kvmesh_directory::{NamespaceId, Part, RegionId};
use kvmesh_proto::v1 as wire;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::frame::{Frame, Header, Outcome, Summary};

/// A get of selected places.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) namespace: NamespaceId,
    /// Packed.
    pub(crate) hashes: Bytes,
    pub(crate) width: u32,
    /// Ascending; empty: nothing is wanted.
    pub(crate) select: Vec<u32>,
    pub(crate) touch: Vec<u32>,
    pub(crate) parts: Vec<Part>,
    pub(crate) ranges: Ranges,
    /// In which pieces may come.
    pub(crate) encodings: Vec<Encoding>,
    /// Blocks that went through a lossy encoding may come.
    pub(crate) lossy: bool,
    pub(crate) hop: u32,
    /// The own region, of a call to another one.
    pub(crate) from: Option<RegionId>,
    pub(crate) any_order: bool,
    /// It is no use of what is sent.
    pub(crate) aside: bool,
    pub(crate) until: Instant,
}

/// Why a get failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The peer itself could not be reached.
    pub(crate) unreachable: bool,
    status: Box<Status>,
}

impl Failure {
    /// The peer did not begin to answer in time.
    pub(crate) fn silent(limit: Duration) -> Self {
        let why = format!("no answer began within {limit:?}");
        Self {
            unreachable: true,
            status: Box::new(Status::deadline_exceeded(why)),
        }
    }

    /// The peer does not know the namespace.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status.code() == Code::NotFound
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.status.code(), self.status.message())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            unreachable: unreachable(&status),
            status: Box::new(status),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::from(Status::from(problem))
    }
}

/// Whether a status was made by the transport, not by the peer.
pub(crate) fn unreachable(status: &Status) -> bool {
    status.source().is_some()
}

/// Frames as they come.
pub(crate) struct Frames {
    frames: Streaming<wire::GetResponse>,
    /// Of the peer: what it says of itself does not count.
    region: RegionId,
}

impl Frames {
    /// The next frame; none: the stream has ended. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Failure> {
        match self.frames.message().await? {
            Some(frame) => match read_frame(frame, &self.region) {
                Ok(frame) => Ok(Some(frame)),
                Err(error) => Err(Problem::from(error).into()),
            },
            None => Ok(None),
        }
    }

    /// Everything came; see [`bulk::end`].
    pub(crate) async fn end(self) {
        bulk::end(self.frames).await;
    }
}

/// Asks a peer of a region.
pub(crate) async fn get(channel: Channel, region: RegionId, ask: Ask) -> Result<Frames, Failure> {
    let left = ask.until.saturating_duration_since(Instant::now());
    let left = left.max(Duration::from_millis(1));
    // `start` past the end asks for nothing, where nothing is selected.
    let hashes = ask.hashes.len() / ask.width.max(1) as usize;
    let start = match ask.select.is_empty() {
        true => hashes as u32,
        false => 0,
    };
    let request = wire::GetRequest {
        namespace_id: ask.namespace.to_wire(),
        chain: Some(wire::Chain {
            hashes: ask.hashes,
            width: ask.width,
        }),
        start,
        parts: parts_of(&ask.parts),
        hop: ask.hop,
        from_region: ask.from.map(|own| own.to_wire()).unwrap_or_default(),
        any_order: ask.any_order,
        aside: ask.aside,
        deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
        select: ask.select,
        touch: ask.touch,
        ranges: convert::ranges_of(&ask.ranges),
        encodings: convert::each(&ask.encodings),
        lossy: ask.lossy,
        ..wire::GetRequest::default()
    };
    let whole = (!ask.ranges.is_whole()).then(|| wire::GetRequest {
        ranges: Vec::new(),
        ..request.clone()
    });
    let asked = |request| stream::iter([request]);
    let call = |request| bulk::call(channel.clone(), bulk::GET, asked(request), Some(left));
    let frames = match (call(request).await, whole) {
        // A peer of an earlier version sends whole blocks.
        (Err(status), Some(whole)) if status.code() == Code::Unimplemented => call(whole).await?,
        (answered, _) => answered?,
    };
    Ok(Frames { frames, region })
}

fn read_frame(frame: wire::GetResponse, region: &RegionId) -> Result<Frame, WireError> {
    if let Some(summary) = frame.summary {
        return Ok(Frame::Summary(read_summary(&summary)));
    }
    let aborted = frame.end == wire::BlockEnd::Aborted as i32;
    let encoding = match frame.encoding {
        0 => None,
        encoding => Some(Encoding::from_wire(encoding)?),
    };
    let Some(header) = frame.header else {
        return Ok(match aborted {
            true => Frame::Aborted(None),
            false => block(None, frame.piece, encoding, frame.end),
        });
    };
    let part: Part = match header.part {
        Some(part) => Part::from_wire(part)?,
        None => Part::default(),
    };
    if aborted {
        return Ok(Frame::Aborted(Some((header.index, part))));
    }
    let meta: BlockMeta = convert::required("header.meta", header.meta)?;
    let header = Header {
        index: header.index,
        part,
        meta,
        region: region.clone(),
        pieces: header.pieces,
    };
    Ok(block(Some(header), frame.piece, encoding, frame.end))
}

fn block(header: Option<Header>, piece: Bytes, encoding: Option<Encoding>, end: i32) -> Frame {
    Frame::Block {
        header,
        piece: (!piece.is_empty()).then_some(piece),
        encoding,
        whole: end == wire::BlockEnd::Complete as i32,
    }
}

/// Of a peer's summary only the outcome counts.
fn read_summary(summary: &wire::GetSummary) -> Summary {
    let outcome = match wire::GetOutcome::try_from(summary.outcome) {
        Ok(wire::GetOutcome::Complete) => Outcome::Complete,
        Ok(wire::GetOutcome::Miss) => Outcome::Miss,
        Ok(wire::GetOutcome::OutOfTime) => Outcome::OutOfTime,
        Ok(wire::GetOutcome::ViewBehind) => Outcome::ViewBehind,
        Ok(wire::GetOutcome::TooShort) => Outcome::TooShort,
        Ok(wire::GetOutcome::Recompute) => Outcome::Recompute,
        Ok(wire::GetOutcome::SourceFailed | wire::GetOutcome::Unspecified) | Err(_) => {
            Outcome::SourceFailed
        }
    };
    Summary::nothing(outcome, None)
}
