//! Opens a disk tier: takes the directory, reads back what is there, begins to write.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, stream};
use kvmesh_client::random;
use kvmesh_directory::{Checksum, Copy, CopyNumber, Incarnation, LogIncarnation, NodeId};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    DiskTier,
    files::DirectFiles,
    index::Place,
    io::Files,
    owner::Owner,
    reclaim::Reclaimer,
    record::Header,
    recover::{Recovered, recover},
    segment::Segment,
    shared::{Shape, Shared, count},
    writer,
};
use crate::store::{Brief, CopyKey, pool::Pool};

/// Segments that are read back at a time.
const RECOVERIES: usize = 4;
/// How long one of them may take.
const RECOVERY_MAX: Duration = Duration::from_secs(120);
/// How long another process may take to let the directory go.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Of the memory for blocks, what the books of copies on disk may take, and as much the queue.
const MEMORY_PART: u64 = 8;
/// Of blocks that wait to be written, at most.
const QUEUE_BYTES_MAX: u64 = 512 << 20;
/// What the books of one copy take in memory.
const COPY_BOOKS_BYTES: u64 = 1_024;

/// What a disk tier is made of.
#[derive(Debug, Clone)]
pub struct DiskSettings {
    /// Where its files are.
    pub dir: PathBuf,
    /// Its budget; 0: all that `stop_percent` leaves.
    pub disk_bytes: u64,
    /// Over so much of the file system nothing is written.
    pub stop_percent: u64,
    /// Memory for blocks: the books of what is on disk are bounded by a part of it.
    pub memory_bytes: u64,
    /// Whose it is.
    pub node: NodeId,
    /// Of which region.
    pub region: String,
}

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read or written.
    #[error("{path} cannot be used for blocks")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to another node.
    #[error(
        "{path} has blocks of node {found_node} of region {found_region}: \
         name another disk_dir, or remove what is there"
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found_node: NodeId,
        /// Of which region.
        found_region: String,
    },
}

/// A copy that was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number is of no start: it must be claimed under another one.
    pub key: CopyKey,
    /// What it is.
    pub brief: Brief,
    /// The region's log when it was written.
    pub log: LogIncarnation,
}

/// A disk tier and the parts that must run for it.
pub struct Opened {
    /// The tier.
    pub tier: DiskTier,
    /// Writes.
    pub writer: Writer,
    /// Makes room.
    pub reclaimer: Reclaimer,
    /// What is there.
    pub found: Vec<Found>,
}

/// The one task that writes.
pub struct Writer {
    shared: Arc<Shared>,
    orders: mpsc::Receiver<writer::Order>,
}

impl Writer {
    /// Runs until `stop`, and until what waits then is written.
    pub async fn run(self, stop: CancellationToken) {
        writer::run(self.shared, self.orders, stop).await;
    }
}

/// Opens a disk tier.
///
/// # Errors
/// When the directory cannot be used, or belongs to another node. A segment that cannot be
/// read is left out.
pub async fn open(settings: &DiskSettings) -> Result<Opened, OpenError> {
    let io = |source: io::Error| OpenError::Io {
        path: settings.dir.clone(),
        source,
    };
    let until = Instant::now() + LOCK_WAIT;
    let (files, owner) = loop {
        match taken(settings).await {
            // The process before this one may be on its way out.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                sleep(LOCK_PAUSE).await;
            }
            taken => break taken.map_err(io)?,
        }
    };
    if (owner.node, &owner.region) != (settings.node, &settings.region) {
        return Err(OpenError::Foreign {
            path: settings.dir.clone(),
            found_node: owner.node,
            found_region: owner.region,
        });
    }
    let disk_bytes = match settings.disk_bytes {
        0 => files.space().map_err(io)?.total / 100 * settings.stop_percent,
        bytes => bytes,
    };
    let for_books = settings.memory_bytes / MEMORY_PART;
    let shape = Shape {
        disk_bytes,
        segment_bytes: Shape::segment_of(disk_bytes),
        stop_percent: settings.stop_percent,
        copies_max: (for_books / COPY_BOOKS_BYTES) as usize,
        queue_bytes: for_books.min(QUEUE_BYTES_MAX),
    };
    open_files(Arc::new(files), shape, owner.store, settings.node)
        .await
        .map_err(io)
}

async fn taken(settings: &DiskSettings) -> io::Result<(DirectFiles, Owner)> {
    let (dir, node, region) = (settings.dir.clone(), settings.node, settings.region.clone());
    let taking = tokio::task::spawn_blocking(move || take(&dir, node, region));
    taking.await.map_err(io::Error::other)?
}

fn take(dir: &Path, node: NodeId, region: String) -> io::Result<(DirectFiles, Owner)> {
    let files = DirectFiles::open(dir)?;
    let mut store = [0; 16];
    store[..8].copy_from_slice(&random::word().to_be_bytes());
    store[8..].copy_from_slice(&random::word().to_be_bytes());
    let owner = Owner::of(
        dir,
        Owner {
            node,
            region,
            store,
        },
    )?;
    Ok((files, owner))
}

/// As [`open`], over any files.
pub(super) async fn open_files(
    files: Arc<dyn Files>,
    shape: Shape,
    store: [u8; 16],
    node: NodeId,
) -> io::Result<Opened> {
    let shared = Arc::new(Shared::new(files, shape, store));
    let numbers = shared.files.list()?;
    shared.state().next = numbers.last().copied().unwrap_or(0);
    let pool = Pool::new(RECOVERIES, RECOVERY_MAX);
    let mut copies = Copies::new(node);
    let reading = stream::iter(numbers).map(|number| {
        let (files, pool) = (Arc::clone(&shared.files), pool.clone());
        async move {
            let read = pool.run(move || read_back(&*files, store, number)).await;
            (number, read)
        }
    });
    let taking = reading.buffered(RECOVERIES).for_each(|(number, read)| {
        match read {
            Ok((segment, recovered)) => copies.take(&shared, &segment, recovered),
            Err(error) => warn!(%error, number, "a segment cannot be read: it is left out"),
        }
        futures::future::ready(())
    });
    taking.await;
    let found = copies.found();
    info!(
        blocks = found.len(),
        torn = copies.torn,
        "read the disk back"
    );
    shared.begins_with(shared.files.space()?);
    let (left, disk_bytes) = (shared.ceiling(), shape.disk_bytes);
    if left < disk_bytes {
        info!(
            left,
            disk_bytes, "others on the file system leave less than the budget"
        );
    }
    let (sender, orders) = mpsc::channel(writer::ORDERS_MAX);
    let tier = DiskTier {
        shared: Arc::clone(&shared),
        orders: sender,
    };
    let writer = Writer {
        shared: Arc::clone(&shared),
        orders,
    };
    Ok(Opened {
        tier,
        writer,
        reclaimer: Reclaimer::new(shared),
        found,
    })
}

fn read_back(files: &dyn Files, store: [u8; 16], number: u64) -> io::Result<(Segment, Recovered)> {
    let segment = Segment {
        store,
        number,
        file: files.open(number)?,
    };
    let recovered = recover(&segment)?;
    Ok((segment, recovered))
}

/// What was found so far: of one content of one name, the copy that was put last.
struct Copies {
    node: NodeId,
    numbers: u64,
    torn: u64,
    newest: BTreeMap<(kvmesh_directory::BlockName, Checksum), Found>,
}

impl Copies {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            numbers: 0,
            torn: 0,
            newest: BTreeMap::new(),
        }
    }

    fn take(&mut self, shared: &Shared, segment: &Segment, recovered: Recovered) {
        self.torn += recovered.torn;
        count(&shared.counts.torn, recovered.torn);
        let (number, end, bytes) = (segment.number, recovered.end, segment.file.bytes());
        let mut state = shared.state();
        state.index.open(number, bytes);
        state.index.close(number, end, bytes);
        state.open.insert(number, segment.clone());
        let has_room = recovered.records.len() <= shared.shape.segment_copies() / 2;
        if has_room && end <= shared.shape.segment_bytes / 2 {
            state.resumable.insert((end, number));
        }
        for (offset, header) in recovered.records {
            let place = Place {
                segment: segment.number,
                offset,
                bytes: header.record_bytes(),
            };
            let found = self.number(&header);
            state.index.found(found.key, place, found.brief, found.log);
            let content = (header.name, header.meta.checksum);
            let older = match self.newest.get(&content) {
                Some(known) if known.brief.put_hlc > found.brief.put_hlc => Some(found),
                _ => self.newest.insert(content, found),
            };
            if let Some(older) = older {
                state.index.remove(&older.key);
            }
        }
    }

    fn number(&mut self, header: &Header) -> Found {
        self.numbers += 1;
        let copy = Copy {
            node: self.node,
            incarnation: Incarnation(0),
            copy: CopyNumber(self.numbers),
        };
        Found {
            key: CopyKey {
                name: header.name,
                copy,
            },
            brief: Brief::of(&header.meta),
            log: header.log,
        }
    }

    fn found(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.newest).into_values().collect()
    }
}

#[cfg(test)]
#[path = "restart_test.rs"]
mod restart_test;
