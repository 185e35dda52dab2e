//! How much memory blocks may take when the settings do not say.

use std::fs;

/// Share of the memory that the process may use, in percent.
const SHARE_PERCENT: u64 = 60;
/// When nothing can be found out.
const FALLBACK_BYTES: u64 = 1 << 30;

/// 60 % of the cgroup's limit or of the machine's memory, whichever is less.
#[must_use]
pub fn memory_for_blocks() -> u64 {
    let cgroup = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = cgroup
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of(&text));
    limits
        .chain(machine)
        .min()
        .map_or(FALLBACK_BYTES, |bytes| bytes / 100 * SHARE_PERCENT)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_machines_memory() {
        let text = "MemTotal:       24689708 kB\nMemFree: 1 kB\n";
        assert_eq!(total_of(text), Some(24_689_708 * 1024));
        assert_eq!(total_of("nothing"), None);
        assert!(memory_for_blocks() > 0);
    }
}
