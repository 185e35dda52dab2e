use super::*;

const MIB: u64 = 1 << 20;

fn due(entries: u64, log_bytes: u64, snapshot_bytes: u64) -> bool {
    let settings = SnapshotSettings {
        log_bytes_min: 64 * MIB,
        log_bytes_max: 512 * MIB,
        entries_max: 500_000,
    };
    let since = Since {
        entries,
        log_bytes,
        snapshot_bytes,
    };
    is_due(since, &settings)
}

#[test]
fn a_snapshot_is_due_when_the_log_since_the_last_one_is_as_large() {
    assert!(
        !due(1_000, 64 * MIB - 1, 0),
        "little log, however small the directory"
    );
    assert!(due(1_000, 64 * MIB, MIB));
    assert!(!due(1_000, 200 * MIB - 1, 200 * MIB));
    assert!(due(1_000, 200 * MIB, 200 * MIB));
    assert!(due(1_000, 512 * MIB, 5_000 * MIB), "the disk has an end");
    assert!(!due(499_999, MIB, 200 * MIB));
    assert!(
        due(500_000, MIB, 200 * MIB),
        "a restart has to apply all of it"
    );
}
