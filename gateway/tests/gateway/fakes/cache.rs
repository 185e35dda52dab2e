//! A made-up holder of blocks: a node, or a far gateway.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_client::{Block, BlockMeta, FromWire, ToWire, convert};
use kvmesh_directory::{
    BlockHash, BlockKey, BlockName, Checksum, Command, Hlc, NamespaceId, NodeId, Part, Ring,
    command::Deletion,
};
use kvmesh_proto::v1::{
    self as wire, cache_server::Cache, put_decision::Verdict, put_request, put_response,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    busy,
    coded::coded,
    feed::Answers,
    lease::{self, Leases},
    mood::Mood,
    region::Region,
};

pub(crate) struct Holder {
    pub(crate) node: NodeId,
    pub(crate) region: Arc<Region>,
    pub(crate) blocks: Mutex<HashMap<BlockName, Block>>,
    pub(crate) mood: Mutex<Mood>,
    pub(crate) gets: AtomicUsize,
    /// Gets that their callers ended.
    pub(crate) left: AtomicUsize,
    /// Puts that were not acknowledged.
    pub(crate) abandoned: AtomicUsize,
    pub(crate) puts: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    pub(crate) lookups: AtomicUsize,
    pub(crate) asked: Mutex<Vec<wire::GetRequest>>,
    pub(crate) fills: Mutex<Vec<(BlockName, Hlc)>>,
    /// Fills that nobody wanted.
    pub(crate) asides: AtomicUsize,
    /// One permit for each block that may be sent.
    pub(crate) gate: Semaphore,
    pub(crate) leases: Leases,
    /// What it says that one connection carries; 0: it does not.
    pub(crate) sent_at_once: AtomicU64,
    clock: AtomicUsize,
}

impl Holder {
    pub(crate) fn new(node: u64, region: &Arc<Region>) -> Arc<Self> {
        Arc::new(Self {
            node: NodeId(node),
            region: Arc::clone(region),
            blocks: Mutex::default(),
            mood: Mutex::new(Mood::Fine),
            gets: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            puts: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            lookups: AtomicUsize::new(0),
            asked: Mutex::default(),
            fills: Mutex::default(),
            asides: AtomicUsize::new(0),
            gate: Semaphore::new(1 << 20),
            leases: Leases::default(),
            sent_at_once: AtomicU64::default(),
            clock: AtomicUsize::new(100),
        })
    }

    pub(crate) fn keep(&self, name: BlockName, block: Block) {
        self.blocks.lock().unwrap().insert(name, block);
    }

    pub(crate) fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(super) fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    /// No block was asked for twice, by however many calls.
    pub(crate) fn asked_once(&self) {
        let asked = self.asked.lock().unwrap();
        let mut all: Vec<u32> = asked.iter().flat_map(|it| it.select.clone()).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }

    /// It broke off in this block.
    fn broke(&self, name: BlockName) {
        if self.mood() == Mood::Fickle {
            let mut blocks = self.blocks.lock().unwrap();
            blocks.get_mut(&name).unwrap().meta.put_hlc = Hlc(51);
        }
        if matches!(self.mood(), Mood::BreaksOnce | Mood::Fickle) {
            self.be(Mood::Fine);
        }
    }
}

pub(crate) struct Served(pub(crate) Arc<Holder>);

fn frame(
    header: Option<wire::BlockHeader>,
    piece: bytes::Bytes,
    end: wire::BlockEnd,
) -> wire::GetResponse {
    wire::GetResponse {
        header,
        piece,
        end: end.into(),
        ..Default::default()
    }
}

/// The pieces that ranges have a byte of.
fn touched(holder: &Holder, request: &wire::GetRequest, block: &Block) -> Vec<u32> {
    let mut all = 0..block.pieces.len() as u32;
    if request.ranges.is_empty() || holder.mood() == Mood::Wholesale {
        return all.collect();
    }
    let ranges = &request.ranges;
    let mut touched = Vec::new();
    all.by_ref().for_each(|number| {
        let (begin, end) = (u64::from(number) << 20, (u64::from(number) + 1) << 20);
        let hit = |it: &wire::ByteRange| it.offset < end && it.offset + it.length > begin;
        touched.extend(ranges.iter().any(hit).then_some(number));
    });
    touched
}

async fn send_blocks(
    holder: &Holder,
    request: &wire::GetRequest,
    out: &mpsc::Sender<Result<wire::GetResponse, Status>>,
) -> Result<(), mpsc::error::SendError<Result<wire::GetResponse, Status>>> {
    let chain = request.chain.clone().unwrap();
    let namespace = NamespaceId::from_wire(request.namespace_id.clone()).unwrap();
    let hashes: Vec<BlockHash> = chain
        .hashes
        .chunks(chain.width as usize)
        .map(|raw| BlockHash::from_engine(raw).unwrap())
        .collect();
    let name = |index: u32, part: &wire::Part| BlockName {
        namespace,
        hash: hashes[index as usize],
        part: Part::from_wire(*part).unwrap(),
    };
    for &index in &request.select {
        let lost = |part| !(holder.blocks.lock().unwrap()).contains_key(&name(index, part));
        if holder.mood() == Mood::EndsShort && request.parts.iter().any(lost) {
            return out.send(Ok(summary(wire::GetOutcome::Miss))).await;
        }
        for part in &request.parts {
            let name = name(index, part);
            let block = holder.blocks.lock().unwrap().get(&name).cloned();
            let mut header = wire::BlockHeader {
                index,
                part: Some(*part),
                ..Default::default()
            };
            let Some(block) = block.filter(|_| holder.mood() != Mood::Forgetful) else {
                let missing = frame(Some(header), bytes::Bytes::new(), wire::BlockEnd::Aborted);
                out.send(Ok(missing)).await?;
                continue;
            };
            holder.gate.acquire().await.unwrap().forget();
            header.meta = Some(block.meta.to_wire());
            header.region = holder.region.name.to_wire();
            let touched = touched(holder, request, &block);
            if touched.len() < block.pieces.len() {
                header.pieces.clone_from(&touched);
            }
            for (at, number) in touched.iter().enumerate() {
                let piece = &block.pieces[*number as usize];
                let breaks = holder.mood().breaks();
                let end = match at + 1 == touched.len() && !breaks {
                    true => wire::BlockEnd::Complete,
                    false => wire::BlockEnd::Unspecified,
                };
                let header = (at == 0).then(|| header.clone());
                let frame = frame(header, piece.clone(), end);
                out.send(Ok(coded(holder, request, frame))).await?;
                if breaks {
                    holder.broke(name);
                    return out.send(Err(Status::unavailable("broke off"))).await;
                }
            }
        }
    }
    out.send(Ok(summary(wire::GetOutcome::Complete))).await
}

fn summary(outcome: wire::GetOutcome) -> wire::GetResponse {
    let summary = wire::GetSummary {
        outcome: outcome.into(),
        ..Default::default()
    };
    wire::GetResponse {
        summary: Some(summary),
        ..Default::default()
    }
}

/// Sends blocks, and says so when the call's time is over.
pub(super) async fn obedient(
    holder: &Holder,
    request: &wire::GetRequest,
    out: &mpsc::Sender<Result<wire::GetResponse, Status>>,
) -> Result<(), mpsc::error::SendError<Result<wire::GetResponse, Status>>> {
    let limit = Duration::from_millis(request.deadline_ms.into());
    if let Ok(sent) = timeout(limit, send_blocks(holder, request, out)).await {
        return sent;
    }
    out.send(Ok(summary(wire::GetOutcome::OutOfTime))).await
}

fn decision(verdict: Verdict, reason: wire::RefusalReason, message: &str) -> wire::PutResponse {
    wire::PutResponse {
        id: 1,
        frame: Some(put_response::Frame::Decision(wire::PutDecision {
            verdict: verdict.into(),
            reason: reason.into(),
            message: message.to_owned(),
            retry_after_ms: 0,
        })),
    }
}

async fn take_put(
    holder: &Holder,
    mut stream: Streaming<wire::PutRequest>,
    out: &mpsc::Sender<Result<wire::PutResponse, Status>>,
) -> Option<()> {
    use wire::RefusalReason as Why;
    let put_request::Frame::Open(open) = stream.message().await.ok()??.frame? else {
        return None;
    };
    let put_request::Frame::Offer(offer) = stream.message().await.ok()??.frame? else {
        return None;
    };
    let refuse = |why, message: &'static str| decision(Verdict::Refused, why, message);
    match holder.mood() {
        Mood::Silent => std::future::pending().await,
        Mood::Alone => {
            out.send(Ok(refuse(Why::Unavailable, "too few owners")))
                .await
                .ok()?;
            return None;
        }
        Mood::StaleOnce => {
            holder.be(Mood::Fine);
            out.send(Ok(refuse(Why::StaleEpoch, "stale"))).await.ok()?;
            return None;
        }
        _ => {}
    }
    let name = BlockName {
        namespace: NamespaceId::from_wire(open.namespace_id).unwrap(),
        hash: BlockHash::from_engine(&offer.hash).unwrap(),
        part: Part::from_wire(offer.part.unwrap()).unwrap(),
    };
    let mut meta = BlockMeta::from_wire(offer.meta.unwrap()).unwrap();
    let ack = |position: kvmesh_directory::FeedPosition, existed, put_hlc: Hlc| wire::PutResponse {
        id: 1,
        frame: Some(put_response::Frame::Ack(wire::PutAck {
            level: open.ack,
            position: Some(position.to_wire()),
            copies: 2,
            existed,
            put_hlc: put_hlc.0,
        })),
    };
    if let Some(entry) = holder.region.state().entry(&name) {
        out.send(Ok(decision(Verdict::Have, Why::Unspecified, "")))
            .await
            .ok()?;
        let position = holder.region.state().position().unwrap();
        out.send(Ok(ack(position, true, entry.put_hlc)))
            .await
            .ok()?;
        return Some(());
    }
    out.send(Ok(decision(Verdict::Send, Why::Unspecified, "")))
        .await
        .ok()?;
    let mut pieces = Vec::new();
    while pieces.len() < meta.piece_count() {
        let Ok(Some(message)) = stream.message().await else {
            return None;
        };
        let put_request::Frame::Piece(piece) = message.frame? else {
            return None;
        };
        if Checksum::of(&piece.data) != meta.pieces[pieces.len()] {
            out.send(Ok(refuse(Why::Checksum, "piece 0 has another checksum")))
                .await
                .ok()?;
            return None;
        }
        pieces.push(piece.data);
    }
    if open.fill {
        holder.fills.lock().unwrap().push((name, meta.put_hlc));
        let aside = usize::from(open.aside);
        holder.asides.fetch_add(aside, Ordering::Relaxed);
    } else {
        let clock = holder.clock.fetch_add(1, Ordering::Relaxed);
        meta.put_hlc = Hlc(clock as u64);
    }
    let block = Block {
        meta: meta.clone(),
        pieces,
    };
    holder.keep(name, block);
    if holder.mood() == Mood::Mute {
        return None;
    }
    let position = holder.region.claim(name, &meta, &[holder.node.0]);
    out.send(Ok(ack(position, false, meta.put_hlc))).await.ok()
}

#[tonic::async_trait]
impl Cache for Served {
    type GetStream = Answers<wire::GetResponse>;
    type PutStream = Answers<wire::PutResponse>;
    type PrefetchStream = Answers<wire::PrefetchResponse>;
    type WatchStream = Answers<wire::WatchResponse>;

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let holder = Arc::clone(&self.0);
        let request = request.into_inner();
        if !request.select.is_empty() {
            holder.gets.fetch_add(1, Ordering::Relaxed);
        }
        holder.calls.fetch_add(1, Ordering::Relaxed);
        holder.asked.lock().unwrap().push(request.clone());
        if !request.ranges.is_empty() && holder.mood() == Mood::Dated {
            return Err(Status::unimplemented("a get of byte ranges"));
        }
        let (out, stream) = mpsc::channel(4);
        #[allow(clippy::disallowed_methods, reason = "the test's runtime ends it")]
        tokio::spawn(async move {
            let sending = async {
                match holder.mood() {
                    Mood::Silent => std::future::pending().await,
                    Mood::Busy if !request.aside => {
                        busy::first_block(&holder, &request, &out).await
                    }
                    _ => obedient(&holder, &request, &out).await,
                }
            };
            let gone = tokio::select! {
                sent = sending => sent.is_err(),
                () = out.closed() => true,
            };
            if gone {
                holder.left.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<Self::PutStream>, Status> {
        let holder = Arc::clone(&self.0);
        holder.puts.fetch_add(1, Ordering::Relaxed);
        holder.calls.fetch_add(1, Ordering::Relaxed);
        let (out, stream) = mpsc::channel(4);
        #[allow(clippy::disallowed_methods, reason = "the test's runtime ends it")]
        tokio::spawn(async move {
            let taken = tokio::select! {
                taken = take_put(&holder, request.into_inner(), &out) => taken,
                () = out.closed() => None,
            };
            if taken.is_none() {
                holder.abandoned.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let request = request.into_inner();
        let chain = request.chain.unwrap();
        let hashes = convert::chain(&chain, chain.width).unwrap();
        let parts = request
            .parts
            .into_iter()
            .map(|part| Part::from_wire(part).unwrap());
        let parts: Vec<Part> = parts.collect();
        let keys = hashes.iter().flat_map(|&hash| {
            let key = move |&part: &Part| BlockKey { hash, part };
            parts.iter().map(key).collect::<Vec<_>>()
        });
        let (position, outcome) = self.0.region.apply(Command::Delete(Deletion {
            namespace: NamespaceId::from_wire(request.namespace_id).unwrap(),
            keys: keys.collect(),
            hlc: Hlc(1_000),
        }));
        Ok(Response::new(wire::DeleteResponse {
            position: Some(position.to_wire()),
            deleted: outcome.deleted,
        }))
    }

    async fn open(
        &self,
        _request: Request<wire::OpenRequest>,
    ) -> Result<Response<wire::OpenResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn lookup(
        &self,
        _request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupResponse>, Status> {
        let holder = &self.0;
        holder.lookups.fetch_add(1, Ordering::Relaxed);
        if holder.mood() == Mood::Silent {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(wire::LookupResponse {
            position: holder.region.state().position().map(|it| it.to_wire()),
            age_ms: if holder.mood() == Mood::CutOff {
                5_000
            } else {
                0
            },
            ..Default::default()
        }))
    }

    async fn locate(
        &self,
        _request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn prefetch(
        &self,
        _request: Request<wire::PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn lease(
        &self,
        request: Request<wire::LeaseRequest>,
    ) -> Result<Response<wire::LeaseResponse>, Status> {
        let leased = lease::lease(&self.0, request.into_inner()).await?;
        Ok(Response::new(leased))
    }

    async fn watch(
        &self,
        _request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn report(
        &self,
        _request: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }
}

/// The nodes that own a block, the primary first.
pub(crate) fn owners(region: &Region, name: &BlockName) -> Vec<u64> {
    let ring = Ring::build(region.state().topology());
    ring.preference(name).iter().map(|node| node.0).collect()
}
