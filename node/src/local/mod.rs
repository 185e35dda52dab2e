//! Clients on this host: they read blocks where they lie, by a socket that gives them read-only
//! descriptors of their namespace's segments, and put blocks into memory that it gives them to
//! write. `docs/decisions/0018-same-host.md` and `0028-puts-on-a-host.md` say why so.
//!
//! Not here: how blocks get into segments (`store::sharing`), nor what is done with those that
//! are put (`rpc::put_local`).

mod grants;
mod hello;
pub(crate) mod packets;
mod session;

use std::sync::Arc;

use kvmesh_client::local::socket::{Listener, Socket};
use kvmesh_directory::{NamespaceId, limits::LOCAL_CLIENTS_MAX};
use tokio::{sync::Semaphore, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use self::{
    grants::{Grants, Share},
    hello::{Hello, Purpose},
    session::Session,
};
use crate::{
    node::Node,
    rpc::put_local,
    store::arena::{Staging, Stagings},
};

/// After a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// Serves clients on this host until `stop`. What they hold then stays until the node is gone.
pub(crate) async fn run(node: Arc<Node>, listener: Listener, stop: CancellationToken) {
    let bounds = Bounds {
        share: Share::of(node.store.usage().max),
        stagings: Stagings::default(),
    };
    let room = Arc::new(Semaphore::new(LOCAL_CLIENTS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%error, "a client on this host cannot be accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let Ok(turn) = Arc::clone(&room).try_acquire_owned() else {
            warn!(
                LOCAL_CLIENTS_MAX,
                "too many clients on this host: closed one"
            );
            continue;
        };
        let client = client(Arc::clone(&node), socket, bounds.clone(), stop.clone());
        let client = async move {
            client.await;
            drop(turn);
        };
        node.tasks.spawn(client.in_current_span());
    }
}

async fn client(node: Arc<Node>, socket: Socket, bounds: Bounds, stop: CancellationToken) {
    let peer = socket.peer();
    let opened = stop.run_until_cancelled(hello::read(&node, &socket, &bounds.stagings));
    let Hello { namespace, purpose } = match opened.await {
        Some(Ok(hello)) => hello,
        Some(Err(over)) => return debug!(?peer, %over, "a client on this host was not served"),
        None => return,
    };
    let (pid, uid) = peer.unwrap_or_default();
    node.metrics.local.clients.increment(1.0);
    match purpose {
        Purpose::Gets(room) => {
            info!(pid, uid, "a client on this host maps blocks");
            let session = Session::new(&node, socket, (namespace, room), bounds.share);
            gets(&node, session, stop).await;
        }
        Purpose::Puts(staging) => {
            info!(pid, uid, "a client on this host puts blocks");
            puts(&node, &socket, (namespace, staging), stop).await;
        }
    }
    node.metrics.local.clients.decrement(1.0);
}

async fn gets(node: &Node, mut session: Session, stop: CancellationToken) {
    let gone = stop.run_until_cancelled(session.serve()).await.is_some();
    match session.into_held() {
        // It reads on, and nobody may write there.
        Some(grants) if !gone => node.held.keep(grants),
        _ => {}
    }
}

async fn puts(
    node: &Arc<Node>,
    socket: &Socket,
    (namespace, staging): (NamespaceId, Arc<Staging>),
    stop: CancellationToken,
) {
    let bytes = staging.bytes() as f64;
    node.metrics.local.staging_bytes.increment(bytes);
    let serving = put_local::serve(node, socket, namespace, staging);
    if let Some(over) = stop.run_until_cancelled(serving).await {
        debug!(%over, "a client on this host does not put blocks any more");
    }
    node.metrics.local.staging_bytes.decrement(bytes);
}

/// Of what clients on this host may take of a node.
#[derive(Debug, Clone)]
struct Bounds {
    share: Share,
    stagings: Stagings,
}

/// What clients hold beyond the end of their connections; as long as the node.
#[derive(Debug, Default)]
pub(crate) struct Held(std::sync::Mutex<Vec<Grants>>);

impl Held {
    fn keep(&self, grants: Grants) {
        let held = self.0.lock();
        held.unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(grants);
    }
}
