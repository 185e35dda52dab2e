//! What does not need a disk that is full; `chaos-tests/src/full_disk.rs` fills one.

use super::*;

const TARGET: u64 = 64 << 20;

fn open(dir: &Path) -> Reserve {
    Reserve::open(dir, TARGET, "test").unwrap()
}

fn allocated(path: PathBuf) -> u64 {
    fs::metadata(path).unwrap().blocks() * STAT_BLOCK_BYTES
}

#[test]
fn it_is_made_given_back_in_steps_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = open(dir.path());
    assert!(allocated(dir.path().join(NAME)) >= TARGET, "not a hole");
    for left in (0..STEPS).rev() {
        assert!(reserve.give().unwrap());
        assert_eq!(reserve.held().bytes, left * reserve.step());
        let file = allocated(dir.path().join(NAME));
        assert!(file <= left * reserve.step() + (64 << 10), "{file}");
    }
    assert!(!reserve.give().unwrap(), "nothing is left");
    assert_eq!(reserve_missing(dir.path(), TARGET).unwrap(), 0);
    assert!(reserve.make().unwrap());
    assert!(allocated(dir.path().join(NAME)) >= TARGET);
}

#[test]
fn a_start_takes_what_is_left_and_makes_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = open(dir.path());
    reserve.give().unwrap();
    drop(reserve);
    assert_eq!(open(dir.path()).held().bytes, TARGET);
    let smaller = Reserve::open(dir.path(), TARGET / 2, "test").unwrap();
    assert_eq!(smaller.held().bytes, TARGET / 2);
    assert!(allocated(dir.path().join(NAME)) < TARGET);
    Reserve::open(dir.path(), 0, "test").unwrap();
    assert!(!dir.path().join(NAME).exists());
}

#[test]
fn without_room_a_start_goes_on_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let far_too_much = 1 << 60;
    assert!(reserve_missing(dir.path(), far_too_much).unwrap() > 0);
    let reserve = Reserve::open(dir.path(), far_too_much, "test").unwrap();
    assert_eq!(reserve.held().bytes, 0);
    assert_eq!(allocated(dir.path().join(NAME)), 0);
    reserve.make_free(1).unwrap();
}

#[test]
fn all_of_it_is_given_when_others_need_more_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = open(dir.path());
    reserve.make_free(1).unwrap();
    assert_eq!(reserve.held().bytes, TARGET, "there is room");
    reserve.make_free(u64::MAX).unwrap();
    assert_eq!(reserve.held().bytes, 0);
}

#[test]
fn a_file_grows_within_what_is_allocated_and_ends_where_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grows");
    let mut growing = Growing::new(File::create(&path).unwrap(), open(dir.path()));
    let (mut written, mut ahead) = (0, 0);
    while written < 40 << 20 {
        growing.write_all(&vec![7; 1 << 20]).unwrap();
        written += 1 << 20;
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), written, "its length is what was written");
        ahead += u64::from(allocated(path.clone()) >= written + (1 << 20));
    }
    assert!(ahead > 20, "room before it is needed: {ahead} of 40 times");
    let file = growing.into_file();
    file.set_len(written).unwrap();
    assert!(allocated(path) <= written + (64 << 10), "no more is kept");
    let none = Reserve::none();
    let path = dir.path().join("as it may");
    none.keep_ahead(&File::create(&path).unwrap(), TARGET)
        .unwrap();
    assert_eq!(allocated(path), 0);
}
