//! Snapshots of the directory, kept as files or in memory.

/// The log, the vote and the snapshot of a node in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {}
