//! How a connection between regions sends: little waits in the kernel, and by the congestion
//! control that a process names, if it names one; and how much is on its way.

use std::{fs, io, sync::Arc};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Bytes that wait in the kernel, beyond those on their way, before no more are taken. What comes
/// after them waits for them, such as the first bytes of the next block: of the 4 MiB that Linux
/// takes by itself, a connection that lost most of its window sent 0.1 a second. More are asked for
/// when half of these are gone: 4 ms of 1 Gbit/s, in which a process is woken. With 64 KiB nothing
/// waited when the kernel could send, again and again, which BBR takes for a sender that has no
/// more: it never ended its start, and sent 2.9 times what the link carried.
pub const UNSENT_BYTES: u32 = 1 << 20;

/// What one connection has on its way, where nothing else is known: the part of Linux's largest
/// usual send buffer, 4 MiB of `tcp_wmem`, that is left for bytes.
pub const AT_ONCE_BYTES: u64 = 2 << 20;
/// More is not asked of one.
const AT_ONCE_MAX: u64 = super::CONNECTION_WINDOW_BYTES as u64;

/// What any process may name, as Linux says; one with `CAP_NET_ADMIN` may name all that there are.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// One that this kernel has, and lets this process use. See tcp(7), `TCP_CONGESTION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CongestionControl(Arc<str>);

/// Why one cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not let this process use the congestion control {name:?}")]
pub struct CongestionError {
    /// What was named.
    pub name: String,
    source: io::Error,
}

impl CongestionControl {
    /// Tries it on a socket of its own.
    ///
    /// # Errors
    /// When the kernel has none of that name, or this process may not use it.
    pub fn new(name: &str) -> Result<Self, CongestionError> {
        let tried = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_tcp_congestion(name.as_bytes())?;
            // A name that is too long is cut off.
            match of(SockRef::from(&socket))? == name {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::NotFound)),
            }
        };
        match tried() {
            Ok(()) => Ok(Self(name.into())),
            Err(source) => Err(CongestionError {
                name: name.to_owned(),
                source,
            }),
        }
    }

    /// Those that any process of this machine may name; none: that cannot be read.
    #[must_use]
    pub fn allowed() -> Vec<String> {
        let names = fs::read_to_string(ALLOWED).unwrap_or_default();
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// What one connection may have on its way of what this process sends to other regions by a
/// congestion control, or by the kernel's usual one where none is named.
///
/// BBR finds out how fast a link is by itself, and several on one link overrun its queue: one is to
/// fill it, as far as the kernel's buffers go. Of others one lost packet takes half of what is on
/// its way, and of several a part of that: each is to carry what it does with the usual buffers.
#[must_use]
pub fn sent_at_once(named: &str) -> u64 {
    let usual = kernel("tcp_congestion_control");
    let name = match named {
        "" => usual.trim(),
        named => named,
    };
    match name.starts_with("bbr") {
        true => half_of_largest(&kernel("tcp_wmem")),
        false => AT_ONCE_BYTES,
    }
}

/// What one connection may have on its way of what this process receives.
#[must_use]
pub fn received_at_once() -> u64 {
    half_of_largest(&kernel("tcp_rmem"))
}

/// A setting of `net.ipv4`; empty: it cannot be read.
fn kernel(setting: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}")).unwrap_or_default()
}

/// Of the three sizes of buffers, as tcp(7) says. The kernel counts what holds the bytes as well.
fn half_of_largest(sizes: &str) -> u64 {
    let largest = sizes.split_whitespace().nth(2);
    let largest = largest.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    (largest / 2).clamp(AT_ONCE_BYTES, AT_ONCE_MAX)
}

/// Sets up a socket at whose other end another region is.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_up(socket: &TcpStream, congestion: Option<&CongestionControl>) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    congestion.map_or(Ok(()), |it| socket.set_tcp_congestion(it.0.as_bytes()))
}

fn of(socket: SockRef<'_>) -> io::Result<String> {
    // Filled up with zeros.
    let name = socket.tcp_congestion()?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_carries_what_the_largest_buffers_let_it() {
        let mib = 1 << 20;
        assert_eq!(half_of_largest("4096\t16384\t4194304\n"), 2 * mib);
        assert_eq!(half_of_largest("4096 16384 33554432"), 16 * mib);
        assert_eq!(half_of_largest("4096 16384 999999999"), AT_ONCE_MAX);
        for unreadable in ["", "1 2", "4096 16384 many", "1 1 1"] {
            assert_eq!(half_of_largest(unreadable), AT_ONCE_BYTES);
        }
        assert_eq!(sent_at_once("cubic"), AT_ONCE_BYTES);
        assert_eq!(sent_at_once("bbr"), half_of_largest(&kernel("tcp_wmem")));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_refused() {
        for name in CongestionControl::allowed() {
            assert_eq!(CongestionControl::new(&name).unwrap().name(), name);
        }
        for name in ["", "nonesuch", "nonesuch-of-more-than-16-bytes"] {
            assert_eq!(CongestionControl::new(name).unwrap_err().name, name);
        }
    }
}
