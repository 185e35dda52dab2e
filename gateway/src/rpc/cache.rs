//! Serves `Cache`.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kvmesh_client::{Problem, ToWire, convert};
use kvmesh_directory::{Description, limits::PROTOCOL_VERSION};
use kvmesh_process::access;
use kvmesh_proto::v1::{self as wire, cache_server::Cache};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{
    decode, encode, lease,
    messages::{self, Messages},
    prefetch, report, watch,
};
use crate::{
    asker::Asker,
    coding,
    context::Gateway,
    deadline::Deadline,
    frame::{Frame, Outcome, Summary},
    intake, locate, lookup, manage, reach, read, transcode,
};

/// Frames of a get, and replies of a put, that wait for a slow client.
const BUFFERED: usize = 8;

pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service over one gateway.
pub(crate) struct Rpc {
    gateway: Arc<Gateway>,
}

impl Rpc {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    /// Who makes a call.
    fn asker<T>(&self, request: &Request<T>) -> Asker {
        Asker::of(&self.gateway.region, access::link_of(request))
    }

    /// Counts a call and how it was answered.
    async fn answer<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let answer = call.await;
        let code = answer.as_ref().map_or_else(Problem::code, |_| Code::Ok);
        self.gateway.meters.answered(method, code, begun.elapsed());
        answer.map(Response::new).map_err(|problem| {
            tracing::debug!(method, %problem, "refused");
            Status::from(problem)
        })
    }

    /// How long a call waits for the positions that it names.
    fn view_wait(&self, deadline: Deadline) -> Instant {
        let wait = Duration::from_millis(self.gateway.settings.now().at_least_wait_ms);
        match deadline.named {
            true => deadline.at,
            false => deadline.at.min(Instant::now() + wait),
        }
    }

    async fn open_namespace(
        &self,
        asker: Asker,
        request: Request<wire::OpenRequest>,
    ) -> Result<wire::OpenResponse, Problem> {
        let deadline = Deadline::of(request.metadata(), 0, Duration::from_secs(15));
        let request = request.into_inner();
        let description: Description = convert::required("description", request.description)?;
        let until = deadline.with_room_to_answer().at;
        let (gateway, template) = (&self.gateway, &request.template);
        let wanted = (description, request.name, template.as_str());
        let (namespace, position) = manage::open(gateway, &asker, wanted, until).await?;
        // The ring is for those whom nodes serve.
        let ring_epoch = match asker.is_near() {
            true => gateway.views.ring().epoch().0,
            false => 0,
        };
        Ok(wire::OpenResponse {
            namespace: Some(namespace.to_wire()),
            limits: Some(encode::limits()),
            protocol_version: PROTOCOL_VERSION,
            ring_epoch,
            region: gateway.region.to_wire(),
            position: Some(position.to_wire()),
        })
    }

    async fn look_up(
        &self,
        asker: Asker,
        request: Request<wire::LookupRequest>,
    ) -> Result<wire::LookupResponse, Problem> {
        let gateway = &self.gateway;
        let _room = gateway.admit()?;
        let limit = match request.get_ref().hold_ms {
            0 => Duration::from_millis(gateway.settings.now().lookup_deadline_ms),
            _ => lease::limit(gateway),
        };
        let deadline = Deadline::of(request.metadata(), 0, limit);
        let request = request.into_inner();
        let positions = decode::positions(request.at_least)?;
        let position = gateway.views.fresh()?;
        let until = self.view_wait(deadline);
        if !gateway.views.at_least(&positions, until).await {
            return Ok(encode::lookup(gateway, None, Some(&position)));
        }
        let position = gateway.views.fresh()?;
        let namespace = decode::namespace_of(gateway, &asker, request.namespace_id)?;
        let queries = decode::queries(request.chains, &namespace)?;
        let others = reach::others(gateway, &namespace);
        let matches = lookup::lookup(gateway, &namespace, &queries, &others);
        let mut answer = encode::lookup(gateway, Some(matches), Some(&position));
        answer.local_only = others.local_only();
        answer.left_out = convert::each(&others.left_out);
        if request.hold_ms > 0 {
            let until = deadline.with_room_to_answer().at;
            let (id, hold_ms) = (namespace.id, request.hold_ms);
            let taken = crate::lease::take(gateway, id, &queries, hold_ms, until).await?;
            lease::write(&mut answer, &taken);
        }
        Ok(answer)
    }

    async fn begin_get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Answers<wire::GetResponse>, Problem> {
        let gateway = Arc::clone(&self.gateway);
        let room = gateway.admit()?;
        let default = Duration::from_millis(gateway.settings.now().get_deadline_ms);
        let named = request.get_ref().deadline_ms;
        let deadline = Deadline::of(request.metadata(), named, default).with_room_to_answer();
        let hop = match request.get_ref().hop {
            0 => "hop 0",
            _ => "hop 1",
        };
        let link = access::link_of(&request);
        access::check(link, "Cache", "Get", hop)?;
        let from = request.get_ref().from_region.as_str();
        let named = match from {
            "" => None,
            name => Some(convert::region("from_region", name)?),
        };
        let relayed = request.get_ref().hop != 0;
        let asker = Asker::of_get(&gateway.region, link, named, relayed)?;
        let mut request = request.into_inner();
        let positions = decode::positions(std::mem::take(&mut request.at_least))?;
        let before = gateway.views.fresh()?;
        let (out, frames) = mpsc::channel(BUFFERED);
        let until = self.view_wait(deadline);
        if !gateway.views.at_least(&positions, until).await {
            let summary = Summary::nothing(Outcome::ViewBehind, Some(before));
            let only = futures::stream::once(async { Ok(Frame::Summary(summary)) });
            return Ok(Box::pin(only.map(|frame| frame.map(encode::frame))));
        }
        let position = gateway.views.fresh()?;
        let want = decode::want(&gateway, &asker, request, deadline)?;
        let (coder, encoding) = (Arc::clone(&gateway), want.encoding);
        let (id, lossy_encoding) = (want.namespace.id, want.lossy_encoding);
        let (failed, failure) = mpsc::channel(1);
        let tasks = gateway.tasks.clone();
        let getting = async move {
            if let Err(problem) = read::get(gateway, want, Some(position), out).await {
                let _ = failed.send(Err(Status::from(problem))).await;
            }
            drop(room);
        };
        tasks.spawn(getting.in_current_span());
        let frames = ReceiverStream::new(frames);
        let frames = match lossy_encoding {
            Some(with) => transcode::stream(Arc::clone(&coder), id, with, frames).boxed(),
            None => frames.boxed(),
        };
        let failure = ReceiverStream::new(failure);
        let Some(encoding) = encoding else {
            let frames = frames.map(|frame| Ok(encode::frame(frame)));
            return Ok(Box::pin(frames.chain(failure)));
        };
        let encoded = frames.map(move |frame| {
            let coder = Arc::clone(&coder);
            async move { coder.coding.encode_frame(encoding, frame).await }
        });
        let frames = encoded.buffered(coding::AT_ONCE);
        Ok(Box::pin(
            frames.map(|it| Ok(encode::frame(it))).chain(failure),
        ))
    }

    async fn begin_put(
        &self,
        asker: Asker,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Answers<wire::PutResponse>, Problem> {
        let gateway = Arc::clone(&self.gateway);
        let room = gateway.admit()?;
        let default = gateway.settings.now().put_deadline_ms;
        let longest = Duration::from_secs(3_600);
        let until = Deadline::of(request.metadata(), 0, longest).with_room_to_answer();
        let mut stream = request.into_inner();
        let first = until
            .at
            .min(Instant::now() + Duration::from_millis(default));
        let Ok(open) = timeout_at(first, messages::open(&mut stream)).await else {
            return Err(Problem::OutOfTime("the put's first message"));
        };
        let open = open?;
        if open.fill {
            let why = "only gateways fill, and they ask nodes: leave it false";
            return Err(Problem::invalid("open.fill", why));
        }
        gateway.views.fresh()?;
        locate::current_epoch(&gateway, open.ring_epoch).await?;
        let namespace = decode::namespace_of(&gateway, &asker, open.namespace_id)?;
        let namespace = Arc::new(namespace);
        let put = intake::Open {
            level: decode::level(open.ack, &namespace)?,
            namespace: Arc::clone(&namespace),
            deadline: decode::millis(open.deadline_ms, default),
            until: until.at,
        };
        let (out, replies) = mpsc::channel(BUFFERED);
        let (failed, failure) = mpsc::channel(1);
        let tasks = gateway.tasks.clone();
        let putting = async move {
            let messages = Messages::new(stream, namespace);
            if let Err(problem) = intake::run(gateway, put, messages, out).await {
                let _ = failed.send(Err(Status::from(problem))).await;
            }
            drop(room);
        };
        tasks.spawn(putting.in_current_span());
        let replies = ReceiverStream::new(replies).map(|(id, it)| Ok(encode::reply(id, it)));
        Ok(Box::pin(replies.chain(ReceiverStream::new(failure))))
    }

    async fn locate_chain(
        &self,
        asker: Asker,
        request: wire::LocateRequest,
    ) -> Result<wire::LocateResponse, Problem> {
        let gateway = &self.gateway;
        gateway.views.fresh()?;
        let namespace = decode::namespace_of(gateway, &asker, request.namespace_id.clone())?;
        let (epoch, known) = (request.ring_epoch, request.ring_known);
        let query = decode::located(request, &namespace)?;
        if !asker.is_near() {
            return Ok(encode::located(&locate::nowhere(&query)));
        }
        let located = locate::locate(gateway, &namespace, &query, epoch, known).await?;
        Ok(encode::located(&located))
    }

    async fn delete_blocks(
        &self,
        asker: Asker,
        request: Request<wire::DeleteRequest>,
    ) -> Result<wire::DeleteResponse, Problem> {
        let gateway = &self.gateway;
        let deadline = Deadline::of(request.metadata(), 0, Duration::from_secs(15));
        let request = request.into_inner();
        gateway.views.fresh()?;
        let namespace = decode::namespace_of(gateway, &asker, request.namespace_id.clone())?;
        let deletion = decode::deletion(request, &namespace)?;
        let until = deadline.with_room_to_answer().at;
        let (position, deleted) = manage::delete(gateway, &deletion, until).await?;
        Ok(wire::DeleteResponse {
            position: Some(position.to_wire()),
            deleted,
        })
    }
}

#[tonic::async_trait]
impl Cache for Rpc {
    type GetStream = Answers<wire::GetResponse>;
    type PutStream = Answers<wire::PutResponse>;
    type PrefetchStream = Answers<wire::PrefetchResponse>;
    type WatchStream = Answers<wire::WatchResponse>;

    async fn open(
        &self,
        request: Request<wire::OpenRequest>,
    ) -> Result<Response<wire::OpenResponse>, Status> {
        let asker = self.asker(&request);
        self.answer("Open", self.open_namespace(asker, request))
            .await
    }

    async fn lookup(
        &self,
        request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupResponse>, Status> {
        let asker = self.asker(&request);
        self.answer("Lookup", self.look_up(asker, request)).await
    }

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        self.answer("Get", self.begin_get(request)).await
    }

    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<Self::PutStream>, Status> {
        let asker = self.asker(&request);
        self.answer("Put", self.begin_put(asker, request)).await
    }

    async fn locate(
        &self,
        request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateResponse>, Status> {
        let (asker, request) = (self.asker(&request), request.into_inner());
        self.answer("Locate", self.locate_chain(asker, request))
            .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let asker = self.asker(&request);
        self.answer("Delete", self.delete_blocks(asker, request))
            .await
    }

    async fn prefetch(
        &self,
        request: Request<wire::PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        let asker = self.asker(&request);
        let served = prefetch::serve(&self.gateway, &asker, request.into_inner());
        self.answer("Prefetch", served).await
    }

    async fn lease(
        &self,
        request: Request<wire::LeaseRequest>,
    ) -> Result<Response<wire::LeaseResponse>, Status> {
        let asker = self.asker(&request);
        let served = lease::serve(&self.gateway, &asker, request);
        self.answer("Lease", served).await
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let asker = self.asker(&request);
        let served = watch::serve(&self.gateway, &asker, request.into_inner());
        self.answer("Watch", served).await
    }

    async fn report(
        &self,
        request: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        let asker = self.asker(&request);
        let served = report::serve(&self.gateway, &asker, request.into_inner());
        self.answer("Report", async { served }).await
    }
}
