//! The unary calls.

use std::{mem, time::Duration};

use futures::stream;
use kvmesh_directory::{
    Description, FeedPosition, Member, NamespaceId, Part, RingEpoch, limits::MESSAGE_BYTES_MAX,
};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use tonic::{Code, Request};

use super::{GetFrames, GetRequest, PutCall, RpcError};
use crate::{
    bulk,
    channel::Channel,
    client::{Chain, ChainQuery, Deleted, Located, LookupAnswer, OpenAnswer},
    convert::{FromWire, ToWire, each},
    ranges::Ranges,
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
    channel: Channel,
}

impl CacheRpc {
    pub(crate) fn new(channel: Channel) -> Self {
        let stub = CacheClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { stub, channel }
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

    /// Where blocks are. Of the ring also its members, where `ring_known` is given and of another
    /// epoch.
    pub(crate) async fn locate(
        mut self,
        range: Range,
        epoch: RingEpoch,
        ring_known: Option<RingEpoch>,
        left: Duration,
    ) -> Result<(Located, Vec<Member>), RpcError> {
        let request = wire::LocateRequest {
            namespace_id: range.namespace.to_wire(),
            chain: Some(range.chain.to_wire()),
            parts: each(&range.parts),
            ring_epoch: epoch.0,
            ring_known: ring_known.map(|epoch| epoch.0),
        };
        let answer = self.stub.locate(timed(request, left)).await?;
        let mut answer = answer.into_inner();
        let ring = mem::take(&mut answer.ring).into_iter();
        let ring = ring.map(Member::from_wire).collect::<Result<_, _>>()?;
        Ok((Located::from_wire(answer)?, ring))
    }

    pub(crate) async fn get(self, request: &GetRequest) -> Result<GetFrames, RpcError> {
        let call = |request: &GetRequest| {
            let asked = stream::iter([request.to_wire()]);
            bulk::call(self.channel.clone(), bulk::GET, asked, Some(request.left))
        };
        let answers = match call(request).await {
            // A server of an earlier version sends whole blocks.
            Err(status) if status.code() == Code::Unimplemented && !request.ranges.is_whole() => {
                let ranges = Ranges::default();
                let whole = GetRequest {
                    ranges,
                    ..request.clone()
                };
                call(&whole).await?
            }
            answered => answered?,
        };
        Ok(GetFrames::new(answers))
    }

    /// Starts a put; its frames come from the call's other half.
    pub(crate) async fn put(self, call: PutCall) -> Result<super::PutAnswers, RpcError> {
        let (left, frames) = call.into_parts();
        let answers = bulk::call(self.channel, bulk::PUT, frames, Some(left)).await?;
        Ok(super::PutAnswers::new(answers))
    }
}

pub(super) fn timed<T>(message: T, left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(left);
    request
}
