//! Somebody else who fills a file system: takes all that is free, and whatever becomes free.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};

/// Written at a time, until not even one block of the file system is free.
const STEP_BYTES: [usize; 2] = [1 << 20, 4 << 10];
/// Between two looks at whether there is room again.
const PAUSE: Duration = Duration::from_millis(1);

/// Ends, and gives everything back, when it is dropped.
pub(crate) struct Filler {
    path: PathBuf,
    taken: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Filler {
    /// Begins.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let path = dir.join("filler");
        let file = File::create(&path)?;
        let mut filler = Self {
            path,
            taken: Arc::default(),
            full: Arc::default(),
            idle: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (taken, full, idle, stop) = (
            Arc::clone(&filler.taken),
            Arc::clone(&filler.full),
            Arc::clone(&filler.idle),
            Arc::clone(&filler.stop),
        );
        filler.thread = Some(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if idle.load(Ordering::Relaxed) || take(&file, &taken)? == 0 {
                    full.store(true, Ordering::Relaxed);
                    thread::park_timeout(PAUSE);
                }
            }
            Ok(())
        }));
        Ok(filler)
    }

    /// Bytes that it took.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether it once found no room.
    pub(crate) fn full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// It keeps what it has, and whether it takes more.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Ends it, and gives everything back.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            ended.map_err(|_| anyhow!("the filler panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes as much as there is room for, once.
fn take(mut file: &File, taken: &AtomicU64) -> std::io::Result<usize> {
    let bytes = vec![1; STEP_BYTES[0]];
    let mut took = 0;
    for step in STEP_BYTES {
        match file.write(&bytes[..step]) {
            Ok(wrote) => took += wrote,
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            Err(error) => return Err(error),
        }
    }
    taken.fetch_add(took as u64, Ordering::Relaxed);
    Ok(took)
}
