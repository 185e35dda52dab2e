use bytes::Bytes;
use kvmesh_directory::limits::BLOCK_BYTES_MAX;
use proptest::prelude::*;

use super::*;

fn spot() -> Spot {
    Spot {
        store: [9; 16],
        segment: 3,
        offset: 8 * ALIGN,
    }
}

fn header(bytes: usize) -> Header {
    let meta = BlockMeta::of(&Bytes::from(vec![5; bytes]), 7);
    Header {
        name: BlockName {
            namespace: NamespaceId([1; 16]),
            hash: BlockHash([2; 32]),
            part: Part { shard: 1, group: 2 },
        },
        meta: BlockMeta {
            put_hlc: Hlc(77),
            transcoded: None,
            ..meta
        },
        log: LogIncarnation(5),
    }
}

fn encoded(header: &Header) -> Vec<u8> {
    // What was in the buffer before must not matter.
    let mut raw = vec![0xff; header.bytes() as usize];
    header.encode(&spot(), &mut raw);
    raw
}

#[test]
fn a_header_round_trips() {
    for bytes in [1, 4_096, (1 << 20) + 1, 3 << 20] {
        let header = header(bytes);
        let mut raw = encoded(&header);
        raw.extend([0xaa; 100]);
        assert_eq!(Header::decode(&spot(), &raw), Ok(header.clone()));
        assert!(header.record_bytes().is_multiple_of(ALIGN));
        assert!(header.record_bytes() >= header.bytes() + bytes as u64);
    }
}

#[test]
fn what_was_rounded_says_so_in_a_form_that_earlier_programs_do_not_know() {
    let mut header = header(3_000);
    let exact = encoded(&header);
    header.meta.transcoded = Some(Encoding::F16Fp8);
    let mut raw = encoded(&header);
    assert_eq!(Header::decode(&spot(), &raw), Ok(header));
    assert_eq!((exact[11], raw[11]), (1, 2));
    // Neither version takes the other's.
    raw[11] = 1;
    let (covered, last) = raw.split_at_mut(ALIGN as usize - CHECKSUM_BYTES);
    last.copy_from_slice(&Checksum::of(covered).0);
    assert_eq!(Header::decode(&spot(), &raw), Err(Malformed::Impossible));
}

#[test]
fn the_longest_header_fits() {
    let mut longest = header(1);
    longest.meta.bytes = BLOCK_BYTES_MAX;
    longest.meta.pieces = vec![Checksum([3; 16]); BLOCK_PIECES_MAX];
    longest.meta.checksum = Checksum::over(&longest.meta.pieces);
    let raw = encoded(&longest);
    assert_eq!(raw.len() as u64, HEADER_BYTES_MAX);
    assert_eq!(Header::decode(&spot(), &raw), Ok(longest.clone()));
}

#[test]
fn any_flipped_bit_is_noticed() {
    let raw = encoded(&header(100));
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&spot(), &flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_torn_header_is_none() {
    let raw = encoded(&header((1 << 20) * 250));
    for end in (0..raw.len()).step_by(512) {
        assert_eq!(Header::decode(&spot(), &raw[..end]), Err(Malformed::Short));
        let mut torn = raw.clone();
        torn[end..].fill(0);
        assert!(Header::decode(&spot(), &torn).is_err());
    }
}

#[test]
fn a_header_elsewhere_is_none() {
    let raw = encoded(&header(100));
    let elsewhere = [
        Spot {
            store: [8; 16],
            ..spot()
        },
        Spot {
            segment: 4,
            ..spot()
        },
        Spot {
            offset: 0,
            ..spot()
        },
    ];
    for spot in elsewhere {
        assert_eq!(Header::decode(&spot, &raw), Err(Malformed::Misplaced));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(raw in prop::collection::vec(any::<u8>(), 0..9_000)) {
        let mut raw = raw;
        let _ = Header::decode(&spot(), &raw);
        // Also past the magic.
        if raw.len() > 16 {
            raw[..8].copy_from_slice(&MAGIC);
            raw[8..12].copy_from_slice(&VERSION.to_be_bytes());
            let _ = Header::decode(&spot(), &raw);
        }
    }
}
