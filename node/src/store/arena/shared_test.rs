//! Segments as clients on the host see them: through the descriptor alone.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::fd::AsRawFd,
};

use super::*;

const MIB: u64 = 1 << 20;

fn namespace(number: u8) -> NamespaceId {
    NamespaceId([number; 16])
}

fn piece(byte: u8) -> Bytes {
    Bytes::from(vec![byte; PIECE_BYTES])
}

/// What a client reads from a segment, padding and unused pages included.
fn seen(segment: &Segment) -> Vec<u8> {
    let mut file = File::from(segment.file().try_clone_to_owned().unwrap());
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes of this process's pages that are present from an address on.
fn resident_from(address: usize, bytes: u64) -> u64 {
    let mut map = File::open("/proc/self/pagemap").unwrap();
    map.seek(SeekFrom::Start(address as u64 / 4_096 * 8))
        .unwrap();
    let mut entries = vec![0; (bytes / 4_096 * 8) as usize];
    map.read_exact(&mut entries).unwrap();
    let present = entries.chunks(8).filter(|entry| entry[7] & 0x80 != 0);
    present.count() as u64 * 4_096
}

#[test]
fn blocks_are_shared_once_their_namespace_has_a_client() {
    let arena = Arena::for_budget(64 * MIB, false).unwrap();
    let room = arena.room(namespace(1));
    let before = room.keep(&piece(1)).unwrap();
    assert!(room.find(&before).is_none() && room.share(&before).is_none());
    let guest = room.clone().enter();
    assert_eq!(guest.keep(&before).unwrap(), before);
    let shared = guest.share(&before).unwrap();
    let (segment, offset) = guest.find(&shared).unwrap();
    assert_eq!(
        &seen(&segment)[offset as usize..][..PIECE_BYTES],
        &before[..]
    );
    assert_eq!(arena.space().shared, segment.bytes());
    assert!(arena.room(namespace(2)).find(&shared).is_none());
    assert!(arena.room(namespace(2)).share(&shared).is_none());
}

#[test]
fn a_segment_shows_nothing_of_other_namespaces_and_cannot_be_written() {
    let arena = Arena::for_budget(64 * MIB, false).unwrap();
    let (own, other) = (
        arena.room(namespace(1)).enter(),
        arena.room(namespace(2)).enter(),
    );
    // Memory that other namespaces have used, and let go.
    for _ in 0..8 {
        drop((arena.keep(&piece(2)), other.keep(&piece(2))));
    }
    let kept = own.share(&Bytes::from_static(&[1; 5_000])).unwrap();
    let (segment, _) = own.find(&kept).unwrap();
    let bytes = seen(&segment);
    assert_eq!(bytes.len() as u64, segment.bytes());
    assert!(!bytes.contains(&2) && bytes.contains(&1));

    let descriptor = segment.file();
    let mut file = File::from(descriptor.try_clone_to_owned().unwrap());
    assert_eq!(
        file.write(&[3]).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    assert!(file.set_len(1).is_err() && file.set_len(2 * segment.bytes()).is_err());
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let again = OpenOptions::new().write(true).open(path);
    assert!(again.is_err() || again.unwrap().write(&[3]).is_err());
    let remove = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    assert!(rustix::fs::fallocate(descriptor, remove, 0, 4_096).is_err());
    assert!(
        rustix::fs::fcntl_add_seals(descriptor, rustix::fs::SealFlags::WRITE).is_err(),
        "nobody keeps the node from writing"
    );
    assert_eq!(seen(&segment), bytes);
}

#[test]
fn segments_stay_within_their_part_and_go_when_they_are_empty() {
    let arena = Arena::for_budget(64 * MIB, false).unwrap();
    let guest = arena.room(namespace(1)).enter();
    let kept: Vec<Bytes> = (0..)
        .map_while(|_| guest.share(&piece(1)))
        .take(64)
        .collect();
    assert_eq!(kept.len() as u64 * MIB, 64 * MIB / 2, "half of the budget");
    assert_eq!(arena.space().shared, 32 * MIB);
    let over = guest.keep(&piece(1)).unwrap();
    assert!(guest.find(&over).is_none(), "beyond it blocks are private");
    let (held, _) = guest.find(&kept[0]).unwrap();
    drop(kept);
    arena.tend();
    assert!(arena.space().shared <= 8 * MIB, "one stays, one is held");
    drop(guest);
    assert!(held.is_retired());
    drop(held);
    assert_eq!(arena.space().shared, 0);
}

#[test]
fn what_segments_take_is_given_back_by_free_pages() {
    let arena = Arena::for_budget(64 * MIB, false).unwrap();
    let private: Vec<Bytes> = (0..64).map(|_| arena.keep(&piece(1)).unwrap()).collect();
    let private_base = private.iter().map(|it| it.as_ptr().addr()).min().unwrap();
    let guest = arena.room(namespace(1)).enter();
    let resident = || resident_from(private_base, 96 * MIB);
    assert!(resident() >= 64 * MIB);
    let shared: Vec<Bytes> = private[..32]
        .iter()
        .map(|it| guest.share(it).unwrap())
        .collect();
    let left = private[32..].to_vec();
    drop(private);
    arena.tend();
    assert_eq!((left.len(), shared.len()), (32, 32));
    assert!(resident() <= 32 * MIB, "{}", resident());
    let again: Vec<Bytes> = (0..16).map(|_| arena.keep(&piece(3)).unwrap()).collect();
    assert!(again.iter().all(|it| it == &piece(3)));
    drop(again);
    assert!(resident() <= 32 * MIB, "given back as they become free");
}
