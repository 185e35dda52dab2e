//! `Get` on a node: streams the wanted blocks that the directory says are here.

mod any;

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::{
    Block, BlockMeta, Problem, Ranges, ToWire, convert,
    ranges::{Pieces, RangesError},
};
use kvmesh_directory::{
    BlockHash, BlockName, Hlc, Namespace, Part, limits::LOOKUP_HASHES_MAX, state::Entry,
};
use kvmesh_proto::v1 as wire;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

use super::{Frames, ahead::Ahead, chain_of, namespace_of, positions_of, range_of};
use crate::{Settings, node::Node};

/// Messages between the store and the stream: a slow reader holds so many pieces at most.
const FRAMES_MAX: usize = 8;

/// How blocks are read.
#[derive(Clone)]
struct How {
    /// Of each block only the pieces that they touch are sent.
    ranges: Ranges,
    /// They are copied elsewhere, which is no use of them.
    aside: bool,
    /// Those that went through a lossy encoding may come.
    lossy: bool,
}

/// A get whose fields were found possible.
struct Wanted {
    namespace: Namespace,
    hashes: Vec<BlockHash>,
    parts: Vec<Part>,
    /// Indexes to send, ascending.
    indexes: Vec<usize>,
    /// A block that is not here is left out, and the next one follows.
    skip_missing: bool,
    touch: Vec<usize>,
    how: How,
    blocks_min: usize,
    any_order: bool,
    deadline: Instant,
}

pub(super) async fn get(
    node: &Arc<Node>,
    request: wire::GetRequest,
) -> Result<Frames<wire::GetResponse>, Problem> {
    let at_least = positions_of(request.at_least.clone())?;
    let wanted = read(node, request)?;
    let (frames, receiver) = mpsc::channel(FRAMES_MAX);
    let serving = Serving {
        node: Arc::clone(node),
        frames,
        sent: wire::SourceCount {
            region: node.region.to_wire(),
            ..Default::default()
        },
    };
    let behind = !node.reached(&at_least).await;
    let mut serving = Box::pin(serving.run(wanted, behind).in_current_span());
    // What memory has of a small get is all there at once, and goes out with the headers: a task
    // of its own would be woken for it, and the connection once more.
    if futures::poll!(&mut serving).is_pending() {
        node.tasks.spawn(serving);
    }
    Ok(ReceiverStream::new(receiver))
}

fn read(node: &Node, request: wire::GetRequest) -> Result<Wanted, Problem> {
    let namespace = namespace_of(node, &request.namespace_id)?;
    let hashes = chain_of(request.chain.as_ref(), &namespace)?;
    let parts = convert::parts(&request.parts, &namespace.description)?;
    let ranges = convert::ranges(&request.ranges)?;
    let skip_missing = !request.select.is_empty() || !request.touch.is_empty();
    let (indexes, touch) = match skip_missing {
        true => (
            indexes_of("select", &request.select, hashes.len())?,
            indexes_of("touch", &request.touch, hashes.len())?,
        ),
        false => {
            let range = range_of(request.start, request.count, hashes.len())?;
            (range.clone().collect(), (0..range.start).collect())
        }
    };
    if indexes.len() * parts.len() > LOOKUP_HASHES_MAX {
        let why = format!("over {LOOKUP_HASHES_MAX} blocks over all parts: split the get");
        return Err(Problem::invalid("parts", why));
    }
    let deadline_ms = match request.deadline_ms {
        0 => node.settings.now().get_deadline_ms,
        named => u64::from(named),
    };
    Ok(Wanted {
        namespace,
        hashes,
        parts,
        indexes,
        skip_missing,
        touch,
        how: How {
            ranges,
            aside: request.aside,
            lossy: request.lossy,
        },
        blocks_min: request.blocks_min as usize,
        any_order: request.any_order,
        deadline: Instant::now() + Settings::millis(deadline_ms),
    })
}

fn indexes_of(field: &'static str, raw: &[u32], blocks: usize) -> Result<Vec<usize>, Problem> {
    if !raw.is_sorted_by(|one, next| one < next) {
        return Err(Problem::invalid(field, "its indexes are not ascending"));
    }
    match raw.last() {
        Some(last) if *last as usize >= blocks => {
            let why = format!("it names block {last}, the chain has {blocks}");
            Err(Problem::invalid(field, why))
        }
        _ => Ok(raw.iter().map(|index| *index as usize).collect()),
    }
}

impl Wanted {
    fn names(&self, index: usize) -> impl Iterator<Item = BlockName> {
        let (namespace, hash) = (self.namespace.id, self.hashes[index]);
        self.parts.iter().map(move |part| BlockName {
            namespace,
            hash,
            part: *part,
        })
    }

    fn touched(&self, node: &Node) {
        let names = self.touch.iter().flat_map(|index| self.names(*index));
        let keys: Vec<_> = names
            .filter_map(|name| Some(node.listed(&name)?.1))
            .collect();
        node.store.touch(&keys);
    }

    /// Who wants them, as far as the disk is concerned.
    fn ahead<'a>(&'a self, node: &'a Node) -> Option<Ahead<'a>> {
        let (hashes, parts) = (&self.hashes, &self.parts);
        let of = || Ahead::of(node, &self.namespace, hashes, parts, &self.indexes);
        (self.how.ranges.is_whole() && !self.how.aside).then(of)
    }

    /// Blocks at the start of the wanted ones that are here in all parts, as far as it matters.
    fn reaches_min(&self, node: &Node) -> bool {
        let here = |name: BlockName| {
            let listed = node.listed(&name);
            listed.is_some_and(|(_, key)| node.has(key))
        };
        let run = self.indexes.iter().take(self.blocks_min);
        let run = run
            .take_while(|index| self.names(**index).all(here))
            .count();
        run >= self.blocks_min
    }
}

/// What was read of a block.
enum Body {
    Whole(Arc<Block>),
    Pieces(Pieces),
}

impl Body {
    /// Reads what is wanted of a block. None: it is not here.
    async fn read(
        node: &Node,
        name: &BlockName,
        how: &How,
    ) -> Result<Option<(Self, Entry)>, RangesError> {
        let lossy = |(_, key)| node.store.is_transcoded(key);
        if !how.lossy && node.listed(name).is_some_and(lossy) {
            return Ok(None);
        }
        let ranges = &how.ranges;
        if ranges.is_whole() {
            let read = node.read_as(name, how.aside).await;
            return Ok(read.map(|(block, entry)| (Self::Whole(block), entry)));
        }
        let read = node.read_pieces(name, ranges).await?;
        Ok(read.map(|(pieces, entry)| (Self::Pieces(pieces), entry)))
    }

    fn meta(&self) -> &BlockMeta {
        match self {
            Self::Whole(block) => &block.meta,
            Self::Pieces(pieces) => &pieces.meta,
        }
    }

    fn pieces(&self) -> &[Bytes] {
        match self {
            Self::Whole(block) => &block.pieces,
            Self::Pieces(pieces) => &pieces.pieces,
        }
    }

    /// Which pieces; none named: all.
    fn numbers(&self) -> Vec<u32> {
        match self {
            Self::Pieces(some) if some.numbers.len() < some.meta.pieces.len() => {
                some.numbers.clone()
            }
            _ => Vec::new(),
        }
    }
}

/// Why no more is sent.
enum End {
    /// The reader left.
    Gone,
    Outcome(wire::GetOutcome),
    /// What is wanted is not there to be had.
    Refused(Problem),
}

impl From<RangesError> for End {
    fn from(error: RangesError) -> Self {
        Self::Refused(error.into())
    }
}

struct Serving {
    node: Arc<Node>,
    frames: mpsc::Sender<Result<wire::GetResponse, Status>>,
    sent: wire::SourceCount,
}

impl Serving {
    async fn run(mut self, wanted: Wanted, behind: bool) {
        let (mut run, mut outcome) = (0, wire::GetOutcome::ViewBehind);
        if !behind {
            wanted.touched(&self.node);
            outcome = match self.blocks(&wanted, &mut run).await {
                Ok(true) => wire::GetOutcome::Complete,
                Ok(false) => wire::GetOutcome::Miss,
                Err(End::Outcome(outcome)) => outcome,
                Err(End::Gone) => return,
                Err(End::Refused(problem)) => {
                    self.node.metrics.get_bytes.increment(self.sent.bytes);
                    let refused = self.frames.send(Err(Status::from(problem)));
                    let _ = timeout_at(wanted.deadline, refused).await;
                    return;
                }
            };
        }
        self.node.metrics.get_bytes.increment(self.sent.bytes);
        let position = self.node.position().ok();
        let summary = wire::GetSummary {
            outcome: outcome.into(),
            blocks: run,
            tokens: u64::from(run) * u64::from(wanted.namespace.description.block_tokens),
            sources: vec![self.sent]
                .into_iter()
                .filter(|sent| sent.blocks > 0)
                .collect(),
            position: position.map(|position| position.to_wire()),
            ..Default::default()
        };
        let last = wire::GetResponse {
            summary: Some(summary),
            ..Default::default()
        };
        let _ = timeout_at(wanted.deadline, self.frames.send(Ok(last))).await;
    }

    /// Sends the wanted blocks; whether all of them were here. `run` counts those that came
    /// without a hole.
    async fn blocks(&mut self, wanted: &Wanted, run: &mut u32) -> Result<bool, End> {
        if wanted.blocks_min > 0 && !wanted.reaches_min(&self.node) {
            return Err(End::Outcome(wire::GetOutcome::TooShort));
        }
        if wanted.any_order {
            return self.blocks_any(wanted, run).await;
        }
        let node = Arc::clone(&self.node);
        let (mut ahead, mut complete) = (wanted.ahead(&node), true);
        for (place, index) in wanted.indexes.iter().enumerate() {
            if let Some(ahead) = &mut ahead {
                ahead.from(place + 1);
            }
            for name in wanted.names(*index) {
                match Body::read(&self.node, &name, &wanted.how).await? {
                    Some((body, entry)) => {
                        self.node.metrics.get_hits.increment(1);
                        self.block(wanted, *index, name.part, &body, &entry).await?;
                    }
                    None => {
                        self.node.metrics.get_misses.increment(1);
                        complete = false;
                        if !wanted.skip_missing {
                            return Ok(false);
                        }
                        self.missing(*index, name.part, wanted.deadline).await?;
                    }
                }
            }
            if complete {
                *run += 1;
            }
        }
        Ok(complete)
    }

    async fn block(
        &mut self,
        wanted: &Wanted,
        index: usize,
        part: Part,
        body: &Body,
        entry: &Entry,
    ) -> Result<(), End> {
        let (meta, pieces) = (body.meta(), body.pieces());
        for (at, piece) in pieces.iter().enumerate() {
            let header = || wire::BlockHeader {
                pieces: body.numbers(),
                ..self.header(index, part, meta, entry.put_hlc)
            };
            let frame = wire::GetResponse {
                header: (at == 0).then(header),
                piece: Bytes::clone(piece),
                end: match at + 1 == pieces.len() {
                    true => wire::BlockEnd::Complete.into(),
                    false => wire::BlockEnd::Unspecified.into(),
                },
                ..Default::default()
            };
            self.send(frame, wanted.deadline).await?;
            self.sent.bytes += piece.len() as u64;
        }
        self.sent.blocks += 1;
        Ok(())
    }

    fn header(
        &self,
        index: usize,
        part: Part,
        meta: &BlockMeta,
        put_hlc: Hlc,
    ) -> wire::BlockHeader {
        wire::BlockHeader {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            part: Some(part.to_wire()),
            meta: Some(wire::BlockMeta {
                put_hlc: put_hlc.0,
                ..meta.to_wire()
            }),
            region: self.node.region.to_wire(),
            pieces: Vec::new(),
        }
    }

    async fn missing(&self, index: usize, part: Part, deadline: Instant) -> Result<(), End> {
        let header = wire::BlockHeader {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            part: Some(part.to_wire()),
            ..Default::default()
        };
        let frame = wire::GetResponse {
            header: Some(header),
            end: wire::BlockEnd::Aborted.into(),
            ..Default::default()
        };
        self.send(frame, deadline).await
    }

    async fn send(&self, frame: wire::GetResponse, deadline: Instant) -> Result<(), End> {
        let frame = match self.frames.try_send(Ok(frame)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(End::Gone),
            Err(TrySendError::Full(frame)) => frame,
        };
        match timeout_at(deadline, self.frames.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Outcome(wire::GetOutcome::OutOfTime)),
        }
    }
}
