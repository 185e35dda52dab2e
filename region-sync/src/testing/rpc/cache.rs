//! The gateway of a fake region: it brings what its sources have, and does nothing else.

use std::sync::atomic::Ordering;

use kvmesh_client::{FromWire, Problem, ToWire, convert};
use kvmesh_directory::{
    BlockKey, BlockName, Command, Copy, CopyNumber, Incarnation, NamespaceId, NodeId,
    command::{BlockChange, ChangeKind, Claim},
};
use kvmesh_proto::v1::{self as wire, cache_server::Cache};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, FakeRegion, Service, Stream};

/// Brings one block; false: the source does not have it, or it was deleted here.
fn bring(home: &FakeRegion, from: &FakeRegion, name: BlockName) -> bool {
    let claim = from.state.lock().unwrap().entry(&name).map(|entry| Claim {
        put_hlc: entry.put_hlc,
        checksum: entry.checksum,
        bytes: entry.bytes,
        depth: entry.depth,
        replicas: 1,
        copies: vec![Copy {
            node: NodeId(1),
            incarnation: Incarnation(1),
            copy: CopyNumber((1 << 32) + home.position().index),
        }],
    });
    let Some(claim) = claim else { return false };
    let kind = ChangeKind::Claim(claim);
    home.apply(Command::Blocks(vec![BlockChange { name, kind }]));
    home.state.lock().unwrap().entry(&name).is_some()
}

fn fake<T>() -> Answer<T> {
    Err(Status::unimplemented("fake"))
}

#[tonic::async_trait]
impl Cache for Service {
    type GetStream = Stream<wire::GetResponse>;
    type PutStream = Stream<wire::PutResponse>;
    type PrefetchStream = Stream<wire::PrefetchResponse>;
    type WatchStream = Stream<wire::WatchResponse>;

    async fn prefetch(
        &self,
        request: Request<wire::PrefetchRequest>,
    ) -> Answer<Self::PrefetchStream> {
        let (home, request) = (&self.0, request.into_inner());
        if home.refuses() {
            return Err(Problem::unavailable("not now").into());
        }
        let namespace = NamespaceId::from_wire(request.namespace_id).unwrap();
        let keys: Vec<BlockKey> = convert::all(request.keys).unwrap();
        let known = home.state.lock().unwrap().namespace(namespace).is_some();
        if !known {
            return Err(Problem::UnknownNamespace(namespace.to_string()).into());
        }
        let sources = home.sources.lock().unwrap().clone();
        let from = sources.iter().find(|it| it.name.as_str() == request.region);
        let from = from.expect("a source is named");
        home.brought.lock().unwrap().push(keys.len());
        let late = home
            .late
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1));
        let late = late.is_ok();
        let came = |key: &&BlockKey| !late && bring(home, from, BlockName::new(namespace, **key));
        let done = keys.iter().filter(came).count() as u32;
        let failed = keys.len() as u32 - done;
        let end = match failed {
            _ if late => wire::PrefetchEnd::OutOfTime,
            0 => wire::PrefetchEnd::Complete,
            _ => wire::PrefetchEnd::Partial,
        };
        let (answers, stream) = mpsc::channel(1);
        let answer = wire::PrefetchResponse {
            done_blocks: done,
            failed_blocks: failed,
            end: end.into(),
            position: Some(home.position().to_wire()),
            ..Default::default()
        };
        answers.try_send(Ok(answer)).unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn open(&self, _: Request<wire::OpenRequest>) -> Answer<wire::OpenResponse> {
        fake()
    }

    async fn lookup(&self, _: Request<wire::LookupRequest>) -> Answer<wire::LookupResponse> {
        fake()
    }

    async fn get(&self, _: Request<wire::GetRequest>) -> Answer<Self::GetStream> {
        fake()
    }

    async fn put(&self, _: Request<Streaming<wire::PutRequest>>) -> Answer<Self::PutStream> {
        fake()
    }

    async fn locate(&self, _: Request<wire::LocateRequest>) -> Answer<wire::LocateResponse> {
        fake()
    }

    async fn delete(&self, _: Request<wire::DeleteRequest>) -> Answer<wire::DeleteResponse> {
        fake()
    }

    async fn lease(&self, _: Request<wire::LeaseRequest>) -> Answer<wire::LeaseResponse> {
        fake()
    }

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        fake()
    }

    async fn report(&self, _: Request<wire::ReportRequest>) -> Answer<wire::ReportResponse> {
        fake()
    }
}
