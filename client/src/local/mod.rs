//! Reading blocks where a node on this host keeps them, mapped and not copied, and putting blocks
//! into memory that it shares.
//!
//! Whatever does not work here goes over gRPC instead: nothing of this module is an error of
//! a get or a put. Every byte is verified, as one that goes by gRPC is, but by who only passes it
//! on.
//!
//! Not here: what is asked for and in which order (`client::get`), nor which blocks a node is
//! to get (`client::to_nodes`).

mod door;
mod map;
mod places;
mod put_stream;
mod recent;
mod session;
pub mod socket;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use kvmesh_directory::{
    BlockKey, FeedPosition, NamespaceId, NodeId, RegionId, limits::LOCAL_BLOCKS_MAX,
};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

pub(crate) use self::{door::Door, put_stream::PutStream};
use self::{
    door::Doors,
    recent::Recent,
    session::{Session, Taken},
};
use crate::{
    convert::local::End,
    ranges::{Pieces, Ranges},
};

/// Sockets are looked for, and tried again after a failure, this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node on this host that takes longer is not waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Sockets of one folder that are used.
const NODES_MAX: usize = 16;
/// Namespaces whose connections a client keeps: of those that it used last.
const NAMESPACES_MAX: usize = 64;

/// Nodes on this host, by their sockets.
#[derive(Debug)]
pub struct Local {
    /// A socket, or a folder of sockets.
    place: PathBuf,
    /// The client's own: nodes of others are not read from.
    region: OnceLock<RegionId>,
    known: Mutex<Recent<NamespaceId, Known>>,
    instance: String,
}

/// The nodes that serve a namespace.
#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    sessions: BTreeMap<PathBuf, Arc<Session>>,
    /// To put blocks through.
    doors: Arc<Doors>,
}

/// What is wanted of one namespace.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Which namespace.
    pub namespace: NamespaceId,
    /// Who is asked; none: all nodes here.
    pub node: Option<NodeId>,
    /// Until the first that nobody who is asked has.
    pub keys: &'a [BlockKey],
    /// Names whose recency is renewed.
    pub touch: &'a [BlockKey],
    /// Of each block only the pieces that they touch.
    pub ranges: &'a Ranges,
    /// The nodes show these positions, or later ones.
    pub at_least: &'a [FeedPosition],
    /// Every byte is verified; not, where whoever gets them next does.
    pub verify: bool,
    /// No node is waited for longer.
    pub until: Instant,
}

impl Local {
    /// By a node's socket, or a folder of such sockets. `instance` is who counts.
    #[must_use]
    pub fn new(place: PathBuf, instance: &str) -> Self {
        Self {
            place,
            region: OnceLock::new(),
            known: Mutex::new(Recent::new(NAMESPACES_MAX)),
            instance: instance.to_owned(),
        }
    }

    /// The region that the client belongs to, as its gateway says.
    pub fn settle(&self, region: &RegionId) {
        let _ = self.region.set(region.clone());
    }

    /// The region whose nodes are read from. None: no gateway has said it yet.
    pub(crate) fn region(&self) -> Option<&RegionId> {
        self.region.get()
    }

    fn known(&self) -> MutexGuard<'_, Recent<NamespaceId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wanted blocks from the first one on, until one that no node here gives.
    pub async fn get(&self, wanted: &Wanted<'_>) -> Vec<Pieces> {
        let until = wanted.until.min(Instant::now() + ANSWER_WAIT);
        let Ok(mut sessions) = timeout_at(until, self.sessions(wanted.namespace)).await else {
            return Vec::new();
        };
        sessions.retain(|session| wanted.node.is_none_or(|node| node == session.node()));
        let mut blocks = Vec::new();
        // Nodes in a row that had nothing to add; each is asked again where another went on.
        let mut idle = 0;
        for session in sessions.iter().cycle() {
            if idle == sessions.len() || blocks.len() == wanted.keys.len() {
                break;
            }
            let before = blocks.len();
            self.from(session, wanted, &mut blocks).await;
            idle = if blocks.len() > before { 1 } else { idle + 1 };
        }
        if !blocks.is_empty() {
            let bytes = blocks.iter().map(Pieces::bytes).sum();
            self.count("kvmesh_client_mapped_bytes_total", bytes);
        }
        blocks
    }

    /// A way to put blocks of a namespace to a node on this host. None: there is none now.
    pub(crate) async fn door(&self, namespace: NamespaceId, node: NodeId) -> Option<Door> {
        let region = self.region()?;
        let doors = Arc::clone(&self.known().of(namespace).doors);
        doors.open(&self.place, (namespace, node), region).await
    }

    /// Blocks of so many bytes were put through shared memory; so many blocks were not, although
    /// their node is here.
    pub(crate) fn has_put(&self, bytes: u64, others: u64) {
        self.count("kvmesh_client_mapped_put_bytes_total", bytes);
        self.count("kvmesh_client_mapped_put_refused_total", others);
    }

    async fn from(&self, session: &Arc<Session>, wanted: &Wanted<'_>, blocks: &mut Vec<Pieces>) {
        let mut touch = wanted.touch;
        loop {
            let rest = &wanted.keys[blocks.len()..];
            let asked = &rest[..rest.len().min(LOCAL_BLOCKS_MAX)];
            let until = wanted.until.min(Instant::now() + ANSWER_WAIT);
            let taken = timeout_at(until, session.get(asked, touch, wanted)).await;
            let Taken { block, end } = match taken {
                Ok(Ok(taken)) => taken,
                Ok(Err(error)) => {
                    debug!(%error, "a node on this host is not read from for a while");
                    return session.give_up();
                }
                Err(_) => return session.give_up(),
            };
            let some = !block.is_empty();
            blocks.extend(block);
            touch = &[];
            match end {
                End::Complete | End::More if some && blocks.len() < wanted.keys.len() => {}
                End::Held | End::NoRoom => {
                    self.count("kvmesh_client_mapped_refused_total", 1);
                    return session.say_once(end);
                }
                _ => return,
            }
        }
    }

    /// Connections to the nodes here, each made when it is first used and again when it broke.
    async fn sessions(&self, namespace: NamespaceId) -> Vec<Arc<Session>> {
        let Some(region) = self.region() else {
            return Vec::new();
        };
        let live = {
            let mut known = self.known();
            let known = known.of(namespace);
            let live = known.live();
            let rested = known.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
            if !rested {
                return live;
            }
            known.looked = Some(Instant::now());
            live
        };
        for path in sockets(&self.place) {
            if live.iter().any(|session| session.path() == path) {
                continue;
            }
            match Session::open(&path, namespace, region).await {
                Ok(session) => {
                    let mut known = self.known();
                    let known = known.of(namespace);
                    known.sessions.insert(path, Arc::new(session));
                }
                Err(error) => debug!(path = %path.display(), %error, "no node here"),
            }
        }
        self.known().of(namespace).live()
    }

    fn count(&self, name: &'static str, by: u64) {
        metrics::counter!(name, "instance" => self.instance.clone()).increment(by);
    }
}

impl Known {
    fn live(&mut self) -> Vec<Arc<Session>> {
        self.sessions.retain(|_, session| !session.is_over());
        self.sessions.values().cloned().collect()
    }
}

/// The socket, or those of the folder, in the order of their names.
fn sockets(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place) else {
        return vec![place.to_owned()];
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sockets: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "sock"))
        .collect();
    sockets.sort();
    sockets.truncate(NODES_MAX);
    sockets
}
