//! Blocks that are rounded on their way between regions, where the policy says so, and nowhere
//! else.

use bytes::Bytes;
use kvmesh_client::{Block, BlockMeta, Encoding, FromWire, ToWire};
use kvmesh_directory::{Command, Hlc, Namespace, Policy};
use kvmesh_proto::v1::{self as wire, GetOutcome};

use crate::{
    encodings::{afar, numbers},
    fakes::{Mood, start::World},
};

const ROUNDS: Encoding = Encoding::Bf16Fp8;
const PACKS: Encoding = Encoding::Bf16Exponents;

/// What rounding makes of a block of numbers.
fn rounded(index: u32) -> Block {
    let exact = numbers(index);
    let round = |piece: &Bytes| {
        let encoded = ROUNDS.encode(piece).unwrap();
        ROUNDS.decode(&encoded, piece.len()).unwrap()
    };
    let raw: Vec<u8> = exact.pieces.iter().flat_map(round).collect();
    let mut block = Block::of(&Bytes::from(raw), index);
    (block.meta.put_hlc, block.meta.transcoded) = (exact.meta.put_hlc, Some(ROUNDS));
    assert_ne!(block.pieces, exact.pieces);
    block
}

async fn set_lossy(world: &World, lossy: bool, hlc: u64) {
    let policy = Policy {
        lossy,
        ..world.namespace.policy.clone()
    };
    let changed = Namespace {
        policy,
        policy_hlc: Hlc(hlc),
        ..world.namespace.clone()
    };
    world.region.apply(Command::OpenNamespace(changed));
    world.catch_up().await;
}

/// Two blocks of numbers in the far region, behind a link of a gigabit a second.
async fn world(lossy: bool) -> World {
    let world = afar(125e6).await;
    if lossy {
        set_lossy(&world, true, 9).await;
    }
    world
}

fn keep_rounded_afar(world: &World) {
    for index in 0..2 {
        world.far.keep(world.name(index, 0), rounded(index));
    }
}

/// Puts a block onto a node, with its claim.
async fn place(world: &World, block: &Block) {
    let name = world.name(block.meta.depth, 0);
    world.nodes[0].keep(name, block.clone());
    world.region.claim(name, &block.meta, &[1]);
    world.catch_up().await;
}

/// Whole blocks that come, with the encodings of their pieces, decoded; and how the get ended.
async fn got(world: &World, request: wire::GetRequest) -> (Vec<(Block, Vec<i32>)>, GetOutcome) {
    let mut client = world.client.clone();
    let mut stream = client.get(request).await.unwrap().into_inner();
    let (mut got, mut open): (Vec<(Block, Vec<i32>)>, _) = (Vec::new(), None);
    while let Some(frame) = stream.message().await.unwrap() {
        if let Some(summary) = frame.summary {
            return (got, summary.outcome());
        }
        if let Some(meta) = frame.header.and_then(|header| header.meta) {
            let meta = BlockMeta::from_wire(meta).unwrap();
            let pieces = Vec::new();
            open = Some((Block { meta, pieces }, Vec::new()));
        }
        if let (Some((block, encodings)), false) = (&mut open, frame.piece.is_empty()) {
            let bytes = block.meta.piece_len(block.pieces.len());
            let piece = match frame.encoding {
                0 => frame.piece,
                raw => {
                    let encoding = Encoding::from_wire(raw).unwrap();
                    Bytes::from(encoding.decode(&frame.piece, bytes).unwrap())
                }
            };
            block.pieces.push(piece);
            encodings.push(frame.encoding);
        }
        match wire::BlockEnd::try_from(frame.end).unwrap() {
            wire::BlockEnd::Unspecified => {}
            wire::BlockEnd::Complete => got.extend(open.take()),
            wire::BlockEnd::Aborted => open = None,
        }
    }
    panic!("the stream ended without a summary");
}

/// As another region's gateway asks.
fn from_afar(world: &World, lossy: bool, encodings: &[Encoding]) -> wire::GetRequest {
    wire::GetRequest {
        hop: 1,
        lossy,
        encodings: encodings.iter().map(|it| it.to_wire()).collect(),
        ..world.get_request(1)
    }
}

fn nothing_is_kept(world: &World) -> bool {
    let nodes = &mut world.nodes.iter();
    nodes.all(|node| node.blocks.lock().unwrap().is_empty())
}

#[tokio::test]
async fn what_is_rounded_is_verified_kept_and_served_as_such() {
    let world = world(true).await;
    keep_rounded_afar(&world);
    world.far.be(Mood::Encodes);
    let request = wire::GetRequest {
        await_fill: true,
        ..world.get_request(2)
    };
    let (first, outcome) = got(&world, request).await;
    assert_eq!(outcome, GetOutcome::Complete);
    let asked = world.far.asked.lock().unwrap()[0].clone();
    assert!(asked.lossy);
    assert_eq!(asked.encodings, [ROUNDS.to_wire(), PACKS.to_wire()]);
    for (index, (block, encodings)) in (0..).zip(&first) {
        assert_eq!(*block, rounded(index));
        assert_eq!(encodings[..], [0, 0]);
    }
    let mut kept = 0;
    for node in &world.nodes {
        if let Some(block) = node.blocks.lock().unwrap().get(&world.name(0, 0)) {
            assert_eq!(*block, rounded(0));
            kept += 1;
        }
    }
    assert!(kept > 0, "it was not kept");
    world.catch_up().await;
    let gets = world.far.asked.lock().unwrap().len();
    let (again, _) = got(&world, world.get_request(2)).await;
    assert_eq!(again, first);
    assert_eq!(world.far.asked.lock().unwrap().len(), gets);
    // Into a third region: as it came here.
    let third = from_afar(&world, true, &[ROUNDS, PACKS]);
    let (third, _) = got(&world, third).await;
    let came = vec![ROUNDS.to_wire(); 2];
    assert_eq!(third, [(rounded(0), came)]);
    // Not into one whose policy is not lossy.
    let (exact, _) = got(&world, from_afar(&world, false, &[ROUNDS, PACKS])).await;
    assert!(exact.is_empty());
}

#[tokio::test]
async fn a_namespace_that_is_not_lossy_gets_nothing_rounded() {
    let world = world(false).await;
    keep_rounded_afar(&world);
    world.far.be(Mood::Encodes);
    let (came, outcome) = got(&world, world.get_request(2)).await;
    assert!(came.is_empty());
    assert_ne!(outcome, GetOutcome::Complete);
    let asked = world.far.asked.lock().unwrap()[0].clone();
    assert!(!asked.lossy);
    assert_eq!(asked.encodings, [PACKS.to_wire()]);
    assert!(nothing_is_kept(&world));
}

#[tokio::test]
async fn a_piece_that_is_rounded_in_a_block_that_does_not_say_so_is_not_served() {
    let world = world(true).await;
    world.far.be(Mood::Encodes);
    let (came, outcome) = got(&world, world.get_request(2)).await;
    assert!(came.is_empty());
    assert_eq!(outcome, GetOutcome::SourceFailed);
    assert!(nothing_is_kept(&world));
}

#[tokio::test]
async fn a_gateway_that_knows_nothing_of_it_sends_what_was_put() {
    let world = world(true).await;
    let (came, outcome) = got(&world, world.get_request(2)).await;
    assert_eq!(outcome, GetOutcome::Complete);
    let blocks: Vec<Block> = came.into_iter().map(|(block, _)| block).collect();
    assert_eq!(blocks, [numbers(0), numbers(1)]);
}

#[tokio::test]
async fn a_block_is_rounded_for_a_region_that_asks_and_nobody_else() {
    let world = world(true).await;
    place(&world, &numbers(0)).await;
    let asked = from_afar(&world, true, &[ROUNDS, PACKS]);
    let (sent, _) = got(&world, asked.clone()).await;
    assert_eq!(sent, [(rounded(0), vec![ROUNDS.to_wire(); 2])]);
    let packed = vec![(numbers(0), vec![PACKS.to_wire(); 2])];
    let plain = vec![(numbers(0), vec![0; 2])];
    let here = wire::GetRequest {
        hop: 0,
        ..asked.clone()
    };
    for (request, want) in [
        (from_afar(&world, false, &[ROUNDS, PACKS]), &packed),
        (from_afar(&world, true, &[PACKS]), &packed),
        (from_afar(&world, true, &[Encoding::F16Fp8]), &plain),
        (here, &plain),
    ] {
        assert_eq!(got(&world, request).await.0, *want);
    }
    // The policy here has the last word.
    set_lossy(&world, false, 10).await;
    assert_eq!(got(&world, asked).await.0, packed);
}

#[tokio::test]
async fn damage_is_not_made_good_by_new_checksums() {
    let world = world(true).await;
    let mut damaged = numbers(0);
    let mut piece = damaged.pieces[1].to_vec();
    piece[7] ^= 1;
    damaged.pieces[1] = Bytes::from(piece);
    place(&world, &damaged).await;
    let (sent, _) = got(&world, from_afar(&world, true, &[ROUNDS])).await;
    assert_eq!(sent, [(damaged, vec![0; 2])]);
}

#[tokio::test]
async fn what_was_rounded_is_not_served_once_the_policy_is_not_lossy() {
    let world = world(true).await;
    place(&world, &rounded(0)).await;
    let (came, _) = got(&world, world.get_request(1)).await;
    assert_eq!(came[0].0, rounded(0));
    set_lossy(&world, false, 10).await;
    // The far region has what was put.
    let (came, outcome) = got(&world, world.get_request(1)).await;
    assert_eq!(outcome, GetOutcome::Complete);
    assert_eq!(came[0].0, numbers(0));
}
