//! An etcd server, by its gRPC service `KV`. The few messages that are needed are written out
//! here: a client crate would bring all of etcd's services for two calls.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use kvmesh_client::BlockMeta;
use prost::Message;
use tokio::time::{Instant, interval};
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    redis::whole,
    work::{PUTS_KEPT, Run, Work, verify},
};

/// Bytes of a request that etcd takes by default, its key and framing included.
const REQUEST_BYTES_MAX: u64 = 3 << 19;
const FRAMING_BYTES: u64 = 1 << 10;
/// Of a value, at most.
pub const VALUE_BYTES_MAX: u64 = REQUEST_BYTES_MAX - FRAMING_BYTES;

const CALL_MAX: Duration = Duration::from_secs(30);
/// After its start.
const READY_WITHIN: Duration = Duration::from_secs(5);
const READY_POLL: Duration = Duration::from_millis(100);
const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Its header is not read.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "9")]
    count_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// `host:port`.
#[derive(Clone)]
pub struct Target(pub String);

/// One connection.
pub struct Connection(Channel);

impl Target {
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.0))?
            .tcp_nodelay(true)
            .connect_timeout(CALL_MAX)
            .timeout(CALL_MAX);
        let connection = Connection(endpoint.connect_lazy());
        let until = Instant::now() + READY_WITHIN;
        let mut ticks = interval(READY_POLL);
        loop {
            ticks.tick().await;
            // One that has just been started has no leader yet.
            match connection.range(&Bytes::from_static(b"-"), true).await {
                Ok(_) => return Ok(connection),
                Err(_) if Instant::now() < until => {}
                Err(error) => {
                    let address = &self.0;
                    let what = format!("etcd at {address} does not answer: is it running?");
                    return Err(error.context(what));
                }
            }
        }
    }
}

async fn call<Q, A>(channel: Channel, path: &'static str, request: Q) -> anyhow::Result<A>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    Ok(client
        .unary(Request::new(request), path, codec)
        .await?
        .into_inner())
}

impl Connection {
    async fn range(&self, key: &Bytes, count_only: bool) -> anyhow::Result<RangeResponse> {
        let request = RangeRequest {
            key: key.clone(),
            count_only,
        };
        call(self.0.clone(), RANGE, request).await
    }

    /// All names of a run at a time, over one connection.
    pub(super) async fn get(&self, run: &Run) -> anyhow::Result<u64> {
        let asked = run
            .blocks
            .iter()
            .map(|block| self.range(&block.hash, false));
        let mut bytes = 0;
        for (answer, block) in try_join_all(asked).await?.iter().zip(&run.blocks) {
            let found = answer.kvs.first().context("etcd has lost a block")?;
            bytes += verify(&found.value, &block.block.meta)?;
        }
        Ok(bytes)
    }

    pub(super) async fn put(&self, work: &Work, number: u64) -> anyhow::Result<u64> {
        // It evicts nothing: names of a while ago are written again.
        let blocks = work.to_put(number % PUTS_KEPT);
        for (_, bytes) in &blocks {
            // A client of the mesh hashes what it puts.
            std::hint::black_box(BlockMeta::of(bytes, 0));
        }
        self.put_all(blocks).await
    }

    async fn put_all(&self, blocks: Vec<(Bytes, Bytes)>) -> anyhow::Result<u64> {
        let sent = blocks.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let puts = blocks.into_iter().map(|(key, value)| {
            let request = PutRequest { key, value };
            call::<_, PutResponse>(self.0.clone(), PUT, request)
        });
        try_join_all(puts).await?;
        Ok(sent)
    }

    pub(super) async fn lookup(&self, run: &Run) -> anyhow::Result<u64> {
        let asked = run.blocks.iter().map(|block| self.range(&block.hash, true));
        let there = try_join_all(asked).await?;
        ensure!(
            there.iter().all(|answer| answer.count == 1),
            "etcd has lost a block"
        );
        Ok(there.len() as u64)
    }

    pub(super) async fn store(&self, run: &Run) -> anyhow::Result<()> {
        for block in &run.blocks {
            let value = whole(&block.block.pieces);
            self.put_all(vec![(block.hash.clone(), value)]).await?;
        }
        Ok(())
    }
}
