//! Clients on the node's host, through its socket.

use std::{
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::Duration,
};

use kvmesh_client::{
    Client,
    channel::{Channels, TcpConnect},
    client::{Chain, Fetched, GetOptions, GetOutcome, Opened, Path},
    convert::local::{Answer, Ask, End, Request, Response},
    local::socket::Socket,
};
use kvmesh_directory::{BlockHash, BlockKey, NamespaceId, Part, limits::PROTOCOL_VERSION};
use kvmesh_node::Settings;
use kvmesh_proto::v1::AckLevel;

use crate::{
    blocks_test::{hash, payload},
    region_test::{PATIENCE, Region, description, until},
};

const MIB: usize = 1 << 20;
/// Blocks of 1 MiB that one client may hold of a node with 64 MiB: half of a quarter, and each
/// has its overhead.
const HELD_MAX: u32 = 7;

/// Nodes of one host, with the sockets and disks in its folder.
pub(crate) struct Host {
    pub(crate) region: Region,
    /// Of the first node.
    pub(crate) socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Host {
    async fn start() -> Self {
        Self::start_with(1, |_, _| {}).await
    }

    /// As changed by who is told the folder.
    pub(crate) async fn start_with(nodes: usize, change: impl Fn(&FsPath, &mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        let region = Region::start_with(nodes, |settings| {
            settings.local_socket = place.join(format!("node-{}.sock", settings.node));
            change(&place, settings);
        });
        Self {
            region: region.await,
            socket: place.join("node-1.sock"),
            _folder: folder,
        }
    }

    async fn put(&self, numbers: impl Iterator<Item = u64>, bytes: usize) {
        for number in numbers {
            let bytes = payload(number, bytes);
            let put = self
                .region
                .put_until_acked(0, number, &bytes, AckLevel::Memory);
            put.await;
        }
    }

    pub(crate) async fn client(&self) -> Opened {
        self.client_of(self.socket.parent().unwrap()).await
    }

    /// A client that is told of this place.
    pub(crate) async fn client_of(&self, place: &FsPath) -> Opened {
        let node = self.region.settings[0].listen.to_string();
        let channels = Channels::new(Arc::new(TcpConnect));
        let client = Client::connect(vec![node], channels).unwrap();
        let client = client.with_local(place);
        let described = description("test");
        client.open(&described, "test", "", PATIENCE).await.unwrap()
    }
}

pub(crate) async fn get(client: &Opened, numbers: impl Iterator<Item = u64>) -> Fetched {
    let chain = Chain::new(numbers.map(hash)).unwrap();
    client.get(&chain, GetOptions::default()).await.unwrap()
}

/// Blocks that were read where they lie.
pub(crate) fn mapped_of(got: &Fetched) -> u32 {
    let paths = got.blocks.iter().map(|block| block.path);
    paths.filter(|path| *path == Path::Mapped).count() as u32
}

/// The blocks of a chain whose first number is `first`, as they were put.
pub(crate) fn assert_whole(got: &Fetched, first: u64, bytes: usize) {
    for block in &got.blocks {
        let number = first + u64::from(block.index);
        assert_eq!(block.block.pieces.concat(), payload(number, bytes));
    }
}

fn key(number: u64) -> BlockKey {
    BlockKey {
        hash: BlockHash::from_engine(&hash(number)).unwrap(),
        part: Part::default(),
    }
}

pub(crate) async fn asked(socket: &Socket, ask: Ask) -> Option<Answer> {
    let request = Request {
        id: 1,
        ask: Some(ask),
        ..Request::default()
    };
    socket.send(&request.pack(), &[]).await.unwrap();
    let packet = socket.receive().await.unwrap()?;
    Response::unpack(packet.bytes).unwrap().answer
}

#[tokio::test]
async fn blocks_are_read_where_they_lie_and_what_is_not_here_comes_over_grpc() {
    let host = Host::start().await;
    let bytes = 2 * MIB + 5_000;
    host.put(1..=3, bytes).await;
    let client = host.client().await;
    for _ in 0..2 {
        let got = get(&client, 1..=3).await;
        assert_eq!(got.summary.outcome, GetOutcome::Complete);
        assert_eq!((got.blocks.len(), mapped_of(&got)), (3, 3));
        assert_whole(&got, 1, bytes);
    }
    // New ones land where they are read; a hole ends the run as ever.
    host.put(4..=4, bytes).await;
    let got = get(&client, 4..=5).await;
    assert_eq!(got.summary.outcome, GetOutcome::Miss);
    assert_eq!((got.summary.blocks, mapped_of(&got)), (1, 1));
    // Another reader still gets the moved blocks over gRPC.
    assert_eq!(host.region.get(0, 1).await.unwrap(), payload(1, bytes));
}

#[tokio::test]
async fn another_namespace_s_blocks_are_not_there() {
    let host = Host::start().await;
    host.put(1..=1, MIB).await;
    let other = host
        .region
        .open(0, "other")
        .await
        .unwrap()
        .namespace
        .unwrap()
        .id;
    let own = NamespaceId::try_from(&host.region.namespace[..]).unwrap();
    let other = NamespaceId::try_from(&other[..]).unwrap();
    let get = || Ask::Get {
        keys: vec![key(1)],
        at_least: Vec::new(),
    };
    for (namespace, ends, blocks) in [(own, End::Complete, 1), (other, End::Missing, 0)] {
        let socket = Socket::connect(&host.socket).unwrap();
        let version = PROTOCOL_VERSION;
        let hello = Ask::Hello {
            version,
            namespace,
            puts: false,
        };
        let welcome = asked(&socket, hello).await;
        assert!(
            matches!(welcome, Some(Answer::Welcome { .. })),
            "{welcome:?}"
        );
        match asked(&socket, get()).await {
            Some(Answer::Blocks { blocks: got, end }) => {
                assert_eq!((got.len(), end), (blocks, ends));
            }
            answer => panic!("{answer:?}"),
        }
    }
    // Nobody is served before saying which namespace, or an unknown one.
    let unknown = Ask::Hello {
        version: PROTOCOL_VERSION,
        namespace: NamespaceId([0; 16]),
        puts: false,
    };
    for first in [get(), unknown] {
        let socket = Socket::connect(&host.socket).unwrap();
        let answer = asked(&socket, first).await;
        assert!(matches!(answer, Some(Answer::Refused(_))), "{answer:?}");
        assert!(socket.receive().await.unwrap().is_none(), "it is closed");
    }
}

#[tokio::test]
async fn over_the_cap_blocks_come_over_grpc_and_who_goes_frees_what_it_held() {
    let host = Host::start().await;
    host.put(0..10, MIB).await;
    for _ in 0..4 {
        let client = host.client().await;
        // Who went before is let go of a moment later; all may hold twice the cap together.
        let held = std::cell::RefCell::new(None);
        until(async || {
            held.take();
            let got = get(&client, 0..10).await;
            assert_eq!(got.summary.outcome, GetOutcome::Complete);
            assert_eq!(got.blocks.len(), 10);
            assert_whole(&got, 0, MIB);
            assert!(mapped_of(&got) <= HELD_MAX);
            let mapped = mapped_of(&got);
            held.replace(Some(got));
            mapped == HELD_MAX
        })
        .await;
        // Nothing more can be held, and yet everything is had.
        let more = get(&client, 0..10).await;
        assert_eq!((more.blocks.len(), mapped_of(&more)), (10, 0));
    }
}

#[tokio::test]
async fn a_mapped_block_stays_as_it_is_when_it_is_evicted() {
    let host = Host::start().await;
    host.put(0..2, 2 * MIB).await;
    let client = host.client().await;
    let got = get(&client, 0..2).await;
    assert_eq!(mapped_of(&got), 2);
    host.put(100..200, MIB).await;
    until(async || host.region.get(0, 0).await.is_none()).await;
    assert_whole(&got, 0, 2 * MIB);
    let again = get(&client, 0..2).await;
    assert_eq!((again.blocks.len(), mapped_of(&again)), (0, 0));
    // Newer blocks took the place of older ones, but of none that is held.
    let mut mapped = 0;
    for number in 150..200 {
        let newer = get(&client, number..number + 1).await;
        mapped += mapped_of(&newer);
        assert_whole(&newer, number, MIB);
    }
    assert!(
        mapped > 0 && mapped < 50,
        "half of the memory can be mapped: {mapped}"
    );
    assert_whole(&got, 0, 2 * MIB);
}

#[tokio::test]
async fn a_node_that_ends_leaves_no_socket_and_is_read_again_when_it_is_back() {
    let mut host = Host::start().await;
    host.put(0..1, MIB).await;
    let client = host.client().await;
    let got = get(&client, 0..1).await;
    assert_eq!(mapped_of(&got), 1);
    host.region.stop(0);
    until(async || !host.socket.exists()).await;
    assert_whole(&got, 0, MIB);
    // What a node that was killed leaves behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&host.socket).unwrap());
    host.region.restart(0).await;
    host.put(1..2, MIB).await;
    until(async || {
        let options = GetOptions {
            deadline: Some(Duration::from_secs(5)),
            ..GetOptions::default()
        };
        let chain = Chain::new([hash(1)]).unwrap();
        let got = client.get(&chain, options).await;
        got.is_ok_and(|got| {
            assert_whole(&got, 1, MIB);
            mapped_of(&got) == 1
        })
    })
    .await;
}
