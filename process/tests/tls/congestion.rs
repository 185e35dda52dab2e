//! How real sockets send, by who is at their ends: which congestion control they have, and how
//! much waits in the kernel.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use kvmesh_client::{
    channel::{BoxedIo, CongestionControl, Connect, Connecting, TcpConnect, UNSENT_BYTES},
    tls::{self, TlsConnect},
};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::time::timeout;

use crate::{
    BOUND, GATEWAY, NODE,
    certs::{Ca, Files},
    listen,
};

/// Another handle of the socket.
fn handle(stream: &BoxedIo) -> OwnedFd {
    let socket = stream.socket().unwrap();
    socket.as_fd().try_clone_to_owned().unwrap()
}

/// Connects, and keeps a handle of the socket.
struct Watching(Arc<Mutex<Option<OwnedFd>>>);

impl Connect for Watching {
    fn connect(&self, address: &str) -> Connecting {
        let (connecting, kept) = (TcpConnect.connect(address), Arc::clone(&self.0));
        Box::pin(async move {
            let stream = connecting.await?;
            *kept.lock().unwrap() = Some(handle(&stream));
            Ok(stream)
        })
    }
}

/// The congestion control of a socket, and how many bytes may wait in it.
fn sends(socket: SockRef<'_>) -> (String, u32) {
    let name = socket.tcp_congestion().unwrap();
    let name = String::from_utf8(name).unwrap();
    let name = name.trim_end_matches('\0').to_owned();
    (name, socket.tcp_notsent_lowat().unwrap())
}

/// How both ends send, the caller's first, when each has named a congestion control.
async fn of_both(
    ca: &Ca,
    caller: &str,
    called: &str,
    named: &CongestionControl,
) -> [(String, u32); 2] {
    let [caller, called] = [caller, called].map(|uri| Files::new(&ca.good(uri), &ca.pem));
    let credentials = |of: &Files| of.credentials().between_regions(named.clone());
    let (address, mut plain) = listen().await;
    let kept = Arc::default();
    let watching = Watching(Arc::clone(&kept));
    let connect = TlsConnect::new(Arc::new(watching), credentials(&caller));
    let credentials = credentials(&called);
    let accept = async {
        let stream = plain.next().await.unwrap().unwrap();
        let handle = handle(&stream);
        (handle, tls::accept(stream, &credentials).await)
    };
    let address = address.to_string();
    let both = async { tokio::join!(accept, connect.connect(&address)) };
    let ((accepting, accepted), connected) = timeout(BOUND, both).await.unwrap();
    let _open = (accepted.unwrap(), connected.unwrap());
    let calling = kept.lock().unwrap().take().unwrap();
    [calling, accepting].map(|socket| sends(SockRef::from(&socket)))
}

#[tokio::test]
async fn only_connections_between_regions_get_what_is_named() {
    let new = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let usual = sends(SockRef::from(&new));
    let mut allowed = CongestionControl::allowed().into_iter();
    let Some(name) = allowed.rfind(|name| *name != usual.0) else {
        eprintln!("this kernel allows {} only: nothing can be named", usual.0);
        return;
    };
    let (ca, named) = (Ca::new(), CongestionControl::new(&name).unwrap());
    let far_sends = (name, UNSENT_BYTES);
    let elsewhere = "spiffe://m/region/w/gateway/g";
    for (caller, called, far) in [
        (elsewhere, GATEWAY, true),
        (GATEWAY, elsewhere, true),
        ("spiffe://m/region/w/client/c", GATEWAY, true),
        (GATEWAY, NODE, false),
        ("spiffe://m/operator/o", GATEWAY, false),
    ] {
        let want = if far { &far_sends } else { &usual };
        let got = of_both(&ca, caller, called, &named).await;
        assert_eq!(got.each_ref(), [want, want], "{caller} to {called}");
    }
}
