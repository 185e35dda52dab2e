//! The Raft log as openraft sees it, over a [`LogDisk`].
//!
//! Recent entries are kept in memory, bounded, because replication and `apply` read them
//! right after they were written; older ones are read back from the disk.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use kvmesh_proto::{raft_entry::RaftEntry, v1 as wire};
use openraft::{
    ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};
use prost::Message;

use super::{
    admission::Admission,
    convert,
    log_disk::{LogDisk, Mark},
    raft::{Entry, LogId, StorageError, TypeConfig, Vote},
    snapshot_policy::Written,
};

/// Bytes of encoded entries whose decoded form is kept in memory.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// Bytes of entries that are sent to a follower at once: it must answer within a heartbeat.
const REPLICATE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl Recent {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.bytes > CACHE_BYTES_MAX && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn truncate(&mut self, from: u64) {
        while let Some((_, bytes)) = self
            .entries
            .pop_back_if(|(entry, _)| entry.log_id.index >= from)
        {
            self.bytes -= bytes;
        }
    }

    fn purge(&mut self, up_to: LogId) {
        while let Some((first, _)) = self.entries.front()
            && first.log_id.index <= up_to.index
        {
            self.pop_front();
        }
        self.purged = Some(up_to);
        self.last = self.last.max(Some(up_to));
    }

    /// Entries of a range, when all of it is here.
    fn range(&self, from: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let wanted = self.entries.iter().skip(skip).take_while(|(entry, size)| {
            let leading = bytes == 0;
            bytes += size;
            entry.log_id.index < end && (leading || bytes <= bytes_max)
        });
        Some(wanted.map(|(entry, _)| entry.clone()).collect())
    }
}

/// See the module. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    disk: Arc<dyn LogDisk>,
    recent: Arc<Mutex<Recent>>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    admission: Arc<Admission>,
    written: Written,
}

impl LogStore {
    /// Reads what the disk has.
    ///
    /// # Errors
    /// When the disk fails or what it has cannot be read.
    pub(super) async fn open(disk: Arc<dyn LogDisk>) -> io::Result<Self> {
        let found = disk.load().await?;
        let vote = found.vote.map(|raw| {
            let vote = wire::RaftVote::decode(raw)?;
            convert::vote_from_wire(Some(vote)).map_err(io::Error::other)
        });
        let purged = found.purged.map(decode_log_id).transpose()?;
        let last = found.last.map(decode_entry).transpose()?;
        let recent = Recent {
            last: purged.max(last.map(|entry| entry.log_id)),
            purged,
            ..Recent::default()
        };
        let admission = Admission::new(Arc::clone(&disk), found.store, found.admitted);
        Ok(Self {
            admission: Arc::new(admission),
            written: Written::default(),
            disk,
            recent: Arc::new(Mutex::new(recent)),
            vote: vote.transpose()?,
            committed: found.committed.map(decode_log_id).transpose()?,
        })
    }

    /// Whether the store may vote.
    pub(super) fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.admission)
    }

    /// Counts the bytes that are written.
    pub(super) fn written(&self) -> Written {
        self.written.clone()
    }

    /// Bytes of the entries behind an index.
    pub(super) async fn bytes_after(&self, index: u64) -> io::Result<u64> {
        self.disk.bytes_after(index).await
    }

    /// The last entry that was purged.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.recent().purged
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, from: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if from >= end {
            return Ok(Vec::new());
        }
        let recent = self.recent().range(from, end, bytes_max);
        if let Some(entries) = recent {
            return Ok(entries);
        }
        let raw = self.disk.read(from, end, bytes_max).await?;
        raw.into_iter().map(decode_entry).collect()
    }
}

fn decode_log_id(raw: Bytes) -> io::Result<LogId> {
    Ok(convert::log_id_from_wire(wire::RaftLogId::decode(raw)?))
}

fn decode_entry(raw: Bytes) -> io::Result<Entry> {
    convert::entry_from_wire(RaftEntry::decode(raw)?).map_err(io::Error::other)
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn failed(subject: ErrorSubject<u64>, verb: ErrorVerb) -> impl FnOnce(io::Error) -> StorageError {
    move |error| StorageError::from_io_error(subject, verb, error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let read = self.read(from, end, usize::MAX).await;
        read.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))
    }

    async fn limited_get_log_entries(
        &mut self,
        from: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let read = self.read(from, end, REPLICATE_BYTES_MAX).await;
        read.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let recent = self.recent();
        Ok(LogState {
            last_purged_log_id: recent.purged,
            last_log_id: recent.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let raw = encode(&convert::vote_to_wire(vote));
        let saved = self.disk.save(Mark::Vote, raw).await;
        saved.map_err(failed(ErrorSubject::Vote, ErrorVerb::Write))?;
        self.vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(id) = &committed {
            let raw = encode(&convert::log_id_to_wire(id));
            let saved = self.disk.save(Mark::Committed, raw).await;
            saved.map_err(failed(ErrorSubject::Logs, ErrorVerb::Write))?;
        }
        self.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut recent = self.recent();
            for entry in entries {
                let raw = encode(&convert::entry_to_wire(&entry));
                self.written.add(raw.len() as u64);
                encoded.push((entry.log_id.index, raw.clone()));
                recent.push(entry, raw.len());
            }
        }
        callback.log_io_completed(self.disk.append(encoded).await);
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let truncated = self.disk.truncate(since.index).await;
        truncated.map_err(failed(ErrorSubject::Logs, ErrorVerb::Delete))?;
        self.recent().truncate(since.index);
        let last = match since.index.checked_sub(1) {
            Some(before) => {
                let read = self.read(before, since.index, usize::MAX).await;
                read.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))?
                    .first()
                    .map(|entry| entry.log_id)
            }
            None => None,
        };
        let mut recent = self.recent();
        recent.last = last.or(recent.purged);
        Ok(())
    }

    async fn purge(&mut self, up_to: LogId) -> Result<(), StorageError> {
        let raw = encode(&convert::log_id_to_wire(&up_to));
        let purged = self.disk.purge(up_to.index, raw).await;
        purged.map_err(failed(ErrorSubject::Logs, ErrorVerb::Delete))?;
        self.recent().purge(up_to);
        Ok(())
    }
}
