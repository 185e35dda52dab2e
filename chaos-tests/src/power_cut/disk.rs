//! A file system of its own in a file, whose power can be cut.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Sparse: what is not written takes nothing.
const BYTES: u64 = 6 << 30;
/// `EXT4_IOC_SHUTDOWN` without flushing its journal: what a power cut leaves.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

/// Unmounted when it is dropped.
pub(super) struct Disk {
    image: PathBuf,
    pub(super) path: PathBuf,
}

impl Disk {
    /// Makes and mounts one.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let disk = Self {
            image: folder.join("disk.ext4"),
            path: folder.join("disk"),
        };
        File::create(&disk.image)?.set_len(BYTES)?;
        fs::create_dir_all(&disk.path)?;
        ran(Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        ran(mount.args(["-o", "loop"]).arg(&self.image).arg(&self.path))
    }

    /// From now on nothing reaches it, and what has not reached it is lost.
    pub(super) fn cut(&self) -> Result<()> {
        let mut python = Command::new("python3");
        ran(python.args(["-c", SHUTDOWN]).arg(&self.path))
    }

    /// Mounts it anew after a cut; nobody may have it open.
    pub(super) fn power_on(&self) -> Result<()> {
        ran(Command::new("umount").arg(&self.path))?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has it open lets it go when it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn ran(command: &mut Command) -> Result<()> {
    let output = command.output();
    let output = output.with_context(|| format!("{command:?} cannot be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} failed (power cuts need root, loop devices, mkfs.ext4 and python3): {said}"
    );
    Ok(())
}
