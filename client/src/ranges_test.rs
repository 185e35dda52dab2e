//! Ranges are widened to pieces and cut out again, to the byte.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::block::{Block, BlockError, BlockMeta};

const PIECE: u64 = PIECE_BYTES as u64;

fn ranges(spans: &[(u64, u64)]) -> Result<Ranges, RangesError> {
    Ranges::new(spans.iter().map(|&(start, end)| start..end))
}

#[test]
fn what_cannot_be_is_refused_and_says_which_range() {
    let over = vec![(0, 1); RANGES_MAX + 1];
    let over: Vec<_> = (0..)
        .zip(over)
        .map(|(at, _)| (at * 2, at * 2 + 1))
        .collect();
    for (spans, says) in [
        (&[(7, 7)][..], "range from 7 has no byte"),
        (&[(9, 7)], "range from 9 ends before it, at 7"),
        (
            &[(0, 5), (4, 6)],
            "range from 4 begins before the one before it ends, at 5",
        ),
        (&[(8, 9), (0, 5)], "range from 0 begins before"),
        (&[(3, BLOCK_BYTES_MAX + 1)], "range from 3 goes past"),
        (&over, "over 256 ranges"),
    ] {
        let error = ranges(spans).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(ranges(&over[..RANGES_MAX]).is_ok());
    assert!(ranges(&[(0, 5), (5, 6), (BLOCK_BYTES_MAX - 1, BLOCK_BYTES_MAX)]).is_ok());
    assert!(ranges(&[]).unwrap().is_whole());
    let short = ranges(&[(0, 5), (10, 21)]).unwrap().check(20).unwrap_err();
    let says = "range 10..21 goes past the block's end: it has 20 bytes";
    assert!(short.to_string().contains(says), "{short}");
    assert!(ranges(&[(0, 5), (10, 20)]).unwrap().check(20).is_ok());
}

#[test]
fn a_range_touches_the_pieces_that_its_bytes_lie_in() {
    let bytes = 5 * PIECE + 100;
    for (spans, touched, sum) in [
        (&[][..], &[0, 1, 2, 3, 4, 5][..], bytes),
        (&[(0, 1)], &[0], PIECE),
        (&[(0, PIECE)], &[0], PIECE),
        (&[(0, PIECE + 1)], &[0, 1], 2 * PIECE),
        (&[(PIECE, PIECE + 1)], &[1], PIECE),
        (&[(PIECE - 1, 3 * PIECE)], &[0, 1, 2], 3 * PIECE),
        // Two in one piece, and one that begins where the one before it ends.
        (&[(5, 6), (9, 10), (10, PIECE + 2)], &[0, 1], 2 * PIECE),
        (&[(2, 3), (5 * PIECE + 99, bytes)], &[0, 5], PIECE + 100),
    ] {
        let ranges = ranges(spans).unwrap();
        assert_eq!(ranges.touch(bytes), touched, "{spans:?}");
        assert_eq!(ranges.touched_bytes(bytes), sum, "{spans:?}");
    }
}

fn payload(bytes: usize) -> Bytes {
    let byte = |at: usize| (at ^ (at >> 8) ^ (at >> 16)) as u8;
    (0..bytes).map(byte).collect::<Vec<u8>>().into()
}

/// Ascending spans from points, each within `bytes`.
fn spans_of(points: &[u64], bytes: u64) -> Vec<(u64, u64)> {
    let mut points: Vec<u64> = points.iter().map(|point| point % (bytes + 1)).collect();
    points.sort_unstable();
    points.dedup();
    let pairs = points.chunks_exact(2);
    pairs.map(|pair| (pair[0], pair[1])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_cut_out_are_the_bytes_whoever_sends_what(
        bytes in 1..(4 * PIECE + 9),
        points in vec(any::<u64>(), 0..12),
        all in any::<bool>(),
    ) {
        let raw = payload(bytes as usize);
        let block = Block::of(&raw, 0);
        let wanted = ranges(&spans_of(&points, bytes)).unwrap();
        let touched = wanted.touch(bytes);
        let sent = if all { Vec::new() } else { touched.clone() };
        let mut pieces = PiecesAssembler::new(block.meta.clone(), &wanted, &sent).unwrap();
        for (number, piece) in (0..).zip(&block.pieces) {
            if all || touched.contains(&number) {
                pieces.push(piece.clone()).unwrap();
            }
        }
        let pieces = pieces.finish().unwrap();
        prop_assert_eq!(&pieces.numbers, &touched);
        prop_assert_eq!(pieces.bytes(), wanted.touched_bytes(bytes));
        for span in wanted.of(bytes).unwrap() {
            let want = &raw[span.start as usize..span.end as usize];
            prop_assert_eq!(&pieces.cut(&span).unwrap()[..], want);
            let mut copied = vec![0; want.len()];
            prop_assert!(pieces.copy(&span, &mut copied));
            prop_assert_eq!(&copied[..], want);
            let mut longer = vec![0; want.len() + 1];
            prop_assert!(!pieces.copy(&span, &mut longer));
        }
        let whole = touched.len() == block.pieces.len();
        prop_assert_eq!(pieces.into_block(), whole.then_some(block));
    }
}

#[test]
fn what_lies_within_one_piece_is_not_copied() {
    let raw = payload(3 * PIECE_BYTES);
    let block = Block::of(&raw, 0);
    let wanted = ranges(&[(10, 20), (2 * PIECE, 2 * PIECE + 5)]).unwrap();
    let mut pieces = PiecesAssembler::new(block.meta.clone(), &wanted, &[0, 2]).unwrap();
    pieces.push(block.pieces[0].clone()).unwrap();
    pieces.push(block.pieces[2].clone()).unwrap();
    let pieces = pieces.finish().unwrap();
    assert_eq!(pieces.cut(&(10..20)).unwrap().as_ptr(), raw[10..].as_ptr());
    assert_eq!(pieces.cut(&(PIECE..PIECE + 1)), None, "it was not wanted");
    assert_eq!(pieces.cut(&(PIECE - 1..PIECE + 1)), None);
    assert_eq!(pieces.cut(&(3 * PIECE - 1..3 * PIECE + 1)), None);
}

#[test]
fn only_the_wanted_pieces_are_taken_each_at_its_place() {
    let raw = payload(4 * PIECE_BYTES + 10);
    let block = Block::of(&raw, 0);
    let wanted = ranges(&[(PIECE, PIECE + 1), (4 * PIECE, 4 * PIECE + 10)]).unwrap();
    let begin = |sent: &[u32]| PiecesAssembler::new(block.meta.clone(), &wanted, sent);
    for sent in [
        &[1][..],
        &[1, 2, 4],
        &[4, 1],
        &[1, 1, 4],
        &[0, 1, 2, 3, 4],
        &[1, 9],
    ] {
        let error = begin(sent).err();
        assert!(
            matches!(error, Some(PiecesError::NotAsked { .. })),
            "{sent:?}"
        );
    }
    let piece = |at: usize| block.pieces[at].clone();
    // Another piece than is due, of the same size.
    let mut pieces = begin(&[1, 4]).unwrap();
    let wrong = pieces.push(piece(2));
    let at_one = matches!(
        wrong,
        Err(PiecesError::Block(BlockError::Piece { index: 1, .. }))
    );
    assert!(at_one, "{wrong:?}");
    // The order turned.
    let wrong = begin(&[1, 4]).unwrap().push(piece(4));
    assert!(matches!(
        wrong,
        Err(PiecesError::Block(BlockError::PieceSize { index: 1, .. }))
    ));
    let mut pieces = begin(&[1, 4]).unwrap();
    pieces.push(piece(1)).unwrap();
    // One too few, and one too many.
    let mut whole = begin(&[1, 4]).unwrap();
    whole.push(piece(1)).unwrap();
    let few = whole.finish();
    assert_eq!(few, Err(BlockError::Truncated { got: 1, want: 2 }.into()));
    pieces.push(piece(4)).unwrap();
    let many = pieces.push(piece(0));
    assert!(matches!(
        many,
        Err(PiecesError::Block(BlockError::PieceSize { want: 0, .. }))
    ));
    // Of a whole block, too: each at its place.
    let mut all = begin(&[]).unwrap();
    all.push(piece(0)).unwrap();
    assert!(all.push(piece(2)).is_err(), "piece 1 is due");
    let mut root = block.meta.clone();
    root.pieces[0] = root.pieces[1];
    let wrong = PiecesAssembler::new(root, &wanted, &[1, 4]).err();
    assert!(matches!(
        wrong,
        Some(PiecesError::Block(BlockError::Root { .. }))
    ));
    let mut short = BlockMeta::of(&raw[..PIECE_BYTES], 0);
    short.put_hlc = block.meta.put_hlc;
    let wrong = PiecesAssembler::new(short, &wanted, &[1, 4]).err();
    assert!(matches!(wrong, Some(PiecesError::Range(_))), "{wrong:?}");
}
