//! Snapshots as files: written under another name, synced, renamed, and the directory synced;
//! then older ones go. A file that is cut or damaged is not a snapshot. A file is written and
//! read one chunk at a time, on a thread that may block.
//!
//! A file is: 8 bytes magic with the format's number, the chunks, a `RaftSnapshotMeta`, the
//! length of the meta (u32, big endian), the checksum of chunks and meta (16 bytes).
//! Format 1 had the meta's length, the meta and the checksum of the chunks before the chunks.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use kvmesh_directory::{Checksum, DirectoryState, RunningChecksum};
use kvmesh_proto::v1 as wire;
use prost::Message;
use tracing::warn;

use super::{
    blocking::blocking,
    convert,
    raft::SnapshotMeta,
    reserve::{Growing, Reserve},
    snapshot_codec::{Decoder, Encoder, identified, verify, wanted},
    snapshot_data::{FilePart, SnapshotData},
    snapshot_store::SnapshotStore,
};

const MAGIC: [u8; 8] = *b"kvmsnap\x02";
const MAGIC_1: [u8; 8] = *b"kvmsnap\x01";
const SUFFIX: &str = ".snapshot";
const BUILT: &str = "unfinished";
const RECEIVED: &str = "received";
/// Length of the meta and checksum.
const FOOT_BYTES: u64 = 4 + 16;
/// Bytes of a meta: members and an id.
const META_BYTES_MAX: u64 = 16 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct SnapshotFiles {
    dir: PathBuf,
    reserve: Reserve,
}

/// What a file says about itself; not verified yet.
struct Outline {
    meta: SnapshotMeta,
    raw_meta: Vec<u8>,
    start: u64,
    end: u64,
    checksum: Vec<u8>,
    format_1: bool,
}

fn cut() -> io::Error {
    io::Error::other("it is cut short")
}

impl Outline {
    fn read(file: &mut File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut magic = [0; 8];
        file.read_exact(&mut magic).map_err(|_| cut())?;
        match magic {
            MAGIC => Self::read_foot(file, length),
            MAGIC_1 => Self::read_head(file, length),
            _ => Err(io::Error::other("its format is unknown")),
        }
    }

    fn read_foot(file: &mut File, length: u64) -> io::Result<Self> {
        let foot = length.checked_sub(FOOT_BYTES).ok_or_else(cut)?;
        file.seek(SeekFrom::Start(foot))?;
        let (meta_bytes, checksum) = (read_length(file)?, read_some(file, 16)?);
        let end = foot.checked_sub(meta_bytes).ok_or_else(cut)?;
        file.seek(SeekFrom::Start(end))?;
        let raw_meta = read_some(file, meta_bytes)?;
        Ok(Self {
            meta: decode_meta(&raw_meta)?,
            raw_meta,
            start: MAGIC.len() as u64,
            end,
            checksum,
            format_1: false,
        })
    }

    fn read_head(file: &mut File, length: u64) -> io::Result<Self> {
        let meta_bytes = read_length(file)?;
        let raw_meta = read_some(file, meta_bytes)?;
        Ok(Self {
            meta: decode_meta(&raw_meta)?,
            raw_meta,
            checksum: read_some(file, 16)?,
            start: file.stream_position()?,
            end: length,
            format_1: true,
        })
    }

    fn verify(&self, mut running: RunningChecksum) -> io::Result<()> {
        if !self.format_1 {
            running.update(&self.raw_meta);
        }
        if running.checksum().0 != self.checksum.as_slice() {
            return Err(io::Error::other("its checksum does not match"));
        }
        Ok(())
    }
}

fn read_length(file: &mut File) -> io::Result<u64> {
    let mut raw = [0; 4];
    file.read_exact(&mut raw).map_err(|_| cut())?;
    Ok(u64::from(u32::from_be_bytes(raw)))
}

fn read_some(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    if bytes > META_BYTES_MAX {
        return Err(io::Error::other("its meta is larger than any is"));
    }
    let mut raw = Vec::new();
    file.take(bytes).read_to_end(&mut raw)?;
    match raw.len() as u64 == bytes {
        true => Ok(raw),
        false => Err(cut()),
    }
}

fn decode_meta(raw: &[u8]) -> io::Result<SnapshotMeta> {
    let meta = wire::RaftSnapshotMeta::decode(raw)?;
    convert::meta_from_wire(meta).map_err(io::Error::other)
}

/// Decodes the chunks between two offsets.
fn decode(file: &mut File, start: u64, end: u64) -> io::Result<(DirectoryState, RunningChecksum)> {
    file.seek(SeekFrom::Start(start))?;
    let chunks = BufReader::with_capacity(BUFFER_BYTES, file.take(end - start));
    let mut decoder = Decoder::new(chunks);
    let state = loop {
        if let Some(state) = decoder.step()? {
            break state;
        }
    };
    Ok((state, decoder.finish()?.1))
}

/// Writes what stands behind the chunks.
fn write_foot(
    out: &mut impl Write,
    meta: &SnapshotMeta,
    mut running: RunningChecksum,
) -> io::Result<()> {
    let raw = convert::meta_to_wire(meta).encode_to_vec();
    running.update(&raw);
    out.write_all(&raw)?;
    let length = u32::try_from(raw.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&running.checksum().0)
}

impl SnapshotFiles {
    /// Below a node's raft directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(super) fn open(raft_dir: &Path, reserve: Reserve) -> io::Result<Self> {
        let dir = raft_dir.join("snapshots");
        fs::create_dir_all(&dir)?;
        File::open(raft_dir)?.sync_all()?;
        let files = Self { dir, reserve };
        for unfinished in [BUILT, RECEIVED] {
            files.remove(unfinished)?;
        }
        Ok(files)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A new empty file; one of that name that somebody still has open stays as it is.
    fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let mut file = options.open(self.dir.join(name))?;
        file.write_all(&MAGIC)?;
        Ok(file)
    }

    fn build_now(&self, mut meta: SnapshotMeta, state: DirectoryState) -> io::Result<SnapshotMeta> {
        let file = Growing::new(self.create(BUILT)?, self.reserve.clone());
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut encoder = Encoder::new(state, file);
        while encoder.step()? {}
        let (mut file, running) = encoder.finish();
        meta.snapshot_id = identified(meta.last_log_id, running.checksum());
        write_foot(&mut file, &meta, running)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let file = file.into_file();
        self.keep(BUILT, &file, &meta)?;
        Ok(meta)
    }

    fn finish_now(&self, meta: &SnapshotMeta, mut file: File) -> io::Result<DirectoryState> {
        let end = file.metadata()?.len();
        let (state, running) = decode(&mut file, MAGIC.len() as u64, end)?;
        verify(meta, running.checksum())?;
        file.seek(SeekFrom::Start(end))?;
        self.reserve.keep_ahead(&file, META_BYTES_MAX)?;
        write_foot(&mut file, meta, running)?;
        self.keep(RECEIVED, &file, meta)?;
        Ok(state)
    }

    /// Makes a whole file the newest snapshot, unless a newer one came meanwhile.
    fn keep(&self, name: &str, file: &File, meta: &SnapshotMeta) -> io::Result<()> {
        // What is allocated behind its end goes back.
        file.set_len(file.metadata()?.len())?;
        file.sync_all()?;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let finished = self.dir.join(format!("{index:020}{SUFFIX}"));
        fs::rename(self.dir.join(name), &finished)?;
        File::open(&self.dir)?.sync_all()?;
        for older in self.list()?.into_iter().skip(1) {
            fs::remove_file(older)?;
        }
        Ok(())
    }

    fn open_now(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData)>> {
        let Some(path) = self.list()?.into_iter().next() else {
            return Ok(None);
        };
        let mut file = File::open(path)?;
        let outline = Outline::read(&mut file)?;
        let part = FilePart::sent(file, outline.start, outline.end);
        Ok(Some((outline.meta, SnapshotData::File(part))))
    }

    fn load_now(&self) -> io::Result<Option<(SnapshotMeta, DirectoryState)>> {
        for path in self.list()? {
            match load(&path) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(error) => {
                    // It must not be sent as the newest one, nor hide a whole one.
                    warn!(?path, %error, "ignoring a damaged snapshot");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
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

/// Reads what was received once, without decoding it where its id has a checksum.
fn is_whole(meta: &SnapshotMeta, file: &mut File) -> io::Result<bool> {
    let (start, end) = (MAGIC.len() as u64, file.metadata()?.len());
    let Some(wanted) = wanted(meta) else {
        return Ok(decode(file, start, end).is_ok());
    };
    file.seek(SeekFrom::Start(start))?;
    let (mut running, mut buffer) = (Checksum::running(), vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(wanted == running.checksum().to_string()),
            read => running.update(&buffer[..read]),
        }
    }
}

fn load(path: &Path) -> io::Result<(SnapshotMeta, DirectoryState)> {
    let mut file = File::open(path)?;
    let outline = Outline::read(&mut file)?;
    let (state, running) = decode(&mut file, outline.start, outline.end)?;
    outline.verify(running)?;
    Ok((outline.meta, state))
}

#[async_trait]
impl SnapshotStore for SnapshotFiles {
    async fn build(&self, meta: SnapshotMeta, state: DirectoryState) -> io::Result<SnapshotMeta> {
        let files = self.clone();
        // The frozen directory goes on that thread, too: letting it go takes long.
        blocking(move || files.build_now(meta, state)).await
    }

    async fn open(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData)>> {
        let files = self.clone();
        blocking(move || files.open_now()).await
    }

    async fn load(&self) -> io::Result<Option<(SnapshotMeta, DirectoryState)>> {
        let files = self.clone();
        blocking(move || files.load_now()).await
    }

    async fn bytes(&self) -> io::Result<u64> {
        let files = self.clone();
        blocking(move || match files.list()?.first() {
            Some(path) => Ok(fs::metadata(path)?.len()),
            None => Ok(0),
        })
        .await
    }

    async fn is_whole(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<bool> {
        let SnapshotData::File(part) = data else {
            return Err(io::Error::other("it was not received into a file"));
        };
        let (meta, mut file) = (meta.clone(), part.reader().await?);
        blocking(move || is_whole(&meta, &mut file)).await
    }

    async fn begin(&self) -> io::Result<SnapshotData> {
        let files = self.clone();
        let file = blocking(move || files.create(RECEIVED)).await?;
        let part = FilePart::received(file, MAGIC.len() as u64, self.reserve.clone())?;
        Ok(SnapshotData::File(part))
    }

    async fn finish(&self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<DirectoryState> {
        let SnapshotData::File(part) = data else {
            return Err(io::Error::other("it was not received into a file"));
        };
        let (files, meta, file) = (self.clone(), meta.clone(), part.into_file().await);
        blocking(move || files.finish_now(&meta, file)).await
    }

    fn discard(&self, state: DirectoryState) {
        // Not waited for: the runtime's end waits for it, and nothing else depends on it.
        drop(tokio::task::spawn_blocking(move || drop(state)));
    }
}
