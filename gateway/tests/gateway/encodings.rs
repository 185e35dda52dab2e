//! Pieces that travel between regions encoded.

use bytes::Bytes;
use kvmesh_client::{Block, Encoding, ToWire};
use kvmesh_directory::{Hlc, limits::PIECE_BYTES};
use kvmesh_proto::v1::{self as wire, GetOutcome};

use crate::fakes::{Mood, start::World};

const ENCODING: Encoding = Encoding::Bf16Exponents;
/// Two pieces, the second one odd.
const BYTES: usize = PIECE_BYTES + 2_049;

/// A block of bf16 numbers of about one size, as a model makes them.
pub(crate) fn numbers(index: u32) -> Block {
    let number = |at: u32| {
        let noise = (at ^ index << 8).wrapping_mul(2_654_435_761);
        let exponent = 120 + (noise >> 20) as u16 % 4;
        ((noise >> 8) as u16 & 0x807f | exponent << 7).to_le_bytes()
    };
    let mut raw: Vec<u8> = (0..BYTES as u32 / 2 + 1).flat_map(number).collect();
    raw.truncate(BYTES);
    let mut block = Block::of(&Bytes::from(raw), index);
    block.meta.put_hlc = Hlc(50);
    block
}

/// A world whose far region has two blocks of numbers, behind a link of `bandwidth` bytes a second.
pub(crate) async fn afar(bandwidth: f64) -> World {
    let world = World::start(2, |_| {}).await;
    let at = world.place_far(1, 0..2, BYTES);
    for index in 0..2 {
        world.far.keep(world.name(index, 0), numbers(index));
    }
    let gateways = std::slice::from_ref(&world.far_address);
    world.mesh.link_of("eu-west", 80.0, bandwidth, gateways);
    let later = world.mesh.has("eu-west", 2, &[]);
    world.catch_up().await;
    world.reach(at).await;
    world.reach(later).await;
    world
}

fn asked(world: &World) -> Vec<i32> {
    world.far.asked.lock().unwrap()[0].encodings.clone()
}

#[tokio::test]
async fn what_travelled_encoded_is_served_and_kept_as_it_was_before() {
    let world = afar(125e6).await;
    world.far.be(Mood::Encodes);
    let request = wire::GetRequest {
        await_fill: true,
        ..world.get_request(2)
    };
    let (got, summary) = world.get(request).await;
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    assert_eq!(asked(&world), [ENCODING.to_wire()]);
    for (index, got) in (0..).zip(&got) {
        assert_eq!(got.bytes, numbers(index).pieces.concat());
    }
    assert_eq!((got.len(), summary.fill_failures), (2, 0));
    for index in 0..2 {
        let name = world.name(index, 0);
        let mut kept = 0;
        for node in &world.nodes {
            if let Some(block) = node.blocks.lock().unwrap().get(&name) {
                assert_eq!(block.pieces.concat(), numbers(index).pieces.concat());
                kept += 1;
            }
        }
        assert!(kept > 0, "block {index} was not kept");
    }
}

#[tokio::test]
async fn a_gateway_that_knows_no_encodings_sends_pieces_as_they_are() {
    let world = afar(125e6).await;
    let (got, summary) = world.get(world.get_request(2)).await;
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    assert_eq!(got[1].bytes, numbers(1).pieces.concat());
}

#[tokio::test]
async fn a_fast_link_carries_pieces_as_they_are() {
    let world = afar(1.25e9).await;
    world.far.be(Mood::Encodes);
    let (got, _) = world.get(world.get_request(2)).await;
    assert_eq!(got[1].bytes, numbers(1).pieces.concat());
    assert!(asked(&world).is_empty());
}

#[tokio::test]
async fn a_piece_that_cannot_be_decoded_is_not_served() {
    let world = afar(125e6).await;
    world.far.be(Mood::Garbles);
    let (got, summary) = world.get(world.get_request(2)).await;
    assert_eq!((got.len(), summary.blocks), (0, 0));
    assert_eq!(summary.outcome(), GetOutcome::SourceFailed);
    for node in &world.nodes {
        assert!(node.blocks.lock().unwrap().is_empty(), "it was kept");
    }
}

/// What a gateway sends of block 0: frames with a piece.
async fn sent(world: &World, request: wire::GetRequest) -> Vec<wire::GetResponse> {
    let mut client = world.client.clone();
    let mut stream = client.get(request).await.unwrap().into_inner();
    let mut frames = Vec::new();
    while let Some(frame) = stream.message().await.unwrap() {
        if !frame.piece.is_empty() {
            frames.push(frame);
        }
    }
    frames
}

#[tokio::test]
async fn only_a_gateway_that_asks_for_it_is_sent_encoded_pieces() {
    let world = World::start(1, |_| {}).await;
    let block = numbers(0);
    world.nodes[0].keep(world.name(0, 0), block.clone());
    world.region.claim(world.name(0, 0), &block.meta, &[1]);
    world.catch_up().await;
    let request = |hop, encodings: &[i32]| wire::GetRequest {
        hop,
        encodings: encodings.to_vec(),
        ..world.get_request(1)
    };
    let encoding = ENCODING.to_wire();
    // Of a later version a gateway may know one more.
    let frames = sent(&world, request(1, &[77, encoding])).await;
    assert_eq!(frames.len(), 2);
    for (frame, piece) in frames.iter().zip(&block.pieces) {
        assert_eq!(frame.encoding, encoding);
        assert!(frame.piece.len() < piece.len() * 3 / 4);
        let decoded = ENCODING.decode(&frame.piece, piece.len());
        assert_eq!(decoded.as_deref(), Ok(&piece[..]));
    }
    let other = Encoding::F16Exponents.to_wire();
    for (hop, encodings) in [(1, &[][..]), (1, &[other][..]), (0, &[encoding][..])] {
        let frames = sent(&world, request(hop, encodings)).await;
        assert!(frames.iter().all(|frame| frame.encoding == 0));
        let pieces: Vec<_> = frames.into_iter().map(|frame| frame.piece).collect();
        assert_eq!(pieces, block.pieces);
    }
}
