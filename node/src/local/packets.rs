//! Packets of a connection, as this node reads and sends them.

use std::{io, os::fd::BorrowedFd};

use kvmesh_client::{
    convert::local::{Request, Response},
    local::socket::{Packet, Socket},
};
use tokio::time::{Duration, timeout};

/// A client that does not say who it is, or does not take its answers, for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why no more is answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Over {
    #[error("it is gone")]
    Gone,
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("it did not go on in time")]
    Silent,
    #[error("{0}")]
    Wrong(String),
}

/// The first request of a connection.
pub(crate) async fn first(socket: &Socket) -> Result<Request, Over> {
    within(socket, PATIENCE).await
}

/// The next request, from who says something in time.
pub(crate) async fn within(socket: &Socket, silence: Duration) -> Result<Request, Over> {
    let packet = timeout(silence, socket.receive()).await;
    unpack(&packet.map_err(|_| Over::Silent)??.ok_or(Over::Gone)?)
}

/// Reads a packet: clients send no descriptors.
pub(crate) fn unpack(packet: &Packet) -> Result<Request, Over> {
    if !packet.descriptors.is_empty() {
        return Err(Over::Wrong("it sent a descriptor".to_owned()));
    }
    Request::unpack(&packet.bytes).map_err(|error| Over::Wrong(error.to_string()))
}

pub(crate) async fn send(
    socket: &Socket,
    response: &Response,
    files: &[BorrowedFd<'_>],
) -> Result<(), Over> {
    let packet = response.pack();
    let sent = timeout(PATIENCE, socket.send(&packet, files)).await;
    Ok(sent.map_err(|_| Over::Silent)??)
}
