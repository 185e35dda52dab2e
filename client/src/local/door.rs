//! Connections to nodes on this host to put blocks through: one put at a time on each, kept for
//! the next one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kvmesh_directory::{NamespaceId, NodeId, RegionId, limits::PROTOCOL_VERSION};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::{
    ANSWER_WAIT, LOOK_EVERY, map::Staging, places::Places, session::LocalError, socket::Socket,
    sockets,
};
use crate::convert::local::{Answer, Ask, Request, Response};

/// Connections to a node that are kept while nothing is put.
const IDLE_MAX: usize = 4;
/// Who answers at a socket is asked again after so long: another node may have taken it.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Where a connection could not be had, none is asked for so long, and twice as long each time
/// after.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The ways to the nodes on this host, for one namespace.
#[derive(Debug, Default)]
pub(super) struct Doors(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    places: BTreeMap<PathBuf, Place>,
}

/// A node's socket.
#[derive(Debug, Default)]
struct Place {
    /// Who answered there last, and when.
    node: Option<(NodeId, Instant)>,
    idle: Vec<Connection>,
    /// Until when, and for how long.
    resting: Option<(Instant, Duration)>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) staging: Staging,
    pub(super) places: Places,
    node: NodeId,
    path: PathBuf,
}

/// A connection for one put.
#[derive(Debug)]
pub(crate) struct Door {
    pub(super) connection: Connection,
    pub(super) home: Arc<Doors>,
}

impl Doors {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a node, kept or new.
    pub(super) async fn open(
        self: &Arc<Self>,
        place: &Path,
        (namespace, node): (NamespaceId, NodeId),
        region: &RegionId,
    ) -> Option<Door> {
        let home = || Arc::clone(self);
        let kept = || self.known().idle(node);
        while let Some(connection) = kept() {
            // Some the node has closed meanwhile.
            if connection.socket.is_quiet() {
                return Some(Door {
                    connection,
                    home: home(),
                });
            }
        }
        let paths = self.known().paths_to_try(place, node);
        for path in paths {
            let opening = Connection::open(&path, namespace, region);
            let opened = timeout(ANSWER_WAIT, opening).await;
            let mut known = self.known();
            let place = known.places.entry(path).or_default();
            match opened.unwrap_or(Err(LocalError::Silent)) {
                Ok(connection) if connection.node == node => {
                    place.answered(node);
                    return Some(Door {
                        connection,
                        home: home(),
                    });
                }
                Ok(connection) => {
                    place.answered(connection.node);
                    place.keep(connection);
                }
                Err(error) => place.rest(&error),
            }
        }
        None
    }

    /// For the next put.
    pub(super) fn keep(&self, connection: Connection) {
        let mut known = self.known();
        let place = known.places.entry(connection.path.clone()).or_default();
        place.keep(connection);
    }
}

impl Known {
    fn idle(&mut self, node: NodeId) -> Option<Connection> {
        let mut of_node = self.places.values_mut();
        of_node.find_map(|place| place.idle.pop_if(|it| it.node == node))
    }

    /// Sockets at which the node may answer.
    fn paths_to_try(&mut self, place: &Path, node: NodeId) -> Vec<PathBuf> {
        let now = Instant::now();
        if self.looked.is_none_or(|at| now >= at + LOOK_EVERY) {
            self.looked = Some(now);
            let here = sockets(place);
            self.places.retain(|path, _| here.contains(path));
            for path in here {
                self.places.entry(path).or_default();
            }
        }
        let may = |place: &Place| {
            let rested = place.resting.is_none_or(|(until, _)| now >= until);
            let may_be = |(known, at)| known == node || now >= at + KNOWN_FOR;
            rested && place.node.is_none_or(may_be)
        };
        let places = self.places.iter().filter(|(_, place)| may(place));
        places.map(|(path, _)| path.clone()).collect()
    }
}

impl Place {
    fn answered(&mut self, node: NodeId) {
        (self.node, self.resting) = (Some((node, Instant::now())), None);
    }

    fn keep(&mut self, connection: Connection) {
        if self.idle.len() < IDLE_MAX {
            self.idle.push(connection);
        }
    }

    fn rest(&mut self, why: &LocalError) {
        let rest = match self.resting {
            Some((_, rest)) => (rest * 2).min(REST.1),
            None => REST.0,
        };
        // Said once, until one is had again.
        match (self.resting, why) {
            (None, LocalError::Refused(_) | LocalError::NoPuts) => {
                warn!(%why, "blocks go to a node on this host over gRPC");
            }
            _ => debug!(%why, "no block is put through shared memory"),
        }
        // Who answers there next may be another one.
        self.node = None;
        self.resting = Some((Instant::now() + rest, rest));
    }
}

impl Connection {
    async fn open(path: &Path, namespace: NamespaceId, own: &RegionId) -> Result<Self, LocalError> {
        let socket = Socket::connect(path)?;
        let hello = Request {
            id: 1,
            ask: Some(Ask::Hello {
                version: PROTOCOL_VERSION,
                namespace,
                puts: true,
            }),
            ..Request::default()
        };
        socket.send(&hello.pack(), &[]).await?;
        let packet = socket.receive().await?.ok_or(LocalError::Closed)?;
        let (node, bytes) = match Response::unpack(packet.bytes)?.answer {
            Some(Answer::Welcome { region, .. }) if region != *own => {
                return Err(LocalError::Elsewhere(region));
            }
            Some(Answer::Welcome { staging: 0, .. }) => return Err(LocalError::NoPuts),
            Some(Answer::Welcome { node, staging, .. }) => (node, staging),
            Some(Answer::Refused(why)) => return Err(LocalError::Refused(why)),
            _ => return Err(LocalError::Protocol),
        };
        let [file] = &packet.descriptors[..] else {
            return Err(LocalError::Protocol);
        };
        let staging = Staging::of(file, bytes)?;
        info!(%node, path = %path.display(), bytes, "blocks are put through a node's memory");
        Ok(Self {
            socket,
            places: Places::of(staging.bytes()),
            staging,
            node,
            path: path.to_owned(),
        })
    }
}
