//! A directory as length-delimited `SnapshotChunk`s and back, one chunk in memory at a time.
//!
//! The checksum of the chunks travels at the end of the snapshot's id, so that whoever
//! received them all can verify them. Snapshots of earlier builds have none.

use std::io::{self, BufRead, Read, Write};

use bytes::Bytes;
use kvmesh_client::convert::snapshot;
use kvmesh_directory::{Checksum, DirectoryState, RunningChecksum};
use kvmesh_proto::v1 as wire;
use prost::Message;

use super::raft::{LogId, SnapshotMeta};

/// Bytes of one chunk: a head has at most the region's namespaces, other chunks are far smaller.
const CHUNK_BYTES_MAX: u64 = 256 << 20;

/// The id of a snapshot that was just made. The checksum is a hex number after the last `#`.
pub(super) fn identified(last: Option<LogId>, checksum: Checksum) -> String {
    let last = last.map(|id| id.to_string()).unwrap_or_default();
    format!("{last}#{checksum}")
}

/// The checksum that a snapshot's id names.
pub(super) fn wanted(meta: &SnapshotMeta) -> Option<&str> {
    Some(meta.snapshot_id.rsplit_once('#')?.1)
}

/// Whether chunks have the checksum that their snapshot's id names.
pub(super) fn verify(meta: &SnapshotMeta, got: Checksum) -> io::Result<()> {
    match wanted(meta) {
        Some(wanted) if wanted != got.to_string() => {
            Err(io::Error::other("its checksum does not match"))
        }
        _ => Ok(()),
    }
}

/// Makes the chunks of a frozen directory.
pub(super) struct Encoder<W> {
    chunks: Box<dyn Iterator<Item = wire::SnapshotChunk> + Send>,
    out: W,
    running: RunningChecksum,
    buffer: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(state: DirectoryState, out: W) -> Self {
        Self {
            chunks: Box::new(snapshot::chunks(state)),
            out,
            running: Checksum::running(),
            buffer: Vec::new(),
        }
    }

    /// Writes one chunk; false: there is none left.
    pub(super) fn step(&mut self) -> io::Result<bool> {
        let Some(chunk) = self.chunks.next() else {
            return Ok(false);
        };
        self.buffer.clear();
        chunk.encode_length_delimited(&mut self.buffer)?;
        self.running.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        Ok(true)
    }

    /// What was written to, and the checksum of the chunks.
    pub(super) fn finish(self) -> (W, RunningChecksum) {
        (self.out, self.running)
    }
}

/// Puts a directory together from its chunks.
pub(super) struct Decoder<R> {
    input: R,
    assembler: snapshot::Assembler,
    running: RunningChecksum,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            assembler: snapshot::Assembler::new(),
            running: Checksum::running(),
        }
    }

    /// Takes in one chunk; the directory after the last one.
    pub(super) fn step(&mut self) -> io::Result<Option<DirectoryState>> {
        let length = self.length()?;
        if length > CHUNK_BYTES_MAX {
            return Err(io::Error::other("one of its chunks is larger than any is"));
        }
        let mut raw = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut raw)?;
        if raw.len() as u64 != length {
            return Err(io::Error::other("it is cut short"));
        }
        self.running.update(&raw);
        let chunk = wire::SnapshotChunk::decode(Bytes::from(raw))?;
        self.assembler.push(chunk).map_err(io::Error::other)
    }

    /// A length: a varint of at most ten bytes.
    fn length(&mut self) -> io::Result<u64> {
        let mut raw = Vec::new();
        loop {
            let mut byte = [0];
            if self.input.read(&mut byte)? == 0 {
                return Err(io::Error::other("it has no last chunk"));
            }
            raw.push(byte[0]);
            if byte[0] < 0x80 || raw.len() == 10 {
                break;
            }
        }
        self.running.update(&raw);
        Ok(prost::decode_length_delimiter(raw.as_slice())? as u64)
    }

    /// The checksum of the chunks, to the end of the input.
    pub(super) fn finish(mut self) -> io::Result<(R, RunningChecksum)> {
        loop {
            let left = self.input.fill_buf()?;
            if left.is_empty() {
                return Ok((self.input, self.running));
            }
            self.running.update(left);
            let taken = left.len();
            self.input.consume(taken);
        }
    }
}
