//! Segments as files of a directory, read and written past the page cache where the file
//! system can do that.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};

use super::io::{Files, SegmentFile, Space};

const SUFFIX: &str = ".segment";

/// See the module. One process has a directory at a time.
pub(super) struct DirectFiles {
    dir: PathBuf,
    _lock: File,
}

impl DirectFiles {
    /// Takes a directory, made when it is not there. `WouldBlock`: another process has it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = File::create(dir.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(format!("{segment:016x}{SUFFIX}"))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl Files for DirectFiles {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            segments.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn create(&self, segment: u64, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.path(segment);
        let file = File::create_new(&path)?;
        let made = || {
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
            file.sync_all()?;
            self.sync_dir()?;
            self.open(segment)
        };
        made().inspect_err(|_| {
            // Half of one would take its room.
            let _ = fs::remove_file(&path);
        })
    }

    fn open(&self, segment: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.path(segment);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let direct = OFlags::DIRECT.bits().cast_signed();
        let file = match options.clone().custom_flags(direct).open(&path) {
            // Not every file system can.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(&path)?,
            opened => opened?,
        };
        let bytes = AtomicU64::new(file.metadata()?.len());
        Ok(Arc::new(DirectFile { file, bytes }))
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        fs::remove_file(self.path(segment))
    }

    fn space(&self) -> io::Result<Space> {
        let stat = statvfs(&self.dir)?;
        // What is reserved for root is neither used nor free, as `df` has it.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space {
            total: (used + stat.f_bavail).saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

struct DirectFile {
    file: File,
    bytes: AtomicU64,
}

impl SegmentFile for DirectFile {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(from, offset)
    }

    fn resize(&self, bytes: u64) -> io::Result<()> {
        match bytes > self.bytes() {
            true => fallocate(&self.file, FallocateFlags::empty(), 0, bytes)?,
            false => self.file.set_len(bytes)?,
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        self.file.sync_all()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{aligned::Aligned, record::ALIGN};

    #[test]
    fn segments_are_made_listed_read_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = DirectFiles::open(dir.path()).unwrap();
        let taken = DirectFiles::open(dir.path()).err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::WouldBlock);
        for number in [3, 1] {
            assert_eq!(files.create(number, 4 * ALIGN).unwrap().bytes(), 4 * ALIGN);
        }
        assert!(files.create(1, ALIGN).is_err(), "it exists");
        fs::write(dir.path().join("else"), b"not ours").unwrap();
        let file = files.open(3).unwrap();
        let mut memory = Aligned::zeroed(ALIGN);
        memory.fill(7);
        file.write(&memory, 2 * ALIGN).unwrap();
        file.sync().unwrap();
        files.remove(3).unwrap();
        assert_eq!(files.list().unwrap(), [1]);
        let mut read = Aligned::zeroed(2 * ALIGN);
        file.read(&mut read, ALIGN).unwrap();
        assert!(read[..ALIGN as usize].iter().all(|byte| *byte == 0));
        assert_eq!(read[ALIGN as usize..], memory[..]);
        assert!(file.read(&mut read, 3 * ALIGN).is_err(), "past the end");
        file.resize(2 * ALIGN).unwrap();
        assert!(file.read(&mut read, ALIGN).is_err(), "it is cut");
        file.resize(4 * ALIGN).unwrap();
        assert_eq!(file.bytes(), 4 * ALIGN);
        file.read(&mut read, 2 * ALIGN).unwrap();
        assert!(read.iter().all(|byte| *byte == 0), "what was cut is gone");
        let space = files.space().unwrap();
        assert!(space.free > 0 && space.free <= space.total);
    }
}
