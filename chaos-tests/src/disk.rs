//! A file system of its own in a file, which can be full and whose power can be cut.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// `EXT4_IOC_SHUTDOWN` without flushing its journal: what a power cut leaves.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

/// Unmounted when it is dropped.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) path: PathBuf,
}

impl Disk {
    /// Makes and mounts one of so many bytes. Sparse: what is not written takes nothing.
    pub(crate) fn new(folder: &Path, bytes: u64) -> Result<Self> {
        let disk = Self {
            image: folder.join("disk.ext4"),
            path: folder.join("disk"),
        };
        File::create(&disk.image)?.set_len(bytes)?;
        fs::create_dir_all(&disk.path)?;
        ran(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        ran(mount.args(["-o", "loop"]).arg(&self.image).arg(&self.path))
    }

    /// From now on nothing reaches it, and what has not reached it is lost.
    pub(crate) fn cut(&self) -> Result<()> {
        let mut python = Command::new("python3");
        ran(python.args(["-c", SHUTDOWN]).arg(&self.path))
    }

    /// Mounts it anew after a cut; nobody may have it open.
    pub(crate) fn power_on(&self) -> Result<()> {
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
        "{command:?} failed (a disk needs root, loop devices and mkfs.ext4, cutting its power python3): \
         {said}"
    );
    Ok(())
}
