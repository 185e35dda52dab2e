//! Sends one block from one source, frame by frame.

use bytes::Bytes;
use kvmesh_client::{BlockMeta, Ranges, ranges::RangesError};
use kvmesh_directory::{Hlc, RegionId};
use tokio::time::{Duration, Instant, timeout_at};

use super::{Merge, Sent};
use crate::{
    flight::{Event, Ticket},
    frame::{Frame, Header},
    local::{self, Call, FrameKind},
    read,
};

/// A client that takes nothing for so long is not waited for any more, whatever its deadline:
/// it holds memory, and its share of a fetch.
const SLOW_MAX: Duration = Duration::from_secs(10);

impl Merge<'_> {
    /// Relays one block of a call; also says whether the call is of further use.
    pub(super) async fn relay(&mut self, at: usize, call: &mut Call) -> (Sent, bool) {
        let mut block = Relayed::default();
        loop {
            let silent = local::silent_at(self.gateway, &self.slots[at]);
            let until = silent.map_or(self.want.deadline.at, |at| at.min(self.want.deadline.at));
            let frame = match timeout_at(until, call.next()).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return (self.take_back(&block, Sent::Failed).await, false),
                Err(_) if until == self.want.deadline.at => {
                    return (self.take_back(&block, Sent::OutOfTime).await, false);
                }
                Err(_) => {
                    if let Some(address) = self.gateway.views.address(call.node) {
                        self.gateway.peers.failed(&address);
                    }
                    return (self.take_back(&block, Sent::Failed).await, false);
                }
            };
            if frame.slot < at && !self.want.any_order {
                continue; // of a block that was given up
            }
            if frame.slot != at {
                call.put_back(frame);
                return (self.take_back(&block, Sent::Missed).await, true);
            }
            let FrameKind::Block {
                mut header,
                mut piece,
                whole,
            } = frame.kind
            else {
                return (self.take_back(&block, Sent::Missed).await, true);
            };
            if header.as_ref().is_some_and(|it| !self.may_pass(&it.meta)) {
                return (self.take_back(&block, Sent::Missed).await, true);
            }
            let ranges = &self.want.ranges;
            match block.takes(header.as_mut(), &mut piece, whole, ranges) {
                Ok(true) => {}
                Ok(false) => return (self.take_back(&block, Sent::Failed).await, true),
                Err(error) => return (Sent::Refused(error.into()), true),
            }
            if header.is_none() && piece.is_none() && !whole {
                continue; // nothing of it is wanted
            }
            if let Some(end) = self.forward(at, header, piece, whole).await {
                return (self.take_back(&block, end).await, false);
            }
            block.forwarded = true;
            if whole {
                let region = self.gateway.region.clone();
                let bytes = block.bytes;
                return (Sent::Whole { region, bytes }, true);
            }
        }
    }

    pub(super) async fn send_from_flight(&mut self, at: usize, mut ticket: Ticket) -> Sent {
        let until = self.far_until.unwrap_or(self.want.deadline.at);
        let mut block = Relayed::default();
        loop {
            let patient = self.patient_until(at).unwrap_or(until).min(until);
            let since = Instant::now();
            let event = timeout_at(patient, ticket.next()).await;
            if let Some(patience) = &mut self.patience {
                patience.waited(since);
                if let Ok(Event::Header(..) | Event::Piece(_)) = &event {
                    patience.came(match &event {
                        Ok(Event::Piece(piece)) => piece.len(),
                        _ => 0,
                    });
                }
            }
            let Ok(event) = event else {
                let why = match patient < until {
                    true => Sent::TooSlow,
                    false => Sent::OutOfTime,
                };
                return self.take_back(&block, why).await;
            };
            let (mut header, mut piece, whole) = match event {
                Event::Header(_, meta) if !self.may_pass(&meta) => return Sent::Missed,
                Event::Header(region, meta) => {
                    match timeout_at(until, self.may_show(at, meta.put_hlc)).await {
                        Ok(Some(true)) => {}
                        Ok(Some(false)) => return Sent::Missed,
                        Ok(None) => return Sent::Failed,
                        Err(_) => return Sent::OutOfTime,
                    }
                    let (index, part) = (self.slots[at].index, self.slots[at].part);
                    let header = Header {
                        index,
                        part,
                        meta,
                        region,
                        pieces: Vec::new(),
                    };
                    (Some(header), None, false)
                }
                Event::Piece(piece) => (None, Some(piece), false),
                Event::Whole => (None, None, true),
                Event::Missing => return self.take_back(&block, Sent::Missed).await,
                // The fetch ends at the deadline of its last waiter: at the same moment.
                Event::Lost if Instant::now() >= until => {
                    return self.take_back(&block, Sent::OutOfTime).await;
                }
                Event::Lost => return self.take_back(&block, Sent::Failed).await,
            };
            let region = header.as_ref().map(|header| header.region.clone());
            let ranges = &self.want.ranges;
            match block.takes(header.as_mut(), &mut piece, whole, ranges) {
                Ok(true) => {}
                Ok(false) => return self.take_back(&block, Sent::Failed).await,
                Err(error) => return Sent::Refused(error.into()),
            }
            if header.is_none() && piece.is_none() && !whole {
                continue; // nothing of it is wanted
            }
            block.region = region.or(block.region);
            if let Some(end) = self.forward(at, header, piece, whole).await {
                return self.take_back(&block, end).await;
            }
            block.forwarded = true;
            if whole {
                self.fetch_ms = Some(self.begun.elapsed().as_secs_f64() * 1_000.0);
                self.fills.extend(ticket.filled());
                let region = block.region.unwrap_or_else(|| self.gateway.region.clone());
                let bytes = block.bytes;
                return Sent::Whole { region, bytes };
            }
        }
    }

    /// Whether a block may go on as far as its loss is concerned, as the policy is now.
    fn may_pass(&self, meta: &BlockMeta) -> bool {
        let allowed = || self.gateway.views.takes_lossy(self.want.namespace.id);
        meta.transcoded.is_none() || (self.want.lossy && allowed())
    }

    /// Whether no delete that was acknowledged before this get hides a fetched block; none:
    /// nobody can say.
    async fn may_show(&mut self, at: usize, put_hlc: Hlc) -> Option<bool> {
        let current = self.current.as_mut()?;
        if !current.holds().await {
            return None;
        }
        let name = &self.slots[at].name;
        let local = &self.gateway.views.local;
        Some(local.with(|state| state.visible(name, put_hlc)))
    }

    /// Passes a frame on; says how the block ended if it could not be.
    async fn forward(
        &mut self,
        at: usize,
        mut header: Option<Header>,
        piece: Option<Bytes>,
        whole: bool,
    ) -> Option<Sent> {
        if let Some(header) = &mut header {
            // Nodes are asked with a chain of only what is wanted of them.
            header.index = self.slots[at].index;
            header.part = self.slots[at].part;
        }
        if self.sent == 0 {
            self.gateway.meters.first_block(self.begun.elapsed());
        }
        self.sent += 1;
        let frame = Frame::Block {
            header,
            piece,
            encoding: None,
            whole,
        };
        let patience = Instant::now() + SLOW_MAX;
        let until = self.want.deadline.at.min(patience);
        match timeout_at(until, self.out.send(frame)).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(Sent::Gone),
            Err(_) => Some(Sent::OutOfTime),
        }
    }

    /// Tells the client to forget what came of a block, if anything did.
    async fn take_back(&self, block: &Relayed, sent: Sent) -> Sent {
        if !block.forwarded {
            return sent;
        }
        let forget = self.out.send(Frame::Aborted(None));
        match tokio::time::timeout(read::FAREWELL, forget).await {
            Ok(Ok(())) => sent,
            Ok(Err(_)) | Err(_) => Sent::Gone,
        }
    }
}

/// What was relayed of one block.
#[derive(Default)]
struct Relayed {
    begun: bool,
    /// The client has some of it.
    forwarded: bool,
    /// Bytes that the source sends.
    announced: u64,
    /// Those of them that came, in so many pieces.
    came: u64,
    pieces: u32,
    /// Numbers of the pieces that go on. None: all that come.
    wanted: Option<Vec<u32>>,
    /// Bytes that went on.
    bytes: u64,
    region: Option<RegionId>,
}

impl Relayed {
    /// Whether the frame can be the next one of a block. Leaves of it what is wanted.
    ///
    /// # Errors
    /// When the block does not have the wanted bytes.
    fn takes(
        &mut self,
        header: Option<&mut Header>,
        piece: &mut Option<Bytes>,
        whole: bool,
        ranges: &Ranges,
    ) -> Result<bool, RangesError> {
        let fits = match (header, self.begun) {
            (Some(header), false) => self.begin(header, ranges)?,
            (None, true) => true,
            _ => false,
        };
        let came = self.came + piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if !fits || came > self.announced || (whole && came != self.announced) {
            return Ok(false);
        }
        self.came = came;
        if piece.is_some() {
            let number = self.pieces;
            self.pieces += 1;
            if let Some(wanted) = &self.wanted {
                *piece = piece
                    .take()
                    .filter(|_| wanted.binary_search(&number).is_ok());
            }
        }
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(true)
    }

    /// Whether the pieces that a source announces are those wanted, or all: of these the wanted
    /// ones go on, and the header says so.
    fn begin(&mut self, header: &mut Header, ranges: &Ranges) -> Result<bool, RangesError> {
        let bytes = header.meta.bytes;
        ranges.check(bytes)?;
        self.begun = true;
        self.announced = bytes;
        if ranges.is_whole() {
            return Ok(header.pieces.is_empty());
        }
        let wanted = ranges.touch(bytes);
        if header.pieces == wanted {
            self.announced = ranges.touched_bytes(bytes);
            return Ok(true);
        }
        let all = header.pieces.is_empty();
        if wanted.len() != header.meta.piece_count() {
            header.pieces.clone_from(&wanted);
            self.wanted = Some(wanted);
        }
        Ok(all)
    }
}
