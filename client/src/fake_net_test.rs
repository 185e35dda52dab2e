//! Servers in memory, by address; other addresses refuse connections. A way can be cut, and
//! frozen, as by a link that swallows packets.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{service::Routes, transport::Server};

use crate::channel::{BoxedIo, Channels, Connect, Connecting};

const BUFFER_BYTES: usize = 1 << 20;

/// How the way to a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections are reset and refused.
    Cut,
    /// Connections stand and are made, and carry nothing.
    Frozen,
}

#[derive(Clone)]
struct Door {
    knocks: mpsc::Sender<io::Result<BoxedIo>>,
    way: watch::Sender<Way>,
    asked: usize,
}

/// The network.
#[derive(Clone, Default)]
pub(crate) struct FakeNet {
    doors: Arc<Mutex<BTreeMap<String, Door>>>,
}

impl FakeNet {
    /// Starts a server.
    pub(crate) fn serve(&self, address: &str, routes: Routes) {
        let (knocks, knocking) = mpsc::channel(8);
        let door = Door {
            knocks,
            way: watch::Sender::new(Way::Open),
            asked: 0,
        };
        self.doors.lock().unwrap().insert(address.to_owned(), door);
        let server = Server::builder().add_routes(routes);
        TaskTracker::new().spawn(server.serve_with_incoming(ReceiverStream::new(knocking)));
    }

    pub(crate) fn channels(&self) -> Channels {
        Channels::new(Arc::new(self.clone()))
    }

    pub(crate) fn cut(&self, address: &str) {
        self.set(address, Way::Cut);
    }

    pub(crate) fn freeze(&self, address: &str) {
        self.set(address, Way::Frozen);
    }

    pub(crate) fn mend(&self, address: &str) {
        self.set(address, Way::Open);
    }

    /// How often somebody has connected, or tried to.
    pub(crate) fn asked(&self, address: &str) -> usize {
        self.doors.lock().unwrap()[address].asked
    }

    fn set(&self, address: &str, way: Way) {
        self.doors.lock().unwrap()[address].way.send_replace(way);
    }
}

impl Connect for FakeNet {
    fn connect(&self, address: &str) -> Connecting {
        let mut doors = self.doors.lock().unwrap();
        let door = doors.get_mut(address).map(|door| {
            door.asked += 1;
            door.clone()
        });
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let door = door.ok_or_else(refused)?;
            let way = door.way.subscribe();
            if *way.borrow() == Way::Cut {
                return Err(refused());
            }
            let (ours, near) = duplex(BUFFER_BYTES);
            let (far, theirs) = duplex(BUFFER_BYTES);
            TaskTracker::new().spawn(carry(near, far, way));
            let knocked = door.knocks.send(Ok(BoxedIo::new(theirs))).await;
            knocked.map_err(|_| refused())?;
            Ok(BoxedIo::new(ours))
        })
    }
}

/// Until an end closes, or the way is cut. What is under way when it freezes may be lost.
async fn carry(mut near: DuplexStream, mut far: DuplexStream, mut way: watch::Receiver<Way>) {
    loop {
        let is = *way.borrow_and_update();
        let changed = match is {
            Way::Cut => return,
            Way::Frozen => way.changed().await,
            Way::Open => tokio::select! {
                changed = way.changed() => changed,
                _ = copy_bidirectional(&mut near, &mut far) => return,
            },
        };
        if changed.is_err() {
            return;
        }
    }
}
