use bytes::Bytes;
use kvmesh_client::{Block, BlockMeta};
use kvmesh_directory::{BlockHash, BlockName, Hlc, LogIncarnation, NamespaceId, Part};

use super::*;
use crate::store::disk::{faulty_io::FaultyFiles, io::Files};

const STORE: [u8; 16] = [4; 16];

fn block(number: u64, bytes: usize) -> (Header, Block) {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    let block = Block::of(&Bytes::from(vec![number as u8 + 1; bytes]), 3);
    let header = Header {
        name: BlockName {
            namespace: NamespaceId([1; 16]),
            hash: BlockHash(hash),
            part: Part::default(),
        },
        meta: BlockMeta {
            put_hlc: Hlc(number),
            ..block.meta.clone()
        },
        log: LogIncarnation(1),
    };
    (header, block)
}

/// A segment of records of so many bytes; where each begins and where the last one ends.
fn written(files: &FaultyFiles, sizes: &[usize]) -> (Segment, Vec<u64>) {
    let segment = Segment {
        store: STORE,
        number: 1,
        file: files.create(1, 1 << 16).unwrap(),
    };
    let (mut at, mut starts) = (0, vec![0]);
    for (number, bytes) in sizes.iter().enumerate() {
        let (header, block) = block(number as u64, *bytes);
        let mut raw = Aligned::zeroed(header.record_bytes());
        header.encode(&segment.spot(at), &mut raw);
        let from = header.bytes() as usize;
        raw[from..from + bytes].copy_from_slice(&block.pieces[0]);
        segment.file.write(&raw, at).unwrap();
        at += header.record_bytes();
        starts.push(at);
    }
    segment.file.sync().unwrap();
    (segment, starts)
}

fn numbers(recovered: &Recovered) -> Vec<u64> {
    let records = recovered.records.iter();
    records.map(|(_, header)| header.meta.put_hlc.0).collect()
}

fn reopened(files: &FaultyFiles) -> Segment {
    Segment {
        store: STORE,
        number: 1,
        file: files.open(1).unwrap(),
    }
}

#[test]
fn what_is_whole_comes_back_and_is_sealed() {
    let files = FaultyFiles::default();
    let (segment, starts) = written(&files, &[100, 5_000, 1]);
    assert_eq!(segment.sealed().unwrap(), None);
    for _ in 0..2 {
        let recovered = recover(&reopened(&files)).unwrap();
        assert_eq!((numbers(&recovered), recovered.torn), (vec![0, 1, 2], 0));
        assert_eq!(segment.sealed().unwrap(), Some(starts[3]));
    }
    for (offset, header) in recover(&segment).unwrap().records {
        let (_, read) = segment.record(offset, header.record_bytes()).unwrap();
        assert_eq!(
            read.pieces,
            block(header.meta.put_hlc.0, read.meta.bytes as usize)
                .1
                .pieces
        );
    }
}

#[test]
fn a_segment_is_cut_to_what_it_holds_and_nothing_else_is_taken_for_its_seal() {
    let files = FaultyFiles::default();
    let (segment, starts) = written(&files, &[100, 5_000, 1]);
    let (full, end) = (segment.file.bytes(), starts[3]);
    let all = |records: Option<u64>| {
        assert_eq!(segment.sealed().unwrap(), records);
        let recovered = recover(&reopened(&files)).unwrap();
        assert_eq!((numbers(&recovered), recovered.torn), (vec![0, 1, 2], 0));
        assert_eq!((recovered.end, segment.file.bytes()), (end, end + ALIGN));
    };
    all(None);
    all(Some(end));
    // The power was cut between the seal and the cut: all of it is verified again.
    segment.file.resize(full).unwrap();
    all(None);
    // As earlier versions sealed: at the end of a file that kept its size.
    segment.file.resize(end).unwrap();
    segment.file.resize(full).unwrap();
    let old = segment.seal_page(end);
    segment.file.write(&old, full - ALIGN).unwrap();
    all(Some(end));
    // What comes after a start lies where the seal was, which is none any more.
    segment.file.resize(full).unwrap();
    let (header, block) = block(9, 100);
    let mut raw = Aligned::zeroed(header.record_bytes());
    header.encode(&segment.spot(end), &mut raw);
    raw[header.bytes() as usize..][..100].copy_from_slice(&block.pieces[0]);
    segment.file.write(&raw, end).unwrap();
    let recovered = recover(&reopened(&files)).unwrap();
    assert_eq!((numbers(&recovered), recovered.torn), (vec![0, 1, 2, 9], 0));
}

#[test]
fn a_tail_torn_anywhere_costs_only_what_is_not_whole() {
    let sizes = [100, 9_000, 4_096];
    let last = written(&FaultyFiles::default(), &sizes).1[3];
    for from in (0..last as usize).step_by(512) {
        let files = FaultyFiles::default();
        let (_, starts) = written(&files, &sizes);
        files.tear(1, from);
        let recovered = recover(&reopened(&files)).unwrap();
        // A body's padding may be missing: it is not read.
        let whole = sizes
            .iter()
            .zip(&starts)
            .take_while(|(bytes, start)| **start as usize + 4_096 + **bytes <= from);
        let whole: Vec<u64> = (0..whole.count() as u64).collect();
        assert_eq!(numbers(&recovered), whole, "torn at {from}");
        // What was torn is not found later, either.
        let again = recover(&reopened(&files)).unwrap();
        assert_eq!((numbers(&again), again.torn), (whole, 0), "torn at {from}");
    }
}

#[test]
fn a_flipped_bit_costs_its_own_record_only() {
    let sizes = [100, 9_000, 300];
    for sealed in [false, true] {
        // Every byte of the fields, and some of the body.
        for byte in (0..4_096).step_by(1).chain((4_096..13_000).step_by(512)) {
            if byte > 200 && byte < 4_070 && byte % 97 != 0 {
                continue;
            }
            let files = FaultyFiles::default();
            let (segment, starts) = written(&files, &sizes);
            if sealed {
                segment.seal(starts[3]).unwrap();
            }
            files.flip(1, starts[1] as usize + byte, (byte % 8) as u8);
            let segment = reopened(&files);
            let recovered = recover(&segment).unwrap();
            let served: Vec<u64> = recovered
                .records
                .iter()
                .filter(|(offset, header)| segment.record(*offset, header.record_bytes()).is_ok())
                .map(|(_, header)| header.meta.put_hlc.0)
                .collect();
            assert_eq!(served, [0, 2], "byte {byte}, sealed {sealed}");
            if !sealed {
                // It was verified once, and is trusted from then on.
                let again = numbers(&recover(&segment).unwrap());
                assert_eq!(again, [0, 2], "byte {byte}");
            }
        }
    }
}

#[test]
fn a_block_that_looks_like_a_record_is_none() {
    // A tenant that knew everything but the store's number.
    let files = FaultyFiles::default();
    let (segment, _) = written(&files, &[]);
    let (fake, _) = block(66, 100);
    let mut bytes = vec![0; 3 * ALIGN as usize];
    let guess = Segment {
        store: [5; 16],
        ..segment.clone()
    };
    fake.encode(&guess.spot(2 * ALIGN), &mut bytes[ALIGN as usize..]);
    let meta = BlockMeta::of(&bytes, 0);
    let header = Header {
        meta,
        ..block(1, 1).0
    };
    let mut raw = Aligned::zeroed(header.record_bytes());
    header.encode(&segment.spot(0), &mut raw);
    raw[ALIGN as usize..].copy_from_slice(&bytes);
    segment.file.write(&raw, 0).unwrap();
    // Its own header is damaged, so that its bytes are looked at.
    files.flip(1, 20, 0);
    let recovered = recover(&reopened(&files)).unwrap();
    assert_eq!(numbers(&recovered), [0; 0]);
}
