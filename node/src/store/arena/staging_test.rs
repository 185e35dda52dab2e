use std::os::fd::AsFd;

use kvmesh_directory::NamespaceId;
use rustix::{
    fs::{FallocateFlags, fallocate, ftruncate},
    io::{Errno, pwrite},
};

use super::*;
use crate::store::arena::Arena;

const MIB: u64 = 1 << 20;

fn room() -> Room {
    let arena = Arena::for_budget(8 * MIB, false).unwrap();
    arena.room(NamespaceId([1; 16]))
}

#[test]
fn a_connection_has_its_part_and_all_have_half_and_give_it_back() {
    let all = Stagings::default();
    let sizes = [
        (0, None),
        (2 * MIB - 1, None),
        (2 * MIB, Some(MIB)),
        (100 * MIB, Some(6 * MIB)),
        (1 << 40, Some(LOCAL_STAGING_BYTES_MAX)),
    ];
    for (inflight, bytes) in sizes {
        let staging = all.open(inflight).ok();
        assert_eq!(staging.map(|it| it.bytes()), bytes, "{inflight}");
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
    let open = || all.open(100 * MIB);
    let mut held: Vec<Staging> = std::iter::from_fn(|| open().ok()).collect();
    assert_eq!(held.len(), 8, "6 MiB each, of 50");
    held.pop();
    assert!(open().is_ok_and(|_| open().is_err()));
}

#[test]
fn what_is_copied_stays_as_it_was_and_nothing_outside_is_read() {
    let staging = Stagings::default().open(2 * MIB).unwrap();
    let file = staging.file().try_clone_to_owned().unwrap();
    pwrite(&file, &[7; 5_000], 4_096).unwrap();
    let room = room();
    let copy = staging.copy(&room, 4_096, 5_000).unwrap();
    pwrite(&file, &[8; 5_000], 4_096).unwrap();
    assert_eq!(copy, vec![7; 5_000]);
    let new = staging.copy(&room, MIB - 100, 100).unwrap();
    assert_eq!(new, vec![0; 100]);
    for (at, bytes) in [(MIB - 99, 100), (MIB, 1), (u64::MAX, 1), (u64::MAX - 1, 9)] {
        let outside = staging.copy(&room, at, bytes);
        assert!(
            matches!(outside, Err(NotCopied::Outside { .. })),
            "{outside:?}"
        );
    }
}

#[test]
fn who_may_write_it_cannot_change_its_size() {
    let staging = Stagings::default().open(2 * MIB).unwrap();
    let file = staging.file().as_fd().try_clone_to_owned().unwrap();
    assert_eq!(ftruncate(&file, 0), Err(Errno::PERM));
    assert_eq!(ftruncate(&file, 4 * MIB), Err(Errno::PERM));
    let grown = fallocate(&file, FallocateFlags::empty(), 0, 4 * MIB);
    assert_eq!(grown, Err(Errno::PERM));
    assert_eq!(
        fcntl_add_seals(&file, SealFlags::WRITE),
        Err(Errno::PERM),
        "nor who else may write it"
    );
}
