//! `Cache` as a node serves it: for the blocks that it holds, and for its region's directory.

mod ahead;
mod delete;
mod get;
mod lease;
mod locate;
mod lookup;
mod open;
mod put;
mod put_block;
pub(crate) mod put_local;

use std::sync::Arc;

use kvmesh_client::{
    Problem,
    convert::{self, all},
};
use kvmesh_directory::{FeedPosition, Namespace};
use kvmesh_proto::v1::{self as wire, cache_server::Cache};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::not_built;
use crate::node::Node;

pub(super) struct CacheRpc(pub(super) Arc<Node>);

type Frames<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Cache for CacheRpc {
    type GetStream = Frames<wire::GetResponse>;
    type PutStream = Frames<wire::PutResponse>;
    type PrefetchStream = Frames<wire::PrefetchResponse>;
    type WatchStream = Frames<wire::WatchResponse>;

    async fn open(
        &self,
        request: Request<wire::OpenRequest>,
    ) -> Result<Response<wire::OpenResponse>, Status> {
        let opened = open::open(&self.0, request.into_inner()).await?;
        Ok(Response::new(opened))
    }

    async fn lookup(
        &self,
        request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupResponse>, Status> {
        let found = lookup::lookup(&self.0, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let frames = get::get(&self.0, request.into_inner()).await?;
        Ok(Response::new(frames))
    }

    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<Self::PutStream>, Status> {
        let frames = put::put(&self.0, request.into_inner());
        Ok(Response::new(frames))
    }

    async fn locate(
        &self,
        request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateResponse>, Status> {
        let located = locate::locate(&self.0, request.into_inner()).await?;
        Ok(Response::new(located))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let passed_on = super::leading::passed_on(request.metadata());
        let deleted = delete::delete(&self.0, request.into_inner(), passed_on).await?;
        Ok(Response::new(deleted))
    }

    async fn prefetch(
        &self,
        _request: Request<wire::PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        not_built("Prefetch")
    }

    async fn lease(
        &self,
        request: Request<wire::LeaseRequest>,
    ) -> Result<Response<wire::LeaseResponse>, Status> {
        let leased = lease::lease(&self.0, request.into_inner())?;
        Ok(Response::new(leased))
    }

    async fn watch(
        &self,
        _request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        not_built("Watch")
    }

    async fn report(
        &self,
        _request: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        not_built("Report")
    }
}

/// A namespace by the id that a call names.
fn namespace_of(node: &Node, raw: &bytes::Bytes) -> Result<Namespace, Problem> {
    node.namespace(super::namespace_id(raw)?)
}

/// The chain of a call, in canonical hashes.
fn chain_of(
    chain: Option<&wire::Chain>,
    namespace: &Namespace,
) -> Result<Vec<kvmesh_directory::BlockHash>, Problem> {
    let chain = chain.ok_or_else(|| Problem::invalid("chain", "it is missing"))?;
    Ok(convert::chain(
        chain,
        namespace.description.width_where(chain.width),
    )?)
}

fn positions_of(raw: Vec<wire::FeedPosition>) -> Result<Vec<FeedPosition>, Problem> {
    Ok(all(raw)?)
}

/// `start..start + count` of a chain; a count of 0 means to its end.
fn range_of(start: u32, count: u32, blocks: usize) -> Result<std::ops::Range<usize>, Problem> {
    let start = start as usize;
    if start >= blocks {
        let why = format!("it is {start}, the chain has {blocks} blocks");
        return Err(Problem::invalid("start", why));
    }
    let end = match count {
        0 => blocks,
        count => start + count as usize,
    };
    if end > blocks {
        let why = format!("start + count is {end}, the chain has {blocks} blocks");
        return Err(Problem::invalid("count", why));
    }
    Ok(start..end)
}
