//! A connection to one node on this host, for one namespace.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use kvmesh_directory::{
    BlockKey, NamespaceId, NodeId, RegionId,
    limits::{LOCAL_BLOCKS_MAX, LOCAL_PACKET_BYTES_MAX, PROTOCOL_VERSION},
};
use tokio::task::yield_now;
use tracing::{info, warn};

use super::{Wanted, map::Mapping, socket::Socket};
use crate::{
    convert::{
        WireError,
        local::{Answer, Ask, End, Mapped, Request, Response},
    },
    ranges::{Pieces, PiecesAssembler, PiecesError},
};

/// Leases of so many bytes together are released at once; smaller ones in batches.
const RELEASE_BYTES: u64 = 256 << 10;
/// Leases of one batch.
const RELEASE_MAX: usize = 64;
/// Leases that end with one packet, at most.
const RELEASED_MAX: usize = 1_024;
const _: () = assert!(RELEASED_MAX * 16 <= LOCAL_PACKET_BYTES_MAX / 2);

/// Why a node on this host does not serve this client.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the node closed the connection")]
    Closed,
    #[error("the answer cannot be read")]
    Wire(#[from] WireError),
    #[error("the node refused: {0}")]
    Refused(String),
    #[error("it is a node of {0}")]
    Elsewhere(RegionId),
    #[error("the node does not answer in time")]
    Silent,
    #[error("the node is of a version that takes puts over gRPC only")]
    NoPuts,
    #[error("the answer is not to what was asked")]
    Protocol,
    #[error(transparent)]
    Block(#[from] PiecesError),
}

/// A block's bytes, where they lie.
type Places = Vec<Bytes>;

/// Blocks from the first wanted one on, and why there are no more.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) block: Vec<Pieces>,
    pub(super) end: End,
}

impl Taken {
    fn until_missing(block: Vec<Pieces>) -> Self {
        let end = End::Missing;
        Self { block, end }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    path: PathBuf,
    node: NodeId,
    wire: Arc<Wire>,
    /// One question at a time: it takes microseconds, and reading the bytes is no part of it.
    turn: tokio::sync::Mutex<Turn>,
    said: AtomicBool,
}

#[derive(Debug, Default)]
struct Turn {
    next: u64,
    segments: BTreeMap<u64, Arc<Mapping>>,
}

/// What leases hold on to: as long as one is left, the connection is.
#[derive(Debug)]
struct Wire {
    socket: Socket,
    over: AtomicBool,
    /// To be released with what is sent next.
    released: Mutex<Released>,
}

#[derive(Debug, Default)]
struct Released {
    leases: Vec<u64>,
    bytes: u64,
}

/// A block stays as it is until this is dropped.
#[derive(Debug)]
struct Lease {
    wire: Arc<Wire>,
    lease: u64,
    bytes: u64,
}

impl Session {
    /// Connects, and says for which namespace.
    pub(super) async fn open(
        path: &Path,
        namespace: NamespaceId,
        own: &RegionId,
    ) -> Result<Self, LocalError> {
        let mut session = Self {
            path: path.to_owned(),
            node: NodeId(0),
            wire: Arc::new(Wire {
                socket: Socket::connect(path)?,
                over: AtomicBool::new(false),
                released: Mutex::default(),
            }),
            turn: tokio::sync::Mutex::default(),
            said: AtomicBool::new(false),
        };
        let version = PROTOCOL_VERSION;
        let hello = Ask::Hello {
            version,
            namespace,
            puts: false,
        };
        match session.ask(hello).await? {
            (Answer::Welcome { node, region, .. }, _) if region == *own => {
                info!(%node, path = %path.display(), "blocks of a node on this host are mapped");
                session.node = node;
                Ok(session)
            }
            (Answer::Welcome { region, .. }, _) => Err(LocalError::Elsewhere(region)),
            _ => Err(LocalError::Protocol),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose blocks these are.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// The connection broke: what is leased stays readable, and no more is asked for.
    pub(super) fn is_over(&self) -> bool {
        self.wire.over.load(Ordering::Relaxed)
    }

    pub(super) fn give_up(&self) {
        self.wire.over.store(true, Ordering::Relaxed);
    }

    /// Says once why gRPC is used although the node is here.
    pub(super) fn say_once(&self, end: End) {
        if self.said.swap(true, Ordering::Relaxed) {
            return;
        }
        let why = match end {
            End::Held => "this client holds as many mapped bytes as it may",
            _ => "the node's memory that can be mapped is used up",
        };
        warn!(path = %self.path.display(), "{why}: blocks come over gRPC meanwhile");
    }

    /// The blocks of these names until the first that is not to be had, verified where that is
    /// wanted.
    pub(super) async fn get(
        &self,
        keys: &[BlockKey],
        touch: &[BlockKey],
        wanted: &Wanted<'_>,
    ) -> Result<Taken, LocalError> {
        for touch in touch.chunks(LOCAL_BLOCKS_MAX) {
            let request = Request {
                touch: touch.to_vec(),
                ..Request::default()
            };
            self.wire.socket.send(&request.pack(), &[]).await?;
        }
        let (keys, at_least) = (keys.to_vec(), wanted.at_least.to_vec());
        let (answer, parts) = self.ask(Ask::Get { keys, at_least }).await?;
        let Answer::Blocks { blocks, end } = answer else {
            return Err(LocalError::Protocol);
        };
        let mut verified = Vec::with_capacity(blocks.len());
        for (mapped, pieces) in blocks.into_iter().zip(parts) {
            let mut block = match PiecesAssembler::new(mapped.meta, wanted.ranges, &[]) {
                // gRPC says it to the caller.
                Err(PiecesError::Range(_)) => return Ok(Taken::until_missing(verified)),
                block => block?.verifying(wanted.verify),
            };
            for piece in pieces.ok_or(LocalError::Protocol)? {
                let large = piece.len() > RELEASE_BYTES as usize;
                if let Err(error) = block.push(piece) {
                    // The node's other copies may be whole: gRPC asks for it again.
                    warn!(%error, "a mapped block is not what it should be");
                    return Ok(Taken::until_missing(verified));
                }
                if large {
                    yield_now().await;
                }
            }
            verified.push(block.finish()?);
        }
        Ok(Taken {
            block: verified,
            end,
        })
    }

    /// Asks, and waits for the answer. What other answers bring, which nobody waits for any
    /// more, is released. Of each block its pieces; none: they are not where they can be.
    async fn ask(&self, ask: Ask) -> Result<(Answer, Vec<Option<Places>>), LocalError> {
        let mut turn = self.turn.lock().await;
        turn.next += 1;
        let id = turn.next;
        let request = Request {
            id,
            ask: Some(ask),
            release: self.wire.take_released(),
            touch: Vec::new(),
        };
        self.wire.socket.send(&request.pack(), &[]).await?;
        loop {
            let packet = self
                .wire
                .socket
                .receive()
                .await?
                .ok_or(LocalError::Closed)?;
            let response = Response::unpack(packet.bytes)?;
            if response.segments.len() != packet.descriptors.len() {
                return Err(LocalError::Protocol);
            }
            for ((segment, bytes), file) in response.segments.iter().zip(&packet.descriptors) {
                let mapping = Mapping::of(file, *bytes)?;
                turn.segments.insert(*segment, Arc::new(mapping));
            }
            for segment in &response.retired {
                turn.segments.remove(segment);
            }
            let parts = match &response.answer {
                Some(Answer::Blocks { blocks, .. }) => {
                    blocks.iter().map(|it| self.pieces(&turn, it)).collect()
                }
                Some(Answer::Refused(why)) => return Err(LocalError::Refused(why.clone())),
                _ => Vec::new(),
            };
            match response.answer {
                Some(answer) if response.id == id => return Ok((answer, parts)),
                _ => {}
            }
        }
    }

    /// The mapped pieces of a block, which end its lease when the last is dropped.
    fn pieces(&self, turn: &Turn, mapped: &Mapped) -> Option<Places> {
        let lease = Arc::new(Lease {
            wire: Arc::clone(&self.wire),
            lease: mapped.lease,
            bytes: mapped.meta.bytes,
        });
        let places = mapped.places.iter().enumerate();
        places
            .map(|(at, (segment, offset))| {
                let mapping = turn.segments.get(segment)?;
                mapping.view(*offset, mapped.meta.piece_len(at), Arc::clone(&lease))
            })
            .collect()
    }
}

impl Wire {
    fn released(&self) -> MutexGuard<'_, Released> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_released(&self) -> Vec<u64> {
        let mut released = self.released();
        released.bytes = 0;
        let left = released.leases.len().saturating_sub(RELEASED_MAX);
        released.leases.split_off(left)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut released = self.wire.released();
        released.leases.push(self.lease);
        released.bytes += self.bytes;
        if released.bytes < RELEASE_BYTES && released.leases.len() < RELEASE_MAX {
            return;
        }
        let left = released.leases.len().saturating_sub(RELEASED_MAX);
        let release = released.leases.split_off(left);
        let request = Request {
            release,
            ..Request::default()
        };
        // A destructor cannot wait: what cannot be sent now goes with the next question, or
        // ends with the connection.
        match self.wire.socket.try_send(&request.pack(), &[]) {
            Ok(()) => released.bytes = 0,
            Err(_) => released.leases.extend(request.release),
        }
    }
}
