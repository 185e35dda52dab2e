//! Servers in memory, by address; other addresses refuse connections.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use tokio::{io::duplex, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{service::Routes, transport::Server};

use crate::channel::{BoxedIo, Channels, Connect, Connecting};

type Door = mpsc::Sender<io::Result<BoxedIo>>;

/// The network.
#[derive(Clone, Default)]
pub(crate) struct FakeNet {
    doors: Arc<Mutex<BTreeMap<String, Door>>>,
}

impl FakeNet {
    /// Starts a server.
    pub(crate) fn serve(&self, address: &str, routes: Routes) {
        let (door, knocks) = mpsc::channel(8);
        self.doors.lock().unwrap().insert(address.to_owned(), door);
        let server = Server::builder().add_routes(routes);
        TaskTracker::new().spawn(server.serve_with_incoming(ReceiverStream::new(knocks)));
    }

    pub(crate) fn channels(&self) -> Channels {
        Channels::new(Arc::new(self.clone()))
    }
}

impl Connect for FakeNet {
    fn connect(&self, address: &str) -> Connecting {
        let door = self.doors.lock().unwrap().get(address).cloned();
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (ours, theirs) = duplex(1 << 20);
            let door = door.ok_or_else(refused)?;
            let knocked = door.send(Ok(BoxedIo::new(theirs))).await;
            knocked.map_err(|_| refused())?;
            Ok(BoxedIo::new(ours))
        })
    }
}
