//! Gets of byte ranges: of each block a node sends the pieces that they touch, and no other byte.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    Client, Ranges,
    block::Block,
    channel::{Channels, TcpConnect},
    client::{CallError, Chain, GetOptions, GetOutcome, Opened, Path, RangesFetched},
};
use kvmesh_proto::v1::{self as wire, AckLevel, GetOutcome as Outcome};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::{
    blocks_test::{hash, payload},
    region_test::{PATIENCE, Region, description, until},
};

const PIECE: usize = 1 << 20;
/// Three whole pieces and a short one.
const BYTES: usize = 3 * PIECE + 9;

/// Bytes of pieces 1 and 3.
fn spans() -> [(u64, u64); 3] {
    let piece = PIECE as u64;
    [(piece + 7, 100), (2 * piece - 1, 1), (3 * piece, 9)]
}

fn ranges() -> Ranges {
    let span = |(offset, length): (u64, u64)| offset..offset + length;
    Ranges::new(spans().into_iter().map(span)).unwrap()
}

/// What the ranges are of a block.
fn cut(number: u64, bytes: usize) -> Vec<bytes::Bytes> {
    let (raw, ranges) = (payload(number, bytes), ranges());
    let spans = ranges.as_slice().iter();
    let cut = spans.map(|it| raw.slice(it.start as usize..it.end as usize));
    cut.collect()
}

fn request(region: &Region, numbers: std::ops::Range<u64>) -> wire::GetRequest {
    let range = |(offset, length)| wire::ByteRange { offset, length };
    wire::GetRequest {
        namespace_id: region.namespace.clone(),
        chain: region.chain(numbers),
        ranges: spans().map(range).to_vec(),
        ..Default::default()
    }
}

async fn put(region: &Region, numbers: std::ops::Range<u64>, bytes: usize) {
    for number in numbers {
        let bytes = payload(number, bytes);
        let put = region.put_until_acked(0, number, &bytes, AckLevel::Memory);
        put.await;
    }
}

/// Of each block its number and the pieces that came, as announced; and how the get ended.
type Came = (Vec<(u32, Vec<u32>)>, Result<wire::GetSummary, Status>);

/// What a plain client gets, each piece verified.
async fn get(region: &Region, request: wire::GetRequest) -> Came {
    let mut frames = region.cache(0).get(request).await.unwrap().into_inner();
    let (mut came, mut pieces) = (Vec::new(), Vec::new());
    let mut open: Option<(u32, Vec<u32>)> = None;
    loop {
        let frame = match timeout(PATIENCE, frames.message()).await.unwrap() {
            Ok(frame) => frame.unwrap(),
            Err(status) => return (came, Err(status)),
        };
        if let Some(summary) = frame.summary {
            return (came, Ok(summary));
        }
        if let Some(header) = frame.header {
            open = Some((header.index, header.pieces));
        }
        if !frame.piece.is_empty() {
            pieces.push(frame.piece);
        }
        if frame.end == i32::from(wire::BlockEnd::Complete) {
            let (index, announced) = open.take().unwrap();
            let whole = Block::of(&payload(index.into(), BYTES), 0).pieces;
            let want = announced.iter().map(|number| &whole[*number as usize]);
            assert!(pieces.iter().eq(want), "pieces of block {index}");
            pieces.clear();
            came.push((index, announced));
        }
    }
}

/// As [`get`], again while the node is so busy that it has no serve lease: it answers misses then.
async fn got(region: &Region, request: wire::GetRequest) -> Came {
    let began = Instant::now();
    loop {
        let came = get(region, request.clone()).await;
        let missed = |summary: &wire::GetSummary| summary.outcome() == Outcome::Miss;
        if !came.1.as_ref().is_ok_and(missed) || began.elapsed() > PATIENCE {
            return came;
        }
    }
}

#[tokio::test]
async fn a_plain_client_gets_the_pieces_that_its_ranges_touch() {
    let region = Region::start(1).await;
    put(&region, 0..3, BYTES).await;
    let range = request(&region, 0..3);
    let any = wire::GetRequest {
        any_order: true,
        ..range.clone()
    };
    let select = wire::GetRequest {
        select: vec![0, 1, 2],
        ..range.clone()
    };
    for request in [range, any, select] {
        let (mut came, summary) = got(&region, request).await;
        came.sort_unstable();
        let want = |index| (index, vec![1, 3]);
        assert_eq!(came, [0, 1, 2].map(want));
        let summary = summary.unwrap();
        assert_eq!(summary.outcome(), Outcome::Complete);
        let bytes = (summary.sources[0].blocks, summary.sources[0].bytes);
        assert_eq!(bytes, (3, 3 * (PIECE as u64 + 9)));
    }
}

#[tokio::test]
async fn ranges_that_cannot_be_are_refused_by_name() {
    let region = Region::start(1).await;
    put(&region, 0..1, BYTES).await;
    let range = |&(offset, length): &(u64, u64)| wire::ByteRange { offset, length };
    for (spans, says) in [
        (&[(3, 0)][..], "range from 3 has no byte"),
        (&[(0, 5), (4, 2)], "range from 4 begins before"),
        (&[(8, 1), (0, 5)], "range from 0 begins before"),
        (&[(5, u64::MAX)], "range from 5 goes past"),
        (&[(0, 1); 257], "over 256 ranges"),
    ] {
        let request = wire::GetRequest {
            ranges: spans.iter().map(range).collect(),
            ..request(&region, 0..1)
        };
        let status = region.cache(0).get(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let message = status.message();
        assert!(
            message.contains(says) && message.contains("field ranges"),
            "{message}"
        );
    }
    for any_order in [false, true] {
        let past = wire::GetRequest {
            ranges: vec![range(&(5, BYTES as u64 - 4))],
            any_order,
            ..request(&region, 0..1)
        };
        let (came, refused) = got(&region, past).await;
        let status = refused.unwrap_err();
        assert_eq!((came.len(), status.code()), (0, Code::InvalidArgument));
        let says = format!(
            "range 5..{} goes past the block's end: it has {BYTES}",
            BYTES + 1
        );
        assert!(status.message().contains(&says), "{status:?}");
    }
}

/// What the client gets; see [`got`].
async fn got_by(
    client: &Opened,
    chain: &Chain,
    ranges: &Ranges,
) -> Result<RangesFetched, CallError> {
    let began = Instant::now();
    loop {
        let got = client.get_ranges(chain, ranges, options()).await;
        let missed = |got: &RangesFetched| got.summary.outcome == GetOutcome::Miss;
        if !got.as_ref().is_ok_and(missed) || began.elapsed() > PATIENCE {
            return got;
        }
    }
}

async fn client(region: &Region, local: Option<&std::path::Path>) -> Opened {
    let node = region.settings[0].listen.to_string();
    let channels = Channels::new(Arc::new(TcpConnect));
    let mut client = Client::connect(vec![node], channels).unwrap();
    if let Some(local) = local {
        client = client.with_local(local);
    }
    let described = description("test");
    client.open(&described, "test", "", PATIENCE).await.unwrap()
}

fn options() -> GetOptions {
    GetOptions {
        deadline: Some(Duration::from_secs(20)),
        ..GetOptions::default()
    }
}

#[tokio::test]
async fn the_client_gets_ranges_straight_from_nodes() {
    let region = Region::start(1).await;
    put(&region, 0..6, BYTES).await;
    let (client, chain) = (
        client(&region, None).await,
        Chain::new((0..6).map(hash)).unwrap(),
    );
    let got = got_by(&client, &chain, &ranges()).await.unwrap();
    assert_eq!(got.summary.outcome, GetOutcome::Complete);
    assert_eq!(got.summary.sources[0].bytes, 6 * (PIECE as u64 + 9));
    for (number, got) in (0..).zip(&got.blocks) {
        assert_eq!(got.ranges, cut(number, BYTES));
        assert_eq!((got.path, u64::from(got.index)), (Path::Node, number));
    }
    // What is past the end is the caller's to know, and no node's fault.
    let past = Ranges::new([0..1, 5..BYTES as u64 + 1]).unwrap();
    let error = got_by(&client, &chain, &past).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    assert!(
        error.to_string().contains("past the block's end"),
        "{error}"
    );
    let again = got_by(&client, &chain, &ranges()).await.unwrap();
    assert!(again.blocks.iter().all(|got| got.path == Path::Node));
}

#[tokio::test]
async fn ranges_are_read_where_the_block_lies() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node-1.sock");
    let region = Region::start_with(1, |settings| settings.local_socket = socket.clone()).await;
    put(&region, 1..3, BYTES).await;
    let client = client(&region, Some(folder.path())).await;
    let chain = Chain::new((1..3).map(hash)).unwrap();
    until(async || {
        let got = got_by(&client, &chain, &ranges()).await.unwrap();
        assert_eq!(got.summary.outcome, GetOutcome::Complete);
        assert_eq!(got.summary.sources[0].bytes, 2 * (PIECE as u64 + 9));
        for (number, got) in (1..).zip(&got.blocks) {
            assert_eq!(got.ranges, cut(number, BYTES));
        }
        got.blocks.iter().all(|got| got.path == Path::Mapped)
    })
    .await;
    let (one, two) = (cut(1, BYTES), cut(2, BYTES));
    let mut memory: Vec<Vec<u8>> = one.iter().chain(&two).map(|it| vec![0; it.len()]).collect();
    let mut into: Vec<&mut [u8]> = memory.iter_mut().map(|it| &mut it[..]).collect();
    let wanted = ranges();
    let scattered = client.get_ranges_into(&chain, &wanted, options(), &mut into);
    assert_eq!(scattered.await.unwrap().filled.len(), 2);
    assert!(memory.iter().eq(one.iter().chain(&two)));
    let past = Ranges::new([0..1, 5..BYTES as u64 + 1]).unwrap();
    let error = got_by(&client, &chain, &past).await.unwrap_err();
    assert!(
        error.to_string().contains("past the block's end"),
        "{error}"
    );
}
