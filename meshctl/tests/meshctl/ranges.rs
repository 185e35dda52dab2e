//! Who wants a part of each block receives the pieces that it lies in: through nodes, through a
//! gateway, and of blocks that come from another region. Real processes' code, real sockets.

use std::{
    fs, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crate::support::{meshctl, text};
use bytes::Bytes;
use kvmesh_client::{
    Client, Ranges,
    block::Block,
    channel::{BoxedIo, Channels, Connect, Connecting, TcpConnect},
    client::{
        Chain, GetOptions, GetOutcome, Opened, Path, PutBlock, PutOptions, PutResult, RangesFetched,
    },
};
use kvmesh_directory::{Description, Part};
use kvmesh_process::telemetry;
use meshctl::dev::mesh::{Mesh, Settings};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

const MIB: u64 = 1 << 20;
const BLOCKS: u32 = 3;
/// Twenty pieces, the last one short.
const BYTES: u64 = 20 * MIB - 5;
/// What all but the pieces may take on the connections: headers, checksums, frames, HTTP/2.
const OTHERS_MAX: u64 = 64 << 10;

/// A connection whose incoming bytes are counted.
struct Counted {
    io: BoxedIo,
    came: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let came = (buf.filled().len() - before) as u64;
        self.came.fetch_add(came, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[derive(Default)]
struct Counting(Arc<AtomicU64>);

impl Connect for Counting {
    fn connect(&self, address: &str) -> Connecting {
        let (connecting, came) = (TcpConnect.connect(address), Arc::clone(&self.0));
        Box::pin(async move {
            let io = connecting.await?;
            Ok(BoxedIo::new(Counted { io, came }))
        })
    }
}

/// A client, and the bytes that came to it.
struct Reader {
    opened: Opened,
    came: Arc<AtomicU64>,
}

impl Reader {
    async fn new(gateway: &str, straight: bool) -> Self {
        let counting = Counting::default();
        let came = Arc::clone(&counting.0);
        let (gateways, channels) = (vec![gateway.to_owned()], Channels::new(Arc::new(counting)));
        let client = match straight {
            true => Client::connect(gateways, channels),
            false => Client::connect_through(gateways, channels),
        };
        let description = Description {
            model: "m".to_owned(),
            dtype: "bf16".to_owned(),
            layout: "layers".to_owned(),
            block_tokens: 16,
            hash_width: 16,
            short_hashes: false,
            shard_count: 1,
            group_count: 1,
            tenant: String::new(),
            salt: Vec::new(),
            residency: Vec::new(),
        };
        let client = client.unwrap();
        let opened = client.open(&description, "kv", "always", LIMIT).await;
        Self {
            opened: opened.unwrap(),
            came,
        }
    }

    /// Gets ranges; the bytes that came meanwhile.
    async fn get(&self, ranges: &Ranges) -> (RangesFetched, u64) {
        let before = self.came.load(Ordering::Relaxed);
        let options = GetOptions {
            deadline: Some(LIMIT),
            ..GetOptions::default()
        };
        let got = self.opened.get_ranges(&chain(), ranges, options).await;
        (got.unwrap(), self.came.load(Ordering::Relaxed) - before)
    }
}

const LIMIT: Duration = Duration::from_secs(60);

fn hash(number: u32) -> [u8; 16] {
    u128::from(number + 1).to_be_bytes()
}

fn chain() -> Chain {
    Chain::new((0..BLOCKS).map(hash)).unwrap()
}

/// No two pieces are alike.
fn payload(number: u32) -> Bytes {
    let piece = |piece: u8| {
        let byte = |at: u8| at.wrapping_mul(31) ^ piece.wrapping_mul(7) ^ number as u8;
        (0..=u8::MAX).map(byte).collect::<Vec<u8>>().repeat(4_096)
    };
    let mut bytes = (0..20).map(piece).collect::<Vec<_>>().concat();
    bytes.truncate(BYTES as usize);
    bytes.into()
}

/// Twice half a piece: a twentieth of a block, in two pieces of it.
fn twentieth() -> Ranges {
    Ranges::new([7 * MIB + MIB / 2..8 * MIB, 13 * MIB..13 * MIB + MIB / 2]).unwrap()
}

/// Of each block the very bytes that were put.
fn assert_twentieths(got: &RangesFetched) {
    for got in &got.blocks {
        let (raw, ranges) = (payload(got.index), twentieth());
        let spans = ranges.as_slice().iter();
        let want = spans.map(|it| raw.slice(it.start as usize..it.end as usize));
        assert!(want.eq(got.ranges.iter().cloned()), "block {}", got.index);
    }
}

async fn put(gateway: &str) {
    let writer = Reader::new(gateway, true).await;
    let block = |number| PutBlock {
        hash: Bytes::copy_from_slice(&hash(number)),
        part: Part::default(),
        block: Block::of(&payload(number), number),
    };
    let blocks: Vec<PutBlock> = (0..BLOCKS).map(block).collect();
    let options = PutOptions {
        deadline: Some(LIMIT),
        ..PutOptions::default()
    };
    let results = writer.opened.put(&blocks, options).await.unwrap();
    let acked = |result: &PutResult| matches!(result, PutResult::Acked(_));
    assert!(results.iter().all(acked), "{results:?}");
}

async fn mesh(gateways_map: bool) -> Mesh {
    let settings = Settings {
        regions: 2,
        nodes: 3,
        link_scale: 0.0,
        memory_bytes: 1 << 30,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map,
    };
    Mesh::start(settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_a_twentieth_of_each_block_receives_its_pieces_and_no_more() {
    let mesh = mesh(false).await;
    let door = |region: usize| mesh.regions()[region].gateway.as_str();
    put(door(0)).await;
    let pieces = u64::from(BLOCKS) * 2 * MIB;
    for (region, straight, path) in [
        (0, true, Path::Node),
        (0, false, Path::Gateway),
        // From afar: fetched whole by the gateway, and received in pieces.
        (1, false, Path::Gateway),
    ] {
        let reader = Reader::new(door(region), straight).await;
        let getting = async {
            loop {
                let (got, came) = reader.get(&twentieth()).await;
                // Another region hears of it a moment later.
                if got.summary.outcome != GetOutcome::Miss {
                    return (got, came);
                }
            }
        };
        let (got, came) = timeout(LIMIT, getting).await.unwrap();
        assert_eq!(got.summary.outcome, GetOutcome::Complete);
        assert_eq!(got.blocks.len() as u32, BLOCKS);
        assert_twentieths(&got);
        for got in &got.blocks {
            assert_eq!((got.path, got.block_bytes), (path, BYTES));
        }
        assert_eq!(got.summary.sources[0].bytes, pieces);
        println!("{path:?}: {came} bytes came, {pieces} of them pieces");
        assert!(
            (pieces..pieces + OTHERS_MAX).contains(&came),
            "{came} bytes"
        );
    }
    timeout(Duration::from_secs(15), mesh.stop()).await.unwrap();
}

/// What the first region's gateway has counted under a name, of the lines that have a label.
fn counted(name: &str, label: &str) -> u64 {
    let page = telemetry::render().unwrap_or_default();
    let mut lines = page.lines().filter(|line| {
        line.starts_with(name) && line.contains(label) && line.contains("/gateway-1")
    });
    let value = lines.next().and_then(|line| line.split_whitespace().last());
    value.map_or(0, |value| value.parse().unwrap())
}

/// Bytes that it has read where nodes keep them.
fn mapped_bytes() -> u64 {
    counted("kvmesh_client_mapped_bytes_total", "")
}

/// How often it has asked nodes over gRPC.
fn asked() -> u64 {
    counted("kvmesh_gateway_outbound_rpcs_total", "method=\"Get\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_on_its_nodes_host_passes_on_what_lies_there() {
    telemetry::record().unwrap();
    let mesh = mesh(true).await;
    let door = mesh.regions()[0].gateway.as_str();
    put(door).await;
    let reader = Reader::new(door, false).await;
    let pieces = u64::from(BLOCKS) * 2 * MIB;
    let all = u64::from(BLOCKS) * BYTES;
    // A node may be late, or lend no more of its memory: a block then comes over gRPC.
    let mapping = async {
        let mut none_asked = false;
        loop {
            let (before, asked_before) = (mapped_bytes(), asked());
            let first = Chain::new([hash(0)]).unwrap();
            let options = GetOptions {
                deadline: Some(LIMIT),
                ..GetOptions::default()
            };
            let got = reader
                .opened
                .get_ranges(&first, &twentieth(), options)
                .await;
            assert_eq!(got.unwrap().blocks.len(), 1);
            if mapped_bytes() - before == 2 * MIB {
                assert_eq!(asked(), asked_before, "nothing is read twice");
                none_asked = true;
            }
            let before = mapped_bytes();
            let (got, came) = reader.get(&twentieth()).await;
            assert_eq!(got.blocks.len() as u32, BLOCKS);
            assert_twentieths(&got);
            assert!((pieces..pieces + OTHERS_MAX).contains(&came), "{came}");
            let options = GetOptions {
                deadline: Some(LIMIT),
                ..GetOptions::default()
            };
            let whole = reader.opened.get(&chain(), options).await.unwrap();
            assert_eq!(whole.summary.outcome, GetOutcome::Complete);
            assert_eq!(whole.blocks.len() as u32, BLOCKS);
            for got in &whole.blocks {
                let bytes = got.block.pieces.concat();
                assert!(bytes == payload(got.index), "block {}", got.index);
            }
            if none_asked && mapped_bytes() - before > (all + pieces) / 2 {
                return;
            }
        }
    };
    timeout(LIMIT, mapping).await.unwrap();
    timeout(Duration::from_secs(15), mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_gets_ranges_of_each_block() {
    let mesh = mesh(false).await;
    let door = mesh.regions()[0].gateway.as_str();
    put(door).await;
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("chain"), dir.path().join("out"));
    let hex = |number| format!("{:032x}\n", u128::from_be_bytes(hash(number)));
    fs::write(&file, (0..BLOCKS).map(hex).collect::<String>()).unwrap();
    let get = async |ranges: &[&str]| {
        let (file, out) = (text(&file), text(&out));
        let mut get = vec!["get", "--namespace", "kv", "--chain", file, "--out", out];
        get.extend(["-o", "json", "--gateway", door]);
        get.extend(ranges.iter().flat_map(|range| ["--range", range]));
        meshctl(get).await
    };
    let got = get(&["4..1KiB", "19MiB..19MiB"]).await;
    assert_eq!(got.code, 2, "{got:?}");
    assert!(
        got.err.contains("range from 19922944 has no byte"),
        "{got:?}"
    );
    for (ranges, says) in [
        (&["9..4"][..], "range from 9 ends before it"),
        (&["4..9", "8..10"], "range from 8 begins before"),
        (&["4-9"], "START..END"),
    ] {
        let got = get(ranges).await;
        assert_eq!(got.code, 2, "{got:?}");
        assert!(got.err.contains(says), "{got:?}");
    }
    let got = get(&["1..20MiB"]).await;
    assert_eq!(got.code, 1, "{got:?}");
    let says = format!(
        "range 1..{} goes past the block's end: it has {BYTES}",
        20 * MIB
    );
    assert!(got.err.contains(&says) && !out.exists(), "{got:?}");
    let got = get(&["4..1KiB", "19MiB..19.5MiB"]).await.ok().json();
    assert_eq!(got["hashes_verified"], false);
    assert_eq!(
        got["sources"][0]["bytes"],
        u64::from(BLOCKS) * (2 * MIB - 5)
    );
    let want = (0..BLOCKS).flat_map(|number| {
        let raw = payload(number);
        let (from, half) = (19 * MIB as usize, MIB as usize / 2);
        [&raw[4..1 << 10], &raw[from..from + half]].concat()
    });
    let want: Vec<u8> = want.collect();
    assert_eq!(got["bytes"], want.len());
    assert!(fs::read(&out).unwrap() == want);
    timeout(Duration::from_secs(15), mesh.stop()).await.unwrap();
}
