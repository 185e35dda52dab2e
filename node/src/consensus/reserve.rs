//! Room for Raft on a file system that others fill: a file of `raft_reserve` bytes, given back
//! step by step, and blocks that are allocated behind the ends of Raft's files before they grow.
//!
//! sled cannot go on after a write that found no room: it fails from then on. So no file of Raft
//! grows where nothing is allocated. Blocks come from the file system while it has some, else
//! from the reserve; what is given back is allocated at once, and others do not get it.
//!
//! Not here: when blocks stop being written (`disk_stop_writes`, the store's).

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge, counter, gauge};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::blocking::blocking;

/// Of a node's `raft_dir`.
const NAME: &str = "reserve";
/// It is given back in so many steps.
const STEPS: u64 = 16;
/// Allocated behind a file's end at a time, at most.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// Of `stat`'s blocks.
const STAT_BLOCK_BYTES: u64 = 512;
/// How often it is looked whether it can be made again.
const AGAIN: Duration = Duration::from_secs(5);

/// See the module. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Reserve(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Bytes that it is to have; 0: there is none, and nothing is allocated ahead.
    target: u64,
    held: Mutex<Held>,
    /// The file system cannot allocate.
    unable: AtomicBool,
    given: Counter,
    shown: Gauge,
}

#[derive(Debug)]
struct Held {
    file: Option<File>,
    bytes: u64,
    /// It was said that nothing is left.
    said: bool,
}

fn no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What others than root may still write to a directory's file system.
fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What a file system must have left so that a reserve is made, besides the reserve: else it
/// would come and go with every file that somebody writes and removes.
fn slack(target: u64) -> u64 {
    target / 4
}

/// How many bytes must be freed so that a reserve can be made whole; it need not be there yet.
///
/// # Errors
/// When the file system cannot be asked.
pub(crate) fn reserve_missing(dir: &Path, target: u64) -> io::Result<u64> {
    let held = fs::metadata(dir.join(NAME)).map_or(0, |file| file.len());
    match target.saturating_sub(held) {
        0 => Ok(0),
        missing => Ok((missing + slack(target)).saturating_sub(free_bytes(dir)?)),
    }
}

impl Reserve {
    /// None: files grow as they may.
    pub(super) fn none() -> Self {
        let held = Held {
            file: None,
            bytes: 0,
            said: false,
        };
        Self::of(PathBuf::new(), 0, held, Counter::noop(), Gauge::noop())
    }

    fn of(dir: PathBuf, target: u64, held: Held, given: Counter, shown: Gauge) -> Self {
        Self(Arc::new(Inner {
            dir,
            target,
            held: Mutex::new(held),
            unable: AtomicBool::new(false),
            given,
            shown,
        }))
    }

    /// Takes what an earlier start left of it, and makes the rest where there is room: a node
    /// starts without it as well. Blocks.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub(super) fn open(dir: &Path, target: u64, instance: &str) -> io::Result<Self> {
        let path = dir.join(NAME);
        if target == 0 {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(Self::none()),
            }
        }
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let bytes = file.metadata()?.len().min(target);
        file.set_len(bytes)?;
        let held = Held {
            file: Some(file),
            bytes,
            said: false,
        };
        let instance = instance.to_owned();
        let level = "kvmesh_node_raft_reserve_bytes";
        let all = gauge!(level, "instance" => instance.clone(), "kind" => "max");
        let shown = gauge!(level, "instance" => instance.clone(), "kind" => "held");
        let given = counter!(
            "kvmesh_node_raft_reserve_given_bytes_total",
            "instance" => instance
        );
        all.set(target as f64);
        shown.set(bytes as f64);
        let reserve = Self::of(dir.to_owned(), target, held, given, shown);
        match reserve.make() {
            Ok(true) => {}
            Ok(false) => warn!(
                held = reserve.held().bytes,
                wanted = target,
                "no room for all of raft_reserve: free some, or move raft_dir"
            ),
            Err(error) => warn!(%error, "raft_reserve cannot be made"),
        }
        Ok(reserve)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> u64 {
        (self.0.target / STEPS).max(1)
    }

    /// Has at least `need` bytes allocated behind a file's end, as long as there are any: who
    /// writes no more than that finds room. Blocks.
    ///
    /// # Errors
    /// When the file cannot be looked at, or allocating fails for another reason than room.
    pub(super) fn keep_ahead(&self, file: &File, need: u64) -> io::Result<()> {
        if self.0.target == 0 || self.0.unable.load(Ordering::Relaxed) {
            return Ok(());
        }
        let metadata = file.metadata()?;
        let (end, allocated) = (metadata.len(), metadata.blocks() * STAT_BLOCK_BYTES);
        if allocated.saturating_sub(end) >= need {
            return Ok(());
        }
        let mut wanted = need + self.step().min(AHEAD_BYTES_MAX);
        loop {
            match fallocate(file, FallocateFlags::KEEP_SIZE, end, wanted).map_err(io::Error::from) {
                Ok(()) => return Ok(()),
                Err(error) if no_room(&error) => match (self.give()?, wanted > need) {
                    (true, _) => {}
                    (false, true) => wanted = need,
                    // The file may have holes of its own: whoever writes will see.
                    (false, false) => return Ok(()),
                },
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.0.unable.store(true, Ordering::Relaxed);
                    warn!("raft_reserve does nothing: this file system cannot allocate ahead");
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives back until the file system has so many bytes for files that are not allocated
    /// ahead. Blocks.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub(super) fn make_free(&self, bytes: u64) -> io::Result<()> {
        if self.0.target == 0 {
            return Ok(());
        }
        while free_bytes(&self.0.dir)? < bytes && self.give()? {}
        Ok(())
    }

    /// Gives a step back; false: nothing is left.
    fn give(&self) -> io::Result<bool> {
        let mut held = self.held();
        let left = held.bytes.saturating_sub(self.step());
        let step = held.bytes - left;
        let Some(file) = held.file.as_ref().filter(|_| step > 0) else {
            if !held.said {
                error!("raft_reserve is used up: make room on the file system of raft_dir now");
            }
            held.said = true;
            return Ok(false);
        };
        file.set_len(left)?;
        held.bytes = left;
        self.0.given.increment(step);
        self.0.shown.set(left as f64);
        error!(
            given = step,
            left,
            dir = %self.0.dir.display(),
            "no room for Raft: a part of raft_reserve is given back to it, make room"
        );
        Ok(true)
    }

    /// Makes what is missing, if that leaves the file system a little; whether all is there.
    fn make(&self) -> io::Result<bool> {
        let target = self.0.target;
        let mut held = self.held();
        let missing = target - held.bytes;
        let (Some(file), 1..) = (held.file.as_ref(), missing) else {
            return Ok(true);
        };
        if free_bytes(&self.0.dir)? < missing + slack(target) {
            return Ok(false);
        }
        let made = fallocate(file, FallocateFlags::empty(), 0, target).map_err(io::Error::from);
        if let Err(error) = made {
            file.set_len(held.bytes)?;
            return match no_room(&error) {
                true => Ok(false),
                false => Err(error),
            };
        }
        file.sync_all()?;
        (held.bytes, held.said) = (target, false);
        self.0.shown.set(target as f64);
        info!(bytes = target, "raft_reserve is whole");
        Ok(true)
    }

    /// Makes it again when there is room, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        if self.0.target == 0 {
            return;
        }
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let reserve = self.clone();
            if let Err(error) = blocking(move || reserve.make()).await {
                warn!(%error, "raft_reserve cannot be made again");
            }
        }
    }
}

/// A file that is written at its end, with room ahead.
pub(super) struct Growing {
    file: File,
    reserve: Reserve,
}

impl Growing {
    pub(super) fn new(file: File, reserve: Reserve) -> Self {
        Self { file, reserve }
    }

    /// The file, with what is still allocated behind its end.
    pub(super) fn into_file(self) -> File {
        self.file
    }
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reserve.keep_ahead(&self.file, bytes.len() as u64)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[path = "reserve_test.rs"]
mod tests;
