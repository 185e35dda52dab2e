//! What a gateway counts. Every metric carries the process's `instance`.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::RegionId;
use metrics::{counter, gauge, histogram};
use tonic::Code;

/// Counts for one gateway.
#[derive(Clone)]
pub(crate) struct Meters {
    instance: Arc<str>,
}

/// What became of a block that was to be kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FillEnd {
    Kept,
    Failed,
    /// The queue was full.
    Dropped,
}

impl Meters {
    pub(crate) fn new(instance: Arc<str>) -> Self {
        Self { instance }
    }

    fn instance(&self) -> String {
        self.instance.to_string()
    }

    /// An RPC leaves the gateway; feeds do not count.
    pub(crate) fn outbound(&self, method: &'static str) {
        counter!("kvmesh_gateway_outbound_rpcs_total",
            "instance" => self.instance(), "method" => method)
        .increment(1);
    }

    /// A call was answered.
    pub(crate) fn answered(&self, method: &'static str, code: Code, took: Duration) {
        counter!("kvmesh_gateway_requests_total",
            "instance" => self.instance(), "method" => method, "code" => code_name(code))
        .increment(1);
        histogram!("kvmesh_gateway_request_seconds",
            "instance" => self.instance(), "method" => method)
        .record(took.as_secs_f64());
    }

    /// Blocks went to a client; `region` is where they came from.
    pub(crate) fn served(&self, region: &RegionId, blocks: u64, bytes: u64) {
        counter!("kvmesh_gateway_blocks_served_total",
            "instance" => self.instance(), "source" => region.as_str().to_owned())
        .increment(blocks);
        counter!("kvmesh_gateway_bytes_served_total",
            "instance" => self.instance(), "source" => region.as_str().to_owned())
        .increment(bytes);
    }

    /// The first bytes of a get left.
    pub(crate) fn first_block(&self, after: Duration) {
        histogram!("kvmesh_gateway_get_first_block_seconds", "instance" => self.instance())
            .record(after.as_secs_f64());
    }

    /// A view said that somebody has a block, and they did not have it.
    pub(crate) fn stale_claim(&self) {
        counter!("kvmesh_gateway_stale_claims_total", "instance" => self.instance()).increment(1);
    }

    /// A get joined a fetch that was under way.
    pub(crate) fn flight_shared(&self) {
        counter!("kvmesh_gateway_flights_shared_total", "instance" => self.instance()).increment(1);
    }

    /// A fetch that broke goes on behind so many bytes.
    pub(crate) fn resumed(&self, bytes: u64) {
        counter!("kvmesh_gateway_fetch_resumed_bytes_total", "instance" => self.instance())
            .increment(bytes);
    }

    /// A fetched block was kept here, or not.
    pub(crate) fn fill(&self, end: FillEnd) {
        let end = match end {
            FillEnd::Kept => "ok",
            FillEnd::Failed => "failed",
            FillEnd::Dropped => "dropped",
        };
        counter!("kvmesh_gateway_fills_total", "instance" => self.instance(), "end" => end)
            .increment(1);
    }

    /// A piece was encoded for another region (`way` is `sent`) or decoded (`received`).
    pub(crate) fn coded(&self, way: &'static str, encoding: &'static str, plain: u64, wire: u64) {
        for (form, bytes) in [("plain", plain), ("wire", wire)] {
            counter!("kvmesh_gateway_coded_bytes_total", "instance" => self.instance(),
                "way" => way, "encoding" => encoding, "form" => form)
            .increment(bytes);
        }
    }

    /// A piece from another region cannot be decoded.
    pub(crate) fn not_decoded(&self) {
        counter!("kvmesh_gateway_undecodable_pieces_total", "instance" => self.instance())
            .increment(1);
    }

    /// A block from another region is rounded, which the policy does not allow or it does not say.
    pub(crate) fn lossy_refused(&self) {
        counter!("kvmesh_gateway_lossy_refused_total", "instance" => self.instance()).increment(1);
    }

    /// A prefetch ended.
    pub(crate) fn prefetched(&self, kept: u64, failed: u64) {
        for (end, blocks) in [("ok", kept), ("failed", failed)] {
            counter!("kvmesh_gateway_prefetched_blocks_total",
                "instance" => self.instance(), "end" => end)
            .increment(blocks);
        }
    }

    /// Blocks were wanted often enough to be brought here.
    pub(crate) fn hot(&self, blocks: u64) {
        counter!("kvmesh_gateway_hot_blocks_total", "instance" => self.instance())
            .increment(blocks);
    }

    /// A get of a `when_faster` namespace came to blocks that only other regions have.
    pub(crate) fn decided(&self, decision: &'static str) {
        counter!("kvmesh_gateway_fetch_decisions_total",
            "instance" => self.instance(), "decision" => decision)
        .increment(1);
    }

    /// A get came to blocks whose nearest region is lost: it turned to another one, or might not.
    pub(crate) fn turned(&self, may: bool) {
        let end = if may { "taken" } else { "refused" };
        counter!("kvmesh_gateway_failovers_total", "instance" => self.instance(), "end" => end)
            .increment(1);
    }

    /// The first bytes of a fetch were late: they were asked for a second time, whose bytes came
    /// first (`won`) or did not (`lost`), or might not be (`refused`).
    pub(crate) fn hedged(&self, end: &'static str) {
        counter!("kvmesh_gateway_hedges_total", "instance" => self.instance(), "end" => end)
            .increment(1);
    }

    /// No gateway of another region could be reached.
    pub(crate) fn unreached(&self, region: &RegionId) {
        counter!("kvmesh_gateway_regions_lost_total",
            "instance" => self.instance(), "peer" => region.as_str().to_owned())
        .increment(1);
    }

    /// A fetch from another region ended; so many bytes came after the first ones.
    pub(crate) fn transferred(&self, peer: &RegionId, bytes: u64) {
        counter!("kvmesh_gateway_link_transfers_total",
            "instance" => self.instance(), "peer" => peer.as_str().to_owned())
        .increment(1);
        counter!("kvmesh_gateway_link_bytes_total",
            "instance" => self.instance(), "peer" => peer.as_str().to_owned())
        .increment(bytes);
    }

    /// So many bytes of a piece came from another region, as they travelled.
    pub(crate) fn fetched(&self, peer: &RegionId, bytes: usize) {
        counter!("kvmesh_gateway_fetched_bytes_total",
            "instance" => self.instance(), "peer" => peer.as_str().to_owned())
        .increment(bytes as u64);
    }

    /// So many bytes that say nothing came from there.
    pub(crate) fn measured(&self, peer: &RegionId, bytes: u64) {
        counter!("kvmesh_gateway_measured_bytes_total",
            "instance" => self.instance(), "peer" => peer.as_str().to_owned())
        .increment(bytes);
    }

    /// What a fetch from there is expected to see now: half of the time better, 19 times of 20
    /// better.
    pub(crate) fn link(&self, peer: &RegionId, quantile: &'static str, first: f64, rate: f64) {
        gauge!("kvmesh_gateway_link_first_byte_seconds", "instance" => self.instance(),
            "peer" => peer.as_str().to_owned(), "quantile" => quantile)
        .set(first);
        gauge!("kvmesh_gateway_link_bandwidth_bytes", "instance" => self.instance(),
            "peer" => peer.as_str().to_owned(), "quantile" => quantile)
        .set(rate);
    }

    /// A get fetched from afar: how much longer that took than recomputing would have.
    pub(crate) fn regretted(&self, seconds: f64) {
        histogram!("kvmesh_decision_regret_seconds", "instance" => self.instance()).record(seconds);
    }

    /// Tokens of a get went to a client; `region` is where they came from.
    pub(crate) fn served_tokens(&self, region: &RegionId, tokens: u64) {
        counter!("kvmesh_gateway_tokens_served_total",
            "instance" => self.instance(), "source" => region.as_str().to_owned())
        .increment(tokens);
    }

    /// Tokens that a get wanted and the client has to compute.
    pub(crate) fn left_tokens(&self, why: &'static str, tokens: u64) {
        counter!("kvmesh_gateway_tokens_left_total", "instance" => self.instance(), "why" => why)
            .increment(tokens);
    }

    /// Requests were reported, of which so many say something about the prefill rate.
    pub(crate) fn reported(&self, used: usize, ignored: usize) {
        for (end, requests) in [("used", used), ("ignored", ignored)] {
            counter!("kvmesh_gateway_reported_requests_total",
                "instance" => self.instance(), "end" => end)
            .increment(requests as u64);
        }
    }

    /// A block of a put was acknowledged or refused.
    pub(crate) fn put_block(&self, end: &'static str, bytes: u64) {
        counter!("kvmesh_gateway_put_blocks_total", "instance" => self.instance(), "end" => end)
            .increment(1);
        counter!("kvmesh_gateway_put_bytes_total", "instance" => self.instance(), "end" => end)
            .increment(bytes);
    }

    /// A piece of a put came from a client, wanted or not.
    pub(crate) fn put_received(&self, bytes: u64) {
        counter!("kvmesh_gateway_put_received_bytes_total", "instance" => self.instance())
            .increment(bytes);
    }

    /// Hashes were looked up.
    pub(crate) fn looked_up(&self, hashes: u64) {
        counter!("kvmesh_gateway_lookup_hashes_total", "instance" => self.instance())
            .increment(hashes);
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
