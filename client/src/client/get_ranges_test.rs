//! Ranges are the bytes that were asked for, whatever the servers do.

use bytes::Bytes;
use kvmesh_proto::v1 as wire;
use tonic::{Code, Status};

use super::{
    FetchedRanges, GetOptions, GetOutcome, Path, RangesFetched,
    fake_gateway_test::{self as fake, Gateway, LONG, chain, opened, summary},
};
use crate::{Problem, Ranges, block::Block, convert::ToWire};

const PIECE: usize = 1 << 20;
/// Three whole pieces and a short one.
const BYTES: usize = 3 * PIECE + 100;

type Frames = Vec<Result<wire::GetResponse, Status>>;

fn options() -> GetOptions {
    GetOptions {
        deadline: Some(LONG),
        ..GetOptions::default()
    }
}

fn payload(number: u8) -> Bytes {
    let byte = |at: usize| (at ^ (at >> 8) ^ (at >> 16)) as u8 ^ number;
    (0..BYTES).map(byte).collect::<Vec<u8>>().into()
}

fn block(number: u8) -> Block {
    Block::of(&payload(number), number.into())
}

/// Within piece 1, and from its end into piece 2.
fn wanted() -> Ranges {
    let (one, two) = (PIECE as u64, 2 * PIECE as u64);
    Ranges::new([one + 5..one + 9, two - 3..two + 4]).unwrap()
}

/// What `wanted` is of a block.
fn bytes_of(number: u8) -> Vec<Bytes> {
    let raw = payload(number);
    vec![
        raw.slice(PIECE + 5..PIECE + 9),
        raw.slice(2 * PIECE - 3..2 * PIECE + 4),
    ]
}

/// Pieces of a block, with what the header says of them.
fn frames(number: u8, announced: &[u32], sent: &[u32]) -> Frames {
    let block = block(number);
    let header = wire::BlockHeader {
        index: number.into(),
        part: Some(wire::Part::default()),
        meta: Some(block.meta.to_wire()),
        region: "us-east".to_owned(),
        pieces: announced.to_vec(),
    };
    let begin = wire::GetResponse {
        header: Some(header),
        ..Default::default()
    };
    let end = wire::GetResponse {
        end: wire::BlockEnd::Complete.into(),
        ..Default::default()
    };
    let piece = |at: &u32| wire::GetResponse {
        piece: block.pieces[*at as usize].clone(),
        ..Default::default()
    };
    let pieces = sent.iter().map(piece);
    let frames = std::iter::once(begin).chain(pieces).chain([end]);
    frames.map(Ok).collect()
}

fn good(number: u8) -> Frames {
    frames(number, &[1, 2], &[1, 2])
}

fn plan(gateway: &Gateway, blocks: &[Frames]) {
    let mut plan = blocks.concat();
    plan.push(summary(wire::GetOutcome::Complete));
    gateway.with(|script| script.gets.push_back(Ok(plan)));
}

/// The indexes that came, each with its own bytes.
fn indexes(fetched: &[FetchedRanges]) -> Vec<u32> {
    for got in fetched {
        assert_eq!(got.ranges, bytes_of(got.index as u8), "{}", got.index);
        assert_eq!(got.block_bytes, BYTES as u64);
    }
    fetched.iter().map(|got| got.index).collect()
}

async fn get(client: &super::Client, blocks: u8) -> RangesFetched {
    let (opened, chain) = (opened(client), chain(blocks));
    let got = opened.get_ranges(&chain, &wanted(), options()).await;
    got.unwrap()
}

#[tokio::test]
async fn the_bytes_that_were_asked_for_come_and_no_other_pieces() {
    let (first, _, client) = fake::start(&["first:1"]);
    plan(&first, &[good(0), good(1)]);
    let got = get(&client, 2).await;
    assert_eq!(indexes(&got.blocks), [0, 1]);
    assert_eq!(got.summary.outcome, GetOutcome::Complete);
    let from = &got.summary.sources[0];
    assert_eq!((from.blocks, from.bytes), (2, 4 * PIECE as u64));
    first.with(|script| {
        let asked = &script.asked_gets[0].0.ranges;
        let asked: Vec<_> = asked.iter().map(|it| (it.offset, it.length)).collect();
        assert_eq!(asked, [(PIECE as u64 + 5, 4), (2 * PIECE as u64 - 3, 7)]);
    });
}

#[tokio::test]
async fn what_a_hostile_server_sends_is_dropped_and_asked_for_again() {
    let damaged = |at: usize| {
        let mut frames = good(1);
        if let Ok(frame) = &mut frames[at] {
            let mut piece = frame.piece.to_vec();
            piece[77] ^= 1;
            frame.piece = piece.into();
        }
        frames
    };
    for (what, bad) in [
        (
            "a piece not asked for is announced",
            frames(1, &[1, 2, 3], &[1, 2, 3]),
        ),
        ("a piece too many", frames(1, &[1, 2], &[1, 2, 3])),
        ("one again", frames(1, &[1, 2], &[1, 1, 2])),
        ("another piece", frames(1, &[1, 2], &[0, 2])),
        ("one missing", frames(1, &[1, 2], &[1])),
        ("one not announced", frames(1, &[1], &[1])),
        ("nothing", frames(1, &[1, 2], &[])),
        ("the order turned", frames(1, &[1, 2], &[2, 1])),
        (
            "the order turned, as announced",
            frames(1, &[2, 1], &[2, 1]),
        ),
        ("a bit of the first wrong", damaged(1)),
        ("a bit of the second wrong", damaged(2)),
        ("a whole block without its end", frames(1, &[], &[0, 1])),
        (
            "a whole block in another order",
            frames(1, &[], &[0, 2, 1, 3]),
        ),
    ] {
        let (first, _, client) = fake::start(&["first:1"]);
        plan(&first, &[good(0), bad]);
        plan(&first, &[good(1)]);
        let got = get(&client, 2).await;
        assert_eq!(indexes(&got.blocks), [0, 1], "{what}");
        assert_eq!(got.summary.lost, 1, "{what}");
        assert_eq!(got.summary.outcome, GetOutcome::Complete, "{what}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_ranges_is_read_all_the_same() {
    // It passes over the field and sends whole blocks.
    let (first, _, client) = fake::start(&["first:1"]);
    plan(&first, &[frames(0, &[], &[0, 1, 2, 3])]);
    let got = get(&client, 1).await;
    assert_eq!(indexes(&got.blocks), [0]);
    assert_eq!(got.summary.lost, 0);
    // It says so.
    let (first, _, client) = fake::start(&["first:1"]);
    let unknown = Problem::Unimplemented("a get of byte ranges (ranges)".to_owned());
    first.with(|script| script.gets.push_back(Err(unknown.into())));
    plan(&first, &[frames(0, &[], &[0, 1, 2, 3])]);
    assert_eq!(indexes(&get(&client, 1).await.blocks), [0]);
    first.with(|script| {
        let asked = script
            .asked_gets
            .iter()
            .map(|(asked, _)| asked.ranges.len());
        assert_eq!(asked.collect::<Vec<_>>(), [2, 0]);
    });
}

#[tokio::test]
async fn ranges_come_from_nodes_and_what_they_do_not_send_through_a_gateway() {
    let (gateway, node, client) = fake::start(&["first:1"]);
    let here = wire::LocateResponse {
        ring_epoch: 3,
        nodes: vec![wire::NodeEndpoint {
            node: 1,
            address: "second:1".to_owned(),
            zone: String::new(),
        }],
        blocks: vec![
            wire::BlockOwners {
                owners: vec![0],
                holders: vec![0],
            };
            2
        ],
        ..Default::default()
    };
    gateway.with(|script| script.locates.push_back(Ok(here)));
    let bad = frames(1, &[1, 2], &[2, 1]);
    node.with(|script| script.gets.push_back(Ok([good(0), bad].concat())));
    plan(&gateway, &[good(1)]);
    let got = get(&client, 2).await;
    assert_eq!(indexes(&got.blocks), [0, 1]);
    let paths: Vec<Path> = got.blocks.iter().map(|got| got.path).collect();
    assert_eq!(paths, [Path::Node, Path::Gateway]);
    for server in [&node, &gateway] {
        server.with(|script| assert_eq!(script.asked_gets[0].0.ranges.len(), 2));
    }
}

#[tokio::test]
async fn a_block_that_is_too_short_ends_the_get_and_names_the_range() {
    let past = Ranges::new([0..1, 5..BYTES as u64 + 1]).unwrap();
    let says = format!(
        "range 5..{} goes past the block's end: it has {BYTES}",
        BYTES + 1
    );
    // The server sends it as if nothing were wrong.
    let (first, _, client) = fake::start(&["first:1"]);
    plan(&first, &[frames(0, &[], &[0, 1, 2, 3])]);
    let got = opened(&client)
        .get_ranges(&chain(1), &past, options())
        .await;
    let error = got.unwrap_err();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains(&says), "{text}");
    // It says so, after a block that is long enough.
    let (first, _, client) = fake::start(&["first:1"]);
    let mut frames = good(0);
    let problem = Problem::invalid("ranges", &says);
    frames.push(Err(problem.into()));
    first.with(|script| script.gets.push_back(Ok(frames)));
    let got = opened(&client)
        .get_ranges(&chain(2), &wanted(), options())
        .await;
    let error = got.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert!(error.to_string().contains(&says), "{error}");
}

#[tokio::test]
async fn bytes_are_copied_to_where_they_belong() {
    let (first, _, client) = fake::start(&["first:1"]);
    // Block 1 does not come.
    let mut plan = [good(0), good(2)].concat();
    plan.push(summary(wire::GetOutcome::Miss));
    first.with(|script| script.gets.push_back(Ok(plan)));
    let mut memory = [0xaa; 3 * (4 + 7)];
    // One layer's buffer for all blocks, then the other's.
    let (ones, twos) = memory.split_at_mut(3 * 4);
    let pairs = ones.chunks_mut(4).zip(twos.chunks_mut(7));
    let mut into: Vec<&mut [u8]> = pairs.flat_map(|(one, two)| [one, two]).collect();
    let any = GetOptions {
        any_order: true,
        ..options()
    };
    let (opened, wanted) = (opened(&client), wanted());
    let (three, one) = (chain(3), chain(1));
    let scattered = opened.get_ranges_into(&three, &wanted, any.clone(), &mut into);
    let scattered = scattered.await.unwrap();
    let places: Vec<u32> = scattered.filled.iter().map(|(index, _)| *index).collect();
    assert_eq!(places, [0, 2]);
    assert_eq!(scattered.summary.outcome, GetOutcome::Miss);
    for (index, gap) in [(0, false), (1, true), (2, false)] {
        let want = bytes_of(index as u8);
        let one = &memory[index * 4..][..4];
        let two = &memory[12 + index * 7..][..7];
        match gap {
            false => assert_eq!((one, two), (&want[0][..], &want[1][..])),
            true => assert!(one.iter().chain(two).all(|byte| *byte == 0xaa)),
        }
    }
    // Buffers that cannot be are refused before anything is asked.
    let (mut four, mut six) = ([0; 4], [0; 6]);
    for mut into in [vec![&mut four[..]], vec![&mut [0; 4][..], &mut six]] {
        let refused = opened.get_ranges_into(&one, &wanted, any.clone(), &mut into);
        assert!(refused.await.is_err());
    }
    first.with(|script| assert_eq!(script.asked_gets.len(), 1));
}

#[tokio::test]
async fn no_ranges_are_whole_blocks() {
    let (first, _, client) = fake::start(&["first:1"]);
    for _ in 0..3 {
        plan(&first, &[frames(0, &[], &[0, 1, 2, 3])]);
    }
    let (opened, whole, one) = (opened(&client), Ranges::default(), chain(1));
    let got = opened
        .get_ranges(&chain(1), &whole, options())
        .await
        .unwrap();
    assert_eq!(got.blocks[0].ranges, [payload(0)]);
    let mut memory = vec![0; BYTES];
    let mut into = [&mut memory[..]];
    let scattered = opened.get_ranges_into(&one, &whole, options(), &mut into);
    assert_eq!(scattered.await.unwrap().filled.len(), 1);
    assert_eq!(memory, payload(0));
    let mut short = vec![0; BYTES - 1];
    let mut into = [&mut short[..]];
    let refused = opened.get_ranges_into(&one, &whole, options(), &mut into);
    assert!(refused.await.is_err());
    assert!(short.iter().all(|byte| *byte == 0));
}
