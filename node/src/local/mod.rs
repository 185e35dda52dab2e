//! Clients on this host: they read blocks where they lie, by a socket that gives them read-only
//! descriptors of their namespace's segments. `docs/decisions/0018-same-host.md` says why so.
//!
//! Not here: how blocks get into segments (`store::sharing`).

mod grants;
mod session;

use std::sync::Arc;

use kvmesh_client::local::socket::{Listener, Socket};
use kvmesh_directory::limits::LOCAL_CLIENTS_MAX;
use tokio::{sync::Semaphore, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use self::{
    grants::{Grants, Share},
    session::Session,
};
use crate::node::Node;

/// After a connection could not be accepted.
const REST: Duration = Duration::from_millis(100);

/// Serves clients on this host until `stop`. What they hold then stays until the node is gone.
pub(crate) async fn run(node: Arc<Node>, listener: Listener, stop: CancellationToken) {
    let share = Share::of(node.store.usage().max);
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
        let client = client(Arc::clone(&node), socket, share.clone(), stop.clone());
        let client = async move {
            client.await;
            drop(turn);
        };
        node.tasks.spawn(client.in_current_span());
    }
}

async fn client(node: Arc<Node>, socket: Socket, share: Share, stop: CancellationToken) {
    let peer = socket.peer();
    let opened = stop.run_until_cancelled(Session::open(&node, socket, &share));
    let mut session = match opened.await {
        Some(Ok(session)) => session,
        Some(Err(over)) => return debug!(?peer, %over, "a client on this host was not served"),
        None => return,
    };
    let (pid, uid) = peer.unwrap_or_default();
    info!(pid, uid, "a client on this host maps blocks");
    node.metrics.local.clients.increment(1.0);
    let gone = stop.run_until_cancelled(session.serve()).await.is_some();
    node.metrics.local.clients.decrement(1.0);
    match session.into_held() {
        // It reads on, and nobody may write there.
        Some(grants) if !gone => node.held.keep(grants),
        _ => {}
    }
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
