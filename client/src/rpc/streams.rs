//! Prefetches, watches and reports.

use std::time::Duration;

use kvmesh_directory::{FeedPosition, NamespaceId};
use kvmesh_proto::v1 as wire;
use tonic::Streaming;

use super::{CacheRpc, RpcError, cache::timed};
use crate::{
    client::{ChainQuery, PrefetchEnd, PrefetchOptions, PrefetchProgress, RequestReport, Watched},
    convert::{FromWire, ToWire, WireError, all, each, optional, required},
};

/// Which prefetch, and what about it.
#[derive(Debug, Clone)]
pub(crate) enum Prefetch {
    New(Vec<ChainQuery>, PrefetchOptions),
    Known(String),
    /// It is to end.
    Ended(String),
}

/// Answers about a prefetch.
pub(crate) struct PrefetchAnswers(Streaming<wire::PrefetchResponse>);

/// Messages of a watch.
pub(crate) struct WatchAnswers(Streaming<wire::WatchResponse>);

impl CacheRpc {
    pub(crate) async fn prefetch(
        mut self,
        namespace: NamespaceId,
        wanted: &Prefetch,
    ) -> Result<PrefetchAnswers, RpcError> {
        let mut request = wire::PrefetchRequest {
            namespace_id: namespace.to_wire(),
            ..Default::default()
        };
        match wanted {
            Prefetch::New(queries, options) => {
                request.chains = each(queries);
                request.region = options
                    .region
                    .as_ref()
                    .map(ToWire::to_wire)
                    .unwrap_or_default();
                let ms = options.limit.map_or(0, |limit| limit.as_millis().max(1));
                request.deadline_ms = u32::try_from(ms).unwrap_or(u32::MAX);
            }
            Prefetch::Known(handle) => request.handle.clone_from(handle),
            Prefetch::Ended(handle) => {
                request.handle.clone_from(handle);
                request.cancel = true;
            }
        }
        Ok(PrefetchAnswers(
            self.stub.prefetch(request).await?.into_inner(),
        ))
    }

    pub(crate) async fn watch(
        mut self,
        namespace: NamespaceId,
        after: Option<&FeedPosition>,
    ) -> Result<WatchAnswers, RpcError> {
        let request = wire::WatchRequest {
            namespace_id: namespace.to_wire(),
            after: after.map(ToWire::to_wire),
        };
        Ok(WatchAnswers(self.stub.watch(request).await?.into_inner()))
    }

    pub(crate) async fn report(
        mut self,
        namespace: NamespaceId,
        reports: &[RequestReport],
        left: Duration,
    ) -> Result<Option<f64>, RpcError> {
        let write = |report: &RequestReport| wire::RequestReport {
            tokens: report.tokens,
            prefill_ms: report.prefill_ms,
            queue_ms: report.queue_ms,
            ttft_ms: report.ttft_ms,
            prefix_tokens: report.prefix_tokens,
        };
        let request = wire::ReportRequest {
            namespace_id: namespace.to_wire(),
            reports: reports.iter().map(write).collect(),
        };
        let answer = self.stub.report(timed(request, left)).await?;
        Ok(answer.into_inner().prefill_rate)
    }
}

impl PrefetchAnswers {
    pub(crate) async fn next(&mut self) -> Result<Option<PrefetchProgress>, RpcError> {
        let answer = self.0.message().await?;
        Ok(answer.map(PrefetchProgress::from_wire).transpose()?)
    }
}

impl WatchAnswers {
    pub(crate) async fn next(&mut self) -> Result<Option<Watched>, RpcError> {
        let message = self.0.message().await?;
        Ok(message.map(Watched::from_wire).transpose()?)
    }
}

impl FromWire for PrefetchProgress {
    type Wire = wire::PrefetchResponse;
    fn from_wire(wire: wire::PrefetchResponse) -> Result<Self, WireError> {
        let end = match wire::PrefetchEnd::try_from(wire.end) {
            Ok(wire::PrefetchEnd::Unspecified) => None,
            Ok(wire::PrefetchEnd::Complete) => Some(PrefetchEnd::Complete),
            Ok(wire::PrefetchEnd::Partial) => Some(PrefetchEnd::Partial),
            Ok(wire::PrefetchEnd::Cancelled) => Some(PrefetchEnd::Cancelled),
            Ok(wire::PrefetchEnd::OutOfTime) => Some(PrefetchEnd::OutOfTime),
            Err(_) => {
                let why = format!("{} is not known", wire.end);
                return Err(WireError::field("end", why));
            }
        };
        Ok(Self {
            handle: wire.handle,
            done_blocks: wire.done_blocks,
            total_blocks: wire.total_blocks,
            done_bytes: wire.done_bytes,
            total_bytes: wire.total_bytes,
            failed_blocks: wire.failed_blocks,
            end,
            position: optional(wire.position)?,
        })
    }
}

impl FromWire for Watched {
    type Wire = wire::WatchResponse;
    fn from_wire(wire: wire::WatchResponse) -> Result<Self, WireError> {
        Ok(Self {
            position: required("position", wire.position)?,
            appeared: all(wire.appeared)?,
            vanished: all(wire.vanished)?,
        })
    }
}
