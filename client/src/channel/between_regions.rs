//! How a connection between regions sends: little waits in the kernel, and by the congestion
//! control that a process names, if it names one.

use std::{fs, io, sync::Arc};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Bytes that wait in the kernel, beyond those on their way, before no more are taken. What comes
/// after them waits for them, such as a probe and its answer: of the 4 MiB that Linux takes by
/// itself, a connection that lost most of its window sent 0.1 a second. 64 KiB are half a
/// millisecond of 1 Gbit/s, in which a process is woken.
pub const UNSENT_BYTES: u32 = 64 << 10;

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
    fn what_the_kernel_does_not_have_is_refused() {
        for name in CongestionControl::allowed() {
            assert_eq!(CongestionControl::new(&name).unwrap().name(), name);
        }
        for name in ["", "nonesuch", "nonesuch-of-more-than-16-bytes"] {
            assert_eq!(CongestionControl::new(name).unwrap_err().name, name);
        }
    }
}
