//! The unary calls.

use std::time::Duration;

use kvmesh_directory::{
    Description, FeedPosition, NamespaceId, Part, RingEpoch, limits::MESSAGE_BYTES_MAX,
};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use tonic::Request;

use super::{GetFrames, GetRequest, PutCall, RpcError};
use crate::{
    channel::Channel,
    client::{Chain, ChainQuery, Deleted, Located, LookupAnswer, OpenAnswer},
    convert::{FromWire, ToWire, each},
};

/// A range of a chain, and parts of its blocks.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) namespace: NamespaceId,
    pub(crate) chain: Chain,
    pub(crate) start: u32,
    pub(crate) count: u32,
    pub(crate) parts: Vec<Part>,
}

/// One server of `Cache`. Every call carries the time that is left.
#[derive(Clone)]
pub(crate) struct CacheRpc {
    pub(super) stub: CacheClient<Channel>,
}

impl CacheRpc {
    pub(crate) fn new(channel: Channel) -> Self {
        let stub = CacheClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { stub }
    }

    pub(crate) async fn open(
        mut self,
        description: &Description,
        name: &str,
        template: &str,
        left: Duration,
    ) -> Result<OpenAnswer, RpcError> {
        let request = wire::OpenRequest {
            description: Some(description.to_wire()),
            name: name.to_owned(),
            template: template.to_owned(),
        };
        let answer = self.stub.open(timed(request, left)).await?;
        Ok(OpenAnswer::from_wire(answer.into_inner())?)
    }

    pub(crate) async fn lookup(
        mut self,
        namespace: NamespaceId,
        queries: &[ChainQuery],
        at_least: &[FeedPosition],
        left: Duration,
    ) -> Result<LookupAnswer, RpcError> {
        let request = wire::LookupRequest {
            namespace_id: namespace.to_wire(),
            chains: each(queries),
            at_least: each(at_least),
            hold_ms: 0,
        };
        let answer = self.stub.lookup(timed(request, left)).await?;
        Ok(LookupAnswer::from_wire(answer.into_inner())?)
    }

    pub(crate) async fn delete(
        mut self,
        range: Range,
        left: Duration,
    ) -> Result<Deleted, RpcError> {
        let request = wire::DeleteRequest {
            namespace_id: range.namespace.to_wire(),
            chain: Some(range.chain.to_wire()),
            start: range.start,
            count: range.count,
            parts: each(&range.parts),
        };
        let answer = self.stub.delete(timed(request, left)).await?;
        Ok(Deleted::from_wire(answer.into_inner())?)
    }

    pub(crate) async fn locate(
        mut self,
        range: Range,
        epoch: RingEpoch,
        left: Duration,
    ) -> Result<Located, RpcError> {
        let request = wire::LocateRequest {
            namespace_id: range.namespace.to_wire(),
            chain: Some(range.chain.to_wire()),
            parts: each(&range.parts),
            ring_epoch: epoch.0,
        };
        let answer = self.stub.locate(timed(request, left)).await?;
        Ok(Located::from_wire(answer.into_inner())?)
    }

    pub(crate) async fn get(mut self, request: &GetRequest) -> Result<GetFrames, RpcError> {
        let answer = self
            .stub
            .get(timed(request.to_wire(), request.left))
            .await?;
        Ok(GetFrames::new(answer.into_inner()))
    }

    /// Starts a put; its frames come from the call's other half.
    pub(crate) async fn put(mut self, call: PutCall) -> Result<super::put::PutAnswers, RpcError> {
        let (left, frames) = call.into_parts();
        let answer = self.stub.put(timed(frames, left)).await?;
        Ok(super::put::PutAnswers::new(answer.into_inner()))
    }
}

pub(super) fn timed<T>(message: T, left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(left);
    request
}
