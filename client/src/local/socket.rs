//! A unix socket that keeps packets apart (SOCK_SEQPACKET) and carries descriptors.
//!
//! A packet is sent whole or not at all, so that several may send without taking turns.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use kvmesh_directory::limits::LOCAL_PACKET_BYTES_MAX;
use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, accept_with, bind, connect, listen, recv, recvmsg, sendmsg, socket_with,
        sockopt::socket_peercred,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// Descriptors of one packet.
pub const DESCRIPTORS_MAX: usize = 64;
const BACKLOG: i32 = 64;
/// Who may connect: the socket's owner and group.
const MODE: u32 = 0o660;

/// One connection.
#[derive(Debug)]
pub struct Socket(AsyncFd<OwnedFd>);

/// A packet, and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet {
    /// What was sent.
    pub bytes: Bytes,
    /// In the order in which they were sent.
    pub descriptors: Vec<OwnedFd>,
}

/// Where connections are accepted; its file goes when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
}

fn unix() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(socket)
}

#[allow(
    deprecated,
    reason = "unsound for what lies about its descriptor only, which an OwnedFd does not"
)]
fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

impl Socket {
    /// To who listens at a path. Does not wait: who is too busy to accept is not connected to.
    ///
    /// # Errors
    /// When nobody listens there, or this process may not connect.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = unix()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(watched(socket)?))
    }

    /// Sends a packet now.
    ///
    /// # Errors
    /// `WouldBlock`: the other end does not take more now. Else it is gone.
    pub fn try_send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.get_ref(), packet, descriptors)
    }

    /// Sends a packet once the other end takes it. Safe to cancel: it was sent or not.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sending = |socket: &OwnedFd| send(socket, packet, descriptors);
        self.0.async_io(Interest::WRITABLE, sending).await
    }

    /// The next packet; none: the other end is gone. Safe to cancel.
    ///
    /// # Errors
    /// When the connection broke, or a packet was larger than it may be.
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        self.0.async_io(Interest::READABLE, receive).await
    }

    /// Whether the other end is waiting and there: false when it is gone, or has sent something.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = recv(self.0.get_ref(), &mut [0_u8; 1][..], flags);
        matches!(peeked, Err(Errno::AGAIN))
    }

    /// Process and user at the other end, for logs.
    #[must_use]
    pub fn peer(&self) -> Option<(i32, u32)> {
        let peer = socket_peercred(self.0.get_ref()).ok()?;
        Some((peer.pid.as_raw_nonzero().get(), peer.uid.as_raw()))
    }
}

fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; LOCAL_PACKET_BYTES_MAX];
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, into, &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        let why = "a packet was cut off: it was too large, or no descriptor is free";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    let bytes = bytes.into();
    Ok(Some(Packet { bytes, descriptors }))
}

impl Listener {
    /// Listens at a path, instead of who was killed and left its file there.
    ///
    /// # Errors
    /// When somebody else listens there, or the file cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if path.exists() {
            match Socket::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)?;
                }
                _ => return Err(io::ErrorKind::AddrInUse.into()),
            }
        }
        let socket = unix()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Watched only once it listens: what neither listens nor is connected counts as hung
        // up, and tokio forgets that never.
        let listening = || {
            fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
            listen(&socket, BACKLOG)?;
            watched(socket)
        };
        match listening() {
            Ok(socket) => Ok(Self {
                socket,
                path: path.to_owned(),
            }),
            Err(error) => {
                // It was made a moment ago; the first error is the one to tell.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// The next connection. Safe to cancel.
    ///
    /// # Errors
    /// When none can be accepted now.
    pub async fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepting = |socket: &OwnedFd| Ok(accept_with(socket.as_fd(), flags)?);
        let accepted = self.socket.async_io(Interest::READABLE, accepting).await?;
        Ok(Socket(watched(accepted)?))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody is to be told: the next who listens there takes it away.
        let _ = fs::remove_file(&self.path);
    }
}
