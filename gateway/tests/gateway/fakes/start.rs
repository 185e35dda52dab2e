//! Starts the fakes and a gateway between them.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use kvmesh_client::{
    Block,
    channel::{Channel, Channels, Connect, Incoming, Link, TcpConnect},
    convert,
};
use kvmesh_directory::{
    BlockHash, BlockName, Description, FeedPosition, Hlc, Namespace, Part, Policy,
    namespace::Fallback,
};
use kvmesh_gateway::Settings;
use kvmesh_process::{
    Environment, SystemClock,
    server::{self, Routes},
};
use kvmesh_proto::v1::{
    self as wire, cache_client::CacheClient, cache_server::CacheServer,
    consensus_server::ConsensusServer, feed_server::FeedServer, link_server::LinkServer,
    region_sync_server::RegionSyncServer,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Holder,
    cache::{Served, owners},
    feed::{MeshFeed, RegionFeed},
    links::{Orders, Says},
    mesh::Mesh,
    region::Region,
};

pub(crate) const MESSAGE: usize = 8 << 20;
pub(crate) const WIDTH: u32 = 16;

/// A gateway among fakes.
pub(crate) struct World {
    pub(crate) region: Arc<Region>,
    pub(crate) nodes: Vec<Arc<Holder>>,
    pub(crate) mesh: Mesh,
    pub(crate) namespace: Namespace,
    pub(crate) client: CacheClient<Channel>,
    pub(crate) stops: Vec<CancellationToken>,
    pub(crate) far: Arc<Holder>,
    pub(crate) far_address: String,
    settings: Settings,
    stop: CancellationToken,
    _stop: DropGuard,
}

pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[allow(clippy::disallowed_methods, reason = "the test's runtime ends it")]
    tokio::spawn(task);
}

pub(crate) async fn host(routes: Routes, stop: CancellationToken) -> String {
    let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    spawn(async move {
        let grace = Duration::ZERO;
        let environment = Environment::real("test");
        let serving = server::serve(routes, environment, incoming, stop, grace);
        serving.await.unwrap();
    });
    address.to_string()
}

async fn host_holder(holder: &Arc<Holder>, stop: &CancellationToken) -> String {
    let served = || Served(Arc::clone(holder));
    let cache = CacheServer::new(served())
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let routes = Routes::new(cache)
        .add_service(ConsensusServer::new(served()))
        .add_service(LinkServer::new(Says(Arc::clone(holder))))
        .add_service(FeedServer::new(RegionFeed(Arc::clone(&holder.region))));
    host(routes, stop.clone()).await
}

pub(crate) async fn host_gateway(
    settings: Settings,
    instance: &str,
    stop: &CancellationToken,
) -> CacheClient<Channel> {
    host_gateway_in(settings, Environment::real(instance), None, stop).await
}

async fn host_gateway_in(
    settings: Settings,
    environment: Environment,
    link: Option<Link>,
    stop: &CancellationToken,
) -> CacheClient<Channel> {
    let address = gateway_at(settings, environment, link, stop).await;
    CacheClient::new(channel_to(&address))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE)
}

pub(crate) fn channel_to(address: &str) -> Channel {
    Channels::new(Arc::new(TcpConnect)).to(address).unwrap()
}

/// Starts a gateway, and says where.
pub(crate) async fn gateway_at(
    settings: Settings,
    environment: Environment,
    link: Option<Link>,
    stop: &CancellationToken,
) -> String {
    let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let ends = stop.child_token();
    let incoming: Incoming = Box::pin(incoming.map(move |accepted| {
        let link = link.clone();
        accepted.map(|stream| stream.with_link(link))
    }));
    spawn(async move {
        kvmesh_gateway::serve(settings, environment, incoming, ends)
            .await
            .unwrap();
    });
    address.to_string()
}

/// Waits until it holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waited)
        .await
        .unwrap();
}

pub(crate) fn description() -> Description {
    Description {
        model: "m".to_owned(),
        dtype: "bf16".to_owned(),
        layout: "l".to_owned(),
        block_tokens: 16,
        hash_width: WIDTH,
        short_hashes: false,
        shard_count: 2,
        group_count: 1,
        tenant: "t".to_owned(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}

pub(crate) fn hash(index: u32) -> Vec<u8> {
    let mut raw = vec![7; WIDTH as usize];
    raw[..4].copy_from_slice(&index.to_be_bytes());
    raw
}

pub(crate) fn chain(blocks: u32) -> wire::Chain {
    let hashes: Vec<Vec<u8>> = (0..blocks).map(hash).collect();
    convert::chain_of(WIDTH, hashes.iter().map(Vec::as_slice))
}

/// A block whose bytes say which it is, and which piece of it.
pub(crate) fn block(index: u32, bytes: usize) -> Block {
    let byte = |at: u32| (at ^ index) as u8 ^ ((at >> 20) as u8).wrapping_mul(37);
    let raw: Vec<u8> = (0..bytes as u32).map(byte).collect();
    let mut block = Block::of(&Bytes::from(raw), index);
    block.meta.put_hlc = Hlc(50);
    block
}

impl World {
    pub(crate) async fn start(nodes: u64, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with(nodes, Fallback::Always, change).await
    }

    pub(crate) async fn start_with(
        nodes: u64,
        fallback: Fallback,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let stop = CancellationToken::new();
        let region = Region::new("us-east");
        let (mut holders, mut addresses, mut stops) = (Vec::new(), Vec::new(), Vec::new());
        for node in 1..=nodes {
            let (holder, stop) = (Holder::new(node, &region), stop.child_token());
            addresses.push(host_holder(&holder, &stop).await);
            holders.push(holder);
            stops.push(stop);
        }
        region.init(&addresses);
        let namespace = Namespace {
            id: description().id(),
            name: "n".to_owned(),
            description: description(),
            policy: Policy {
                fallback,
                ..Policy::default()
            },
            generation: Hlc(0),
            policy_hlc: Hlc(1),
            policy_region: region.name.clone(),
        };
        region.open(namespace.clone());
        let far = Holder::new(1, &Region::new("eu-west"));
        let far_address = host_holder(&far, &stop).await;
        let mesh = Mesh::new();
        let feed = FeedServer::new(MeshFeed(mesh.frames.clone()));
        let orders = RegionSyncServer::new(Orders(Arc::clone(&mesh.told)));
        let routes = Routes::new(feed).add_service(orders);
        let sync = host(routes, stop.child_token()).await;
        let mut settings = Settings {
            region: "us-east".to_owned(),
            nodes: addresses,
            region_syncs: vec![sync],
            owner_timeout_ms: 300,
            // A far fake on a busy machine is not a dead region.
            connect_timeout_ms: 5_000,
            ..Settings::default()
        };
        change(&mut settings);
        let client = host_gateway(settings.clone(), "us-east/gateway", &stop).await;
        let world = Self {
            region,
            nodes: holders,
            mesh,
            namespace,
            client,
            stops,
            far,
            far_address,
            settings,
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        };
        world.catch_up().await;
        world
    }

    /// Another gateway of the same region, which has caught up.
    pub(crate) async fn another_gateway(&self) -> CacheClient<Channel> {
        let settings = self.settings.clone();
        let client = host_gateway(settings, "us-east/gateway-2", &self.stop).await;
        let position = self.region.state().position().unwrap();
        self.shown_by(client.clone(), position).await;
        client
    }

    /// Another gateway of the same region, which connects by `connector` and has caught up.
    pub(crate) async fn gateway_over(&self, connector: Arc<dyn Connect>) -> CacheClient<Channel> {
        let clock = Arc::new(SystemClock);
        let environment = Environment::new(connector, clock, "us-east/gateway-3");
        let client = host_gateway_in(self.settings.clone(), environment, None, &self.stop).await;
        let position = self.region.state().position().unwrap();
        self.shown_by(client.clone(), position).await;
        client
    }

    /// Another gateway of the same region, to which whoever calls it has proved to be `peer`.
    pub(crate) async fn gateway_asked_by(&self, peer: &str) -> CacheClient<Channel> {
        let who = |uri: &str| Arc::new(uri.parse().unwrap());
        let link = Link {
            own: who("spiffe://m/region/us-east/gateway/4"),
            peer: who(peer),
        };
        let environment = Environment::real("us-east/gateway-4");
        let settings = self.settings.clone();
        host_gateway_in(settings, environment, Some(link), &self.stop).await
    }

    /// Waits until a gateway's views show a position.
    pub(crate) async fn shows(&self, client: &CacheClient<Channel>, position: &FeedPosition) {
        self.shown_by(client.clone(), position.clone()).await;
    }

    /// Another far holder, and where it serves.
    pub(crate) async fn another_far(&self, region: &str) -> (Arc<Holder>, String) {
        let far = Holder::new(1, &Region::new(region));
        let address = host_holder(&far, &self.stop).await;
        (far, address)
    }

    pub(crate) fn name(&self, index: u32, shard: u16) -> BlockName {
        BlockName {
            namespace: self.namespace.id,
            hash: BlockHash::from_engine(&hash(index)).unwrap(),
            part: Part { shard, group: 0 },
        }
    }

    /// Puts a block onto nodes, claims included.
    pub(crate) fn place(&self, index: u32, bytes: usize, nodes: &[u64]) {
        for &node in nodes {
            let holder = &self.nodes[node as usize - 1];
            holder.keep(self.name(index, 0), block(index, bytes));
        }
        let meta = block(index, bytes).meta;
        self.region.claim(self.name(index, 0), &meta, nodes);
    }

    /// Blocks of the far region, known in the mesh.
    pub(crate) fn place_far(
        &self,
        index: u64,
        blocks: std::ops::Range<u32>,
        bytes: usize,
    ) -> FeedPosition {
        for index in blocks.clone() {
            self.far.keep(self.name(index, 0), block(index, bytes));
        }
        self.mesh
            .link("eu-west", 80.0, std::slice::from_ref(&self.far_address));
        let names: Vec<_> = blocks.map(|at| (self.name(at, 0), bytes as u32)).collect();
        self.mesh.has("eu-west", index, &names)
    }

    pub(crate) fn owners(&self, index: u32) -> Vec<u64> {
        owners(&self.region, &self.name(index, 0))
    }

    /// Waits until the gateway's view shows what the region's directory says.
    pub(crate) async fn catch_up(&self) {
        let position = self.region.state().position().unwrap();
        self.reach(position).await;
    }

    pub(crate) async fn reach(&self, position: FeedPosition) {
        self.shown_by(self.client.clone(), position).await;
    }

    async fn shown_by(&self, mut client: CacheClient<Channel>, position: FeedPosition) {
        use kvmesh_client::ToWire;
        let ask = || wire::LookupRequest {
            namespace_id: self.namespace.id.to_wire(),
            at_least: vec![position.to_wire()],
            ..Default::default()
        };
        let caught_up = async {
            loop {
                if let Ok(answer) = client.lookup(ask()).await
                    && !answer.into_inner().view_behind
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), caught_up)
            .await
            .unwrap();
    }

    pub(crate) fn get_request(&self, blocks: u32) -> wire::GetRequest {
        use kvmesh_client::ToWire;
        wire::GetRequest {
            namespace_id: self.namespace.id.to_wire(),
            chain: Some(chain(blocks)),
            ..Default::default()
        }
    }

    /// Blocks in the order of their coming (index, bytes, region), and the summary.
    pub(crate) async fn get(&self, request: wire::GetRequest) -> (Vec<Got>, wire::GetSummary) {
        get_by(&self.client, request).await
    }
}

/// By this gateway, as [`World::get`].
pub(crate) async fn get_by(
    client: &CacheClient<Channel>,
    request: wire::GetRequest,
) -> (Vec<Got>, wire::GetSummary) {
    let mut client = client.clone();
    let mut stream = client.get(request).await.unwrap().into_inner();
    let (mut got, mut open): (Vec<Got>, Option<Got>) = (Vec::new(), None);
    while let Some(frame) = stream.message().await.unwrap() {
        if let Some(summary) = frame.summary {
            assert!(open.is_none(), "the summary within a block");
            return (got, summary);
        }
        if let Some(header) = frame.header {
            assert!(open.is_none(), "a block within a block");
            open = Some(Got {
                index: header.index,
                shard: header.part.unwrap().shard,
                bytes: Vec::new(),
                pieces: header.pieces,
                region: header.region,
            });
        }
        if let Some(open) = &mut open {
            open.bytes.extend_from_slice(&frame.piece);
        }
        match wire::BlockEnd::try_from(frame.end).unwrap() {
            wire::BlockEnd::Unspecified => {}
            wire::BlockEnd::Complete => got.extend(open.take()),
            wire::BlockEnd::Aborted => open = None,
        }
    }
    panic!("the stream ended without a summary");
}

/// A block that came.
#[derive(Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) index: u32,
    pub(crate) shard: u32,
    pub(crate) bytes: Vec<u8>,
    /// As its header says.
    pub(crate) pieces: Vec<u32>,
    pub(crate) region: String,
}

/// The places that came, each with its bytes checked.
pub(crate) fn places(got: &[Got]) -> Vec<u32> {
    let places = got.iter().map(|got| {
        let want: Vec<u8> = block(got.index, got.bytes.len()).pieces.concat();
        assert_eq!(got.bytes, want, "bytes of block {}", got.index);
        got.index
    });
    places.collect()
}
