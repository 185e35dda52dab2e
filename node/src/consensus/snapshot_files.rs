//! Snapshots as files: written under another name, synced, renamed, and the directory synced;
//! then older ones go. A file that is cut or damaged is not a snapshot.
//!
//! A file is: 8 bytes magic with the format's number, the length of the meta (u32, big endian),
//! a `RaftSnapshotMeta`, the checksum of the chunks (16 bytes), the chunks to the end.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use kvmesh_directory::Checksum;
use kvmesh_proto::v1 as wire;
use prost::Message;
use tracing::warn;

use super::{
    blocking::blocking,
    convert,
    snapshot_store::{SnapshotStore, Stored},
};

const MAGIC: [u8; 8] = *b"kvmsnap\x01";
const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = "unfinished";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct SnapshotFiles {
    dir: PathBuf,
}

impl SnapshotFiles {
    /// Below a node's raft directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(super) fn open(raft_dir: &Path) -> io::Result<Self> {
        let dir = raft_dir.join("snapshots");
        fs::create_dir_all(&dir)?;
        File::open(raft_dir)?.sync_all()?;
        Ok(Self { dir })
    }

    fn save_now(&self, snapshot: &Stored) -> io::Result<()> {
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        let unfinished = self.dir.join(UNFINISHED);
        let finished = self.dir.join(format!("{index:020}{SUFFIX}"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&head(snapshot))?;
        file.write_all(&snapshot.chunks)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&unfinished, &finished)?;
        File::open(&self.dir)?.sync_all()?;
        for older in self.list()? {
            if older != finished {
                fs::remove_file(older)?;
            }
        }
        Ok(())
    }

    fn load_now(&self) -> io::Result<Option<Stored>> {
        for path in self.list()? {
            match read(Bytes::from(fs::read(&path)?)) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => warn!(?path, %error, "ignoring a damaged snapshot"),
            }
        }
        Ok(None)
    }

    /// Newest first.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.ends_with(SUFFIX)) {
                paths.push(path);
            }
        }
        paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(paths)
    }
}

fn head(snapshot: &Stored) -> Vec<u8> {
    let meta = convert::meta_to_wire(&snapshot.meta).encode_to_vec();
    let length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(&meta);
    head.extend_from_slice(&Checksum::of(&snapshot.chunks).0);
    head
}

fn read(mut raw: Bytes) -> io::Result<Stored> {
    let mut take = |bytes: usize| {
        if raw.remaining() < bytes {
            return Err(io::Error::other("it is cut short"));
        }
        Ok(raw.split_to(bytes))
    };
    if take(MAGIC.len())? != MAGIC.as_slice() {
        return Err(io::Error::other("its format is unknown"));
    }
    let length = take(4)?.get_u32();
    let meta = wire::RaftSnapshotMeta::decode(take(length as usize)?)?;
    let want = take(16)?;
    if Checksum::of(&raw).0 != want.as_ref() {
        return Err(io::Error::other("its checksum does not match"));
    }
    Ok(Stored {
        meta: convert::meta_from_wire(meta).map_err(io::Error::other)?,
        chunks: raw,
    })
}

#[async_trait]
impl SnapshotStore for SnapshotFiles {
    async fn save(&self, snapshot: Stored) -> io::Result<()> {
        let files = self.clone();
        blocking(move || files.save_now(&snapshot)).await
    }

    async fn load(&self) -> io::Result<Option<Stored>> {
        let files = self.clone();
        blocking(move || files.load_now()).await
    }
}
