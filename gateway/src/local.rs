//! Calls to the region's own nodes: one stream per node and part, read ahead into a bounded buffer.
//! Of a node on this host blocks come where they lie, as far as it gives them so, and the rest as
//! of others.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kvmesh_client::{Ranges, local::Wanted, ranges::Pieces};
use kvmesh_directory::{BlockKey, NodeId, Part, limits::PIECE_BYTES};
use kvmesh_process::telemetry::SPANS;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::{Instrument, info_span};

use crate::{
    context::Gateway,
    frame::{Frame, Header},
    read::Slot,
    request::Want,
    rpc::ask::{self, Ask},
};

/// Frames that a call with one large block may have in memory.
const LARGE_FRAMES: usize = 16;

/// One stream from a node. Dropping it ends the call.
pub(crate) struct Call {
    pub(crate) node: NodeId,
    frames: mpsc::Receiver<CallFrame>,
    back: Option<CallFrame>,
}

/// A frame of the block of one slot.
#[derive(Debug)]
pub(crate) struct CallFrame {
    pub(crate) slot: usize,
    pub(crate) kind: FrameKind,
}

/// See [`Frame`].
#[derive(Debug)]
pub(crate) enum FrameKind {
    Block {
        header: Option<Header>,
        piece: Option<Bytes>,
        whole: bool,
    },
    Aborted,
}

impl FrameKind {
    fn ends_block(&self) -> bool {
        matches!(self, Self::Aborted | Self::Block { whole: true, .. })
    }
}

impl Call {
    /// The next frame; none: the call has ended. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Option<CallFrame> {
        match self.back.take() {
            Some(frame) => Some(frame),
            None => self.frames.recv().await,
        }
    }

    /// Puts a frame back that is not wanted yet.
    pub(crate) fn put_back(&mut self, frame: CallFrame) {
        self.back = Some(frame);
    }

    /// Whether the call has ended and everything of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.back.is_none() && self.frames.is_closed() && self.frames.is_empty()
    }
}

/// Asks a node for the blocks of `places` (numbers of slots, ascending, all of `part`), and
/// renews the recency of `touch`.
pub(crate) fn start(
    gateway: &Arc<Gateway>,
    want: &Want,
    slots: &[Slot],
    node: NodeId,
    part: Part,
    places: Vec<usize>,
    touch: &[u32],
) -> Call {
    let (frames, taken) = mpsc::channel(buffered_frames(slots, &places));
    let wanted = places.iter().map(|&place| slots[place].index);
    let ask = Ask {
        namespace: want.namespace.id,
        hashes: want.chain.pick(wanted.chain(touch.iter().copied())),
        width: want.chain.width(),
        select: numbers(0, places.len()),
        touch: numbers(places.len(), touch.len()),
        parts: vec![part],
        ranges: want.ranges.clone(),
        encodings: Vec::new(),
        lossy: want.lossy,
        hop: 0,
        from: None,
        any_order: want.any_order,
        aside: want.aside,
        until: want.deadline.at,
    };
    let here = gateway.mapped.is_some().then(|| Here {
        node,
        keys: places
            .iter()
            .map(|&place| slots[place].name.key())
            .collect(),
        touch: touch
            .iter()
            .map(|&index| want.name(index, part).key())
            .collect(),
    });
    let address = gateway.views.address(node);
    let shared = Arc::clone(gateway);
    let span = info_span!(
        target: SPANS,
        "read",
        otel.kind = "client",
        kvmesh.node = %node,
        kvmesh.blocks = places.len(),
    );
    let reading = async move {
        if let Some(address) = address {
            let over = read(&shared, &address, here, ask, &places, &frames).await;
            drop(frames);
            if let Some(over) = over {
                over.end().await;
            }
        }
    };
    gateway.tasks.spawn(reading.instrument(span));
    Call {
        node,
        frames: taken,
        back: None,
    }
}

/// Only renews recency; whether that succeeds does not matter to the get.
pub(crate) fn touch_only(gateway: &Arc<Gateway>, want: &Want, node: NodeId, touch: &[u32]) {
    let ask = Ask {
        namespace: want.namespace.id,
        hashes: want.chain.pick(touch.iter().copied()),
        width: want.chain.width(),
        select: Vec::new(),
        touch: numbers(0, touch.len()),
        parts: want.parts.clone(),
        ranges: Ranges::default(),
        encodings: Vec::new(),
        lossy: false,
        hop: 0,
        from: None,
        any_order: false,
        aside: false,
        until: want.deadline.at,
    };
    let address = gateway.views.address(node);
    let shared = Arc::clone(gateway);
    let touching = async move {
        let (frames, mut taken) = mpsc::channel(1);
        if let Some(address) = address {
            let all_dropped = async { while taken.recv().await.is_some() {} };
            let reading = async {
                let over = read(&shared, &address, None, ask, &[], &frames).await;
                drop(frames);
                if let Some(over) = over {
                    over.end().await;
                }
            };
            tokio::join!(reading, all_dropped);
        }
    };
    gateway.tasks.spawn(touching.in_current_span());
}

/// Which places of the unwanted head each node holds.
pub(crate) fn head_by_node(gateway: &Gateway, want: &Want) -> BTreeMap<NodeId, Vec<u32>> {
    let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    gateway.views.local.with(|state| {
        for &index in &want.touch {
            for &part in &want.parts {
                let entry = state.entry(&want.name(index, part));
                for copy in entry.iter().flat_map(|entry| &entry.holders) {
                    let places = by_node.entry(copy.node).or_default();
                    if places.last() != Some(&index) {
                        places.push(index);
                    }
                }
            }
        }
    });
    by_node
}

fn numbers(from: usize, count: usize) -> Vec<u32> {
    (from..from + count).map(|number| number as u32).collect()
}

fn buffered_frames(slots: &[Slot], places: &[usize]) -> usize {
    match places {
        [only] if slots[*only].asked as usize > LARGE_FRAMES * PIECE_BYTES => LARGE_FRAMES,
        _ => {
            let pieces = |&place: &usize| slots[place].asked as usize / PIECE_BYTES + 3;
            places.iter().map(pieces).sum::<usize>().max(1)
        }
    }
}

/// What is wanted of a node, in case that it is on this host.
struct Here {
    node: NodeId,
    keys: Vec<BlockKey>,
    touch: Vec<BlockKey>,
}

/// Passes on what a node on this host gives of the first `places`; how many of them are done.
async fn read_here(
    gateway: &Gateway,
    here: Here,
    ask: &Ask,
    places: &[usize],
    frames: &mpsc::Sender<CallFrame>,
) -> usize {
    let Some(local) = gateway.mapped.as_ref().filter(|_| !ask.aside) else {
        return 0;
    };
    let wanted = Wanted {
        namespace: ask.namespace,
        node: Some(here.node),
        keys: &here.keys,
        touch: &here.touch,
        ranges: &ask.ranges,
        at_least: &[],
        // The client does.
        verify: false,
        until: ask.until,
    };
    let blocks = local.get(&wanted).await;
    let came = blocks.len();
    for (block, &slot) in blocks.into_iter().zip(places) {
        for kind in kinds(gateway, block, &ask.ranges) {
            if frames.send(CallFrame { slot, kind }).await.is_err() {
                return places.len();
            }
        }
    }
    came
}

/// The frames of a block: its header with its first piece, its end with the last one.
fn kinds(
    gateway: &Gateway,
    block: Pieces,
    ranges: &Ranges,
) -> impl Iterator<Item = FrameKind> + use<> {
    let mut header = Some(Header {
        // Of the slot, once it is sent.
        index: 0,
        part: Part::default(),
        meta: block.meta,
        region: gateway.region.clone(),
        pieces: match ranges.is_whole() {
            true => Vec::new(),
            false => block.numbers,
        },
    });
    let last = block.pieces.len().saturating_sub(1);
    let pieces = block.pieces.into_iter().enumerate();
    pieces.map(move |(at, piece)| FrameKind::Block {
        header: header.take(),
        piece: Some(piece),
        whole: at == last,
    })
}

/// Passes a node's answer on. What is left of it when everything came: only its end.
async fn read(
    gateway: &Gateway,
    address: &str,
    here: Option<Here>,
    mut ask: Ask,
    places: &[usize],
    frames: &mpsc::Sender<CallFrame>,
) -> Option<ask::Frames> {
    let until = ask.until;
    let reading = async {
        let came = match here {
            Some(here) => read_here(gateway, here, &ask, places, frames).await,
            None => 0,
        };
        if came == places.len() && came > 0 {
            return Ok(None);
        }
        ask.select.drain(..came);
        gateway.meters.outbound("Get");
        let mut stream = match gateway.peers.channel(address) {
            Ok(channel) => ask::get(channel, gateway.region.clone(), ask).await?,
            Err(_) => return Ok(None),
        };
        let (mut current, mut left) = (None, places.len() - came);
        while left > 0 {
            let Some(frame) = stream.next().await? else {
                return Ok(None);
            };
            let Some(frame) = placed(frame, places, &mut current) else {
                break;
            };
            left -= usize::from(frame.kind.ends_block());
            if frames.send(frame).await.is_err() {
                return Ok(None);
            }
        }
        Ok::<_, ask::Failure>(Some(stream))
    };
    tokio::select! {
        ended = timeout_at(until, reading) => match ended {
            Ok(Ok(over)) => over,
            Ok(Err(failure)) => {
                if failure.unreachable {
                    gateway.peers.failed(address);
                }
                tracing::debug!(address, error = %failure, "a node's answer ended early");
                None
            }
            Err(_) => None,
        },
        () = frames.closed() => None,
    }
}

/// The frame with the slot that it belongs to; none: the stream's end, or a frame that makes no sense.
fn placed(frame: Frame, places: &[usize], current: &mut Option<usize>) -> Option<CallFrame> {
    match frame {
        Frame::Block {
            header,
            piece,
            encoding: None,
            whole,
        } => {
            if let Some(header) = &header {
                *current = places.get(header.index as usize).copied();
            }
            let slot = (*current)?;
            let kind = FrameKind::Block {
                header,
                piece,
                whole,
            };
            Some(CallFrame { slot, kind })
        }
        Frame::Aborted(place) => {
            if let Some((index, _)) = place {
                *current = places.get(index as usize).copied();
            }
            let slot = (*current)?;
            let kind = FrameKind::Aborted;
            Some(CallFrame { slot, kind })
        }
        // Nodes are asked for pieces as they are.
        Frame::Block { .. } | Frame::Summary(_) => None,
    }
}

/// Nothing came for so long that another holder is asked.
pub(crate) fn silent_at(gateway: &Gateway, slot: &Slot) -> Option<Instant> {
    let patience = gateway.owner_timeout(slot.bytes.min(PIECE_BYTES as u64));
    (slot.sources.len() > 1).then(|| Instant::now() + patience)
}
