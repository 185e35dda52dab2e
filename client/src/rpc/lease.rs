//! Leases.

use std::time::Duration;

use bytes::Bytes;
use kvmesh_directory::{FeedPosition, NamespaceId};
use kvmesh_proto::v1 as wire;

use super::{CacheRpc, RpcError, cache::timed, get::millis};
use crate::{
    client::{ChainQuery, LeaseAnswer, LookupAnswer, Wish},
    convert::{FromWire, ToWire, WireError, each},
};

impl CacheRpc {
    /// Looks up and leases; the lease's name and for how long it holds, if anything is leased.
    pub(crate) async fn lookup_held(
        mut self,
        namespace: NamespaceId,
        queries: &[ChainQuery],
        at_least: &[FeedPosition],
        hold: Duration,
        left: Duration,
    ) -> Result<(LookupAnswer, Option<(Bytes, Duration)>), RpcError> {
        let request = wire::LookupRequest {
            namespace_id: namespace.to_wire(),
            chains: each(queries),
            at_least: each(at_least),
            hold_ms: millis(hold),
        };
        let answer = self.stub.lookup(timed(request, left)).await?.into_inner();
        let hold = Duration::from_millis(answer.lease_ms.into());
        let lease = Some((answer.lease.clone(), hold)).filter(|(name, _)| !name.is_empty());
        Ok((LookupAnswer::from_wire(answer)?, lease))
    }

    /// Renews or releases.
    pub(crate) async fn lease(
        mut self,
        namespace: NamespaceId,
        wish: &Wish,
        left: Duration,
    ) -> Result<LeaseAnswer, RpcError> {
        let mut request = wire::LeaseRequest {
            namespace_id: namespace.to_wire(),
            ..Default::default()
        };
        match wish {
            Wish::Renew(name, hold) => {
                (request.renew, request.hold_ms) = (name.clone(), millis(*hold));
            }
            Wish::Release(name) => request.release = name.clone(),
        }
        let answer = self.stub.lease(timed(request, left)).await?;
        Ok(LeaseAnswer::from_wire(answer.into_inner())?)
    }
}

impl FromWire for LeaseAnswer {
    type Wire = wire::LeaseResponse;
    fn from_wire(wire: wire::LeaseResponse) -> Result<Self, WireError> {
        Ok(Self {
            blocks: wire.blocks,
            hold: Duration::from_millis(wire.hold_ms.into()),
            partial: wire.partial,
        })
    }
}
