//! A mesh of made-up gateways over in-memory streams: each does what its script says and
//! notes what it was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use kvmesh_directory::{
    Description, FeedPosition, LogIncarnation, Namespace, Policy, limits::MESSAGE_BYTES_MAX,
};
use kvmesh_proto::v1::{self as wire, cache_server, put_decision::Verdict, put_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{Chain, Client, Opened};
use crate::{block::Block, convert::ToWire, fake_net_test::FakeNet};

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a gateway does about the next get.
pub(super) type GetPlan = Result<Vec<Result<wire::GetResponse, Status>>, Status>;

/// What a gateway says about one block, the next time that it is offered.
#[derive(Debug, Clone)]
pub(super) enum PutPlan {
    Send,
    Have,
    Refuse(wire::RefusalReason, u32),
    /// Takes the bytes, then breaks the stream instead of acknowledging.
    Break,
}

/// What a gateway does, and what it was asked.
#[derive(Default)]
pub(super) struct Script {
    pub(super) opens: VecDeque<Result<wire::OpenResponse, Status>>,
    pub(super) lookups: VecDeque<Result<wire::LookupResponse, Status>>,
    pub(super) leases: VecDeque<Result<wire::LeaseResponse, Status>>,
    pub(super) reports: VecDeque<Result<wire::ReportResponse, Status>>,
    pub(super) locates: VecDeque<Result<wire::LocateResponse, Status>>,
    pub(super) gets: VecDeque<GetPlan>,
    /// Gets do not end.
    pub(super) silent: bool,
    pub(super) puts: BTreeMap<Bytes, VecDeque<PutPlan>>,
    pub(super) asked_lookups: Vec<wire::LookupRequest>,
    pub(super) asked_leases: Vec<wire::LeaseRequest>,
    pub(super) asked_locates: Vec<wire::LocateRequest>,
    pub(super) asked_reports: Vec<wire::ReportRequest>,
    pub(super) asked_gets: Vec<(wire::GetRequest, bool)>,
    pub(super) put_opens: Vec<wire::PutOpen>,
    pub(super) offers: Vec<Bytes>,
    pub(super) stored: BTreeMap<Bytes, Vec<u8>>,
}

/// One gateway.
#[derive(Clone, Default)]
pub(super) struct Gateway {
    pub(super) script: Arc<Mutex<Script>>,
}

impl Gateway {
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap())
    }
}

/// Starts gateways at `first:1` and `second:1`, and a client of `addresses`.
pub(super) fn start(addresses: &[&str]) -> (Gateway, Gateway, Client) {
    let (_, [first, second], client) = start_on_net(addresses);
    (first, second, client)
}

/// As [`start`], with the network between them.
pub(super) fn start_on_net(addresses: &[&str]) -> (FakeNet, [Gateway; 2], Client) {
    let (first, second) = (Gateway::default(), Gateway::default());
    let net = FakeNet::default();
    for (address, gateway) in [("first:1", &first), ("second:1", &second)] {
        let service = cache_server::CacheServer::new(gateway.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        net.serve(address, Routes::new(service));
    }
    let addresses = addresses
        .iter()
        .map(|&address| address.to_owned())
        .collect();
    let client = Client::connect(addresses, net.channels()).unwrap();
    (net, [first, second], client)
}

pub(super) fn namespace() -> Namespace {
    let description = Description {
        model: "llama".to_owned(),
        dtype: "bf16".to_owned(),
        layout: String::new(),
        block_tokens: 16,
        hash_width: 16,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    Namespace {
        id: description.id(),
        name: "llama".to_owned(),
        description,
        policy: Policy::default(),
        generation: kvmesh_directory::Hlc(0),
        policy_hlc: kvmesh_directory::Hlc(0),
        policy_region: "eu-west".parse().unwrap(),
    }
}

pub(super) fn opened(client: &Client) -> Opened {
    client.namespace(namespace())
}

pub(super) fn hash(number: u8) -> Bytes {
    vec![number; 16].into()
}

pub(super) fn chain(blocks: u8) -> Chain {
    Chain::new((0..blocks).map(hash)).unwrap()
}

/// Block `number` of the chain: two pieces, the second one short.
pub(super) fn block(number: u8) -> Block {
    let bytes: Bytes = vec![number; (1 << 20) + 100].into();
    Block::of(&bytes, number.into())
}

pub(super) fn position(index: u64) -> FeedPosition {
    FeedPosition {
        region: "eu-west".parse().unwrap(),
        log_incarnation: LogIncarnation(9),
        index,
    }
}

/// The frames of a whole block.
pub(super) fn frames(number: u8) -> Vec<Result<wire::GetResponse, Status>> {
    let block = block(number);
    let header = wire::BlockHeader {
        index: number.into(),
        part: Some(wire::Part::default()),
        meta: Some(block.meta.to_wire()),
        region: "us-east".to_owned(),
        pieces: Vec::new(),
    };
    let first = wire::GetResponse {
        header: Some(header),
        piece: block.pieces[0].clone(),
        ..Default::default()
    };
    let second = wire::GetResponse {
        piece: block.pieces[1].clone(),
        end: wire::BlockEnd::Complete.into(),
        ..Default::default()
    };
    vec![Ok(first), Ok(second)]
}

pub(super) fn summary(outcome: wire::GetOutcome) -> Result<wire::GetResponse, Status> {
    let summary = wire::GetSummary {
        outcome: outcome.into(),
        ..Default::default()
    };
    Ok(wire::GetResponse {
        summary: Some(summary),
        ..Default::default()
    })
}

fn unscripted<T>(call: &str) -> Result<T, Status> {
    Err(Status::internal(format!("{call} is not in the script")))
}

#[tonic::async_trait]
impl cache_server::Cache for Gateway {
    type GetStream = Frames<wire::GetResponse>;
    type PutStream = Frames<wire::PutResponse>;
    type PrefetchStream = Frames<wire::PrefetchResponse>;
    type WatchStream = Frames<wire::WatchResponse>;

    async fn open(
        &self,
        _: Request<wire::OpenRequest>,
    ) -> Result<Response<wire::OpenResponse>, Status> {
        let next = self.with(|script| script.opens.pop_front());
        next.unwrap_or_else(|| unscripted("open"))
            .map(Response::new)
    }

    async fn lookup(
        &self,
        request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupResponse>, Status> {
        let next = self.with(|script| {
            script.asked_lookups.push(request.into_inner());
            script.lookups.pop_front()
        });
        next.unwrap_or_else(|| unscripted("lookup"))
            .map(Response::new)
    }

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let timed = request.metadata().contains_key("grpc-timeout");
        let next = self.with(|script| {
            script.asked_gets.push((request.into_inner(), timed));
            script.gets.pop_front()
        });
        let frames = futures::stream::iter(next.unwrap_or_else(|| unscripted("get"))?);
        Ok(Response::new(match self.with(|script| script.silent) {
            false => Box::pin(frames),
            true => Box::pin(frames.chain(futures::stream::pending())),
        }))
    }

    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<Self::PutStream>, Status> {
        let (answers, queued) = mpsc::channel(8);
        TaskTracker::new().spawn(take_blocks(self.clone(), request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(queued))))
    }

    async fn locate(
        &self,
        request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateResponse>, Status> {
        let next = self.with(|script| {
            script.asked_locates.push(request.into_inner());
            script.locates.pop_front()
        });
        next.unwrap_or_else(|| unscripted("locate"))
            .map(Response::new)
    }

    async fn delete(
        &self,
        _: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        Ok(Response::new(wire::DeleteResponse {
            position: Some(position(77).to_wire()),
            deleted: 3,
        }))
    }

    async fn prefetch(
        &self,
        _: Request<wire::PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        unscripted("prefetch")
    }

    async fn lease(
        &self,
        request: Request<wire::LeaseRequest>,
    ) -> Result<Response<wire::LeaseResponse>, Status> {
        let planned = self.with(|script| {
            script.asked_leases.push(request.into_inner());
            script.leases.pop_front()
        });
        planned
            .unwrap_or_else(|| unscripted("lease")?)
            .map(Response::new)
    }

    async fn watch(
        &self,
        _: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        unscripted("watch")
    }

    async fn report(
        &self,
        request: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        let planned = self.with(|script| {
            script.asked_reports.push(request.into_inner());
            script.reports.pop_front()
        });
        planned
            .unwrap_or_else(|| unscripted("report")?)
            .map(Response::new)
    }
}

type Answers = mpsc::Sender<Result<wire::PutResponse, Status>>;

/// A block that was asked for: its hash, its plan, its size and what came of it.
struct Coming {
    hash: Bytes,
    plan: PutPlan,
    size: usize,
    bytes: Vec<u8>,
}

async fn take_blocks(gateway: Gateway, mut frames: Streaming<wire::PutRequest>, answers: Answers) {
    let mut coming = BTreeMap::new();
    while let Ok(Some(request)) = frames.message().await {
        match request.frame.unwrap() {
            put_request::Frame::Open(open) => gateway.with(|script| script.put_opens.push(open)),
            put_request::Frame::Offer(offer) => {
                let plan = gateway.with(|script| {
                    script.offers.push(offer.hash.clone());
                    let plans = script.puts.get_mut(&offer.hash);
                    plans.and_then(VecDeque::pop_front).unwrap_or(PutPlan::Send)
                });
                decide(offer.id, &plan, &answers).await;
                let block = Coming {
                    hash: offer.hash,
                    plan,
                    size: offer.meta.unwrap().bytes as usize,
                    bytes: Vec::new(),
                };
                coming.insert(offer.id, block);
            }
            put_request::Frame::Piece(piece) => {
                let block: &mut Coming = coming.get_mut(&piece.id).unwrap();
                block.bytes.extend_from_slice(&piece.data);
                if block.bytes.len() < block.size {
                    continue;
                }
                if matches!(block.plan, PutPlan::Break) {
                    let _ = answers.send(Err(Status::unavailable("going away"))).await;
                    return;
                }
                let (hash, bytes) = (block.hash.clone(), block.bytes.clone());
                gateway.with(|script| script.stored.insert(hash, bytes));
                ack(piece.id, false, &answers).await;
            }
        }
    }
}

async fn decide(id: u64, plan: &PutPlan, answers: &Answers) {
    let (verdict, reason, retry_after_ms) = match plan {
        PutPlan::Send | PutPlan::Break => (Verdict::Send, wire::RefusalReason::Unspecified, 0),
        PutPlan::Have => (Verdict::Have, wire::RefusalReason::Unspecified, 0),
        PutPlan::Refuse(reason, after) => (Verdict::Refused, *reason, *after),
    };
    let decision = wire::PutDecision {
        verdict: verdict.into(),
        reason: reason.into(),
        message: "as the script says".to_owned(),
        retry_after_ms,
    };
    say(id, wire::put_response::Frame::Decision(decision), answers).await;
    if matches!(plan, PutPlan::Have) {
        ack(id, true, answers).await;
    }
}

async fn ack(id: u64, existed: bool, answers: &Answers) {
    let ack = wire::PutAck {
        level: wire::AckLevel::Replicated.into(),
        position: Some(position(100 + id).to_wire()),
        copies: 2,
        existed,
        put_hlc: 1,
    };
    say(id, wire::put_response::Frame::Ack(ack), answers).await;
}

async fn say(id: u64, frame: wire::put_response::Frame, answers: &Answers) {
    let answer = wire::PutResponse {
        id,
        frame: Some(frame),
    };
    let _ = answers.send(Ok(answer)).await;
}

/// Time that no test needs in full.
pub(super) const LONG: Duration = Duration::from_secs(20);
