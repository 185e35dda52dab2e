//! The server's half of a handshake.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::CommonState};

use super::{
    connect::HANDSHAKE_TIMEOUT,
    credentials::Credentials,
    error::{explained, with_causes},
    identity::Identity,
    loaded::ALPN,
    stream::{Explained, Prefixed},
    verify::identity_of,
};
use crate::channel::{BoxedIo, Io, Link};

/// How long a refused caller has for reading why.
const LINGER: Duration = Duration::from_millis(500);
/// First byte of every TLS handshake.
const HANDSHAKE_RECORD: u8 = 0x16;
/// First byte of an HTTP/2 connection without TLS.
const PLAIN_HTTP_2: u8 = b'P';

/// Takes a connection: the caller proves who it is, in time, and is known as such from then on.
///
/// # Errors
/// Why it was refused, and what the caller should do.
pub async fn accept(plain: BoxedIo, credentials: &Credentials) -> io::Result<BoxedIo> {
    let remote = plain.remote();
    let accepted = match timeout(HANDSHAKE_TIMEOUT, shake(plain, credentials)).await {
        Ok(accepted) => accepted,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it did not finish the TLS handshake in time",
        )),
    };
    credentials.count("accept", accepted.as_ref().err());
    accepted.map(|stream| stream.with_remote(remote))
}

async fn shake(mut plain: BoxedIo, credentials: &Credentials) -> io::Result<BoxedIo> {
    let first = plain.read_u8().await?;
    if first != HANDSHAKE_RECORD {
        if first == PLAIN_HTTP_2 {
            // It may be gone already.
            let _ = plain.write_all(&goodbye()).await;
            linger(plain).await;
        }
        let what = "it does not speak TLS: give it a certificate, its key and the CA";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let loaded = credentials.now();
    let acceptor = TlsAcceptor::from(loaded.server.clone());
    let shaken = acceptor.accept(Prefixed::new(first, plain)).into_fallible();
    let stream = match shaken.await {
        Ok(stream) => stream,
        Err((error, plain)) => {
            linger(plain).await;
            return Err(explained(error));
        }
    };
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN) {
        let what = "it does not speak HTTP/2 (ALPN h2)";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let link = Link {
        own: loaded.identity.clone(),
        peer: peer_of(session)?,
    };
    credentials.known(stream.get_ref().0.rest(), &link);
    Ok(BoxedIo::new(Explained(stream)).with_link(link))
}

/// Who is at the other end, as the verifier has read it; without a certificate there is no session.
pub(super) fn peer_of(session: &CommonState) -> io::Result<Arc<Identity>> {
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let peer = identity_of(certificate)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, with_causes(&error)))?;
    Ok(peer.into())
}

/// A caller that still sends when its connection is closed may not read why it was.
async fn linger(mut refused: impl Io) {
    let drained = async {
        refused.shutdown().await?;
        tokio::io::copy(&mut refused, &mut tokio::io::sink()).await
    };
    // It was refused; what else goes wrong does not matter.
    let _ = timeout(LINGER, drained).await;
}

/// To a caller that speaks HTTP/2 without TLS, in its own language: SETTINGS, then GOAWAY with
/// the code INADEQUATE_SECURITY.
fn goodbye() -> Vec<u8> {
    const WHY: &[u8] = b"this address speaks TLS: set up TLS at this end, too";
    let header = |length: usize, kind: u8| {
        let length = (length as u32).to_be_bytes();
        [length[1], length[2], length[3], kind, 0, 0, 0, 0, 0]
    };
    let mut frames = header(0, 0x4).to_vec();
    frames.extend(header(8 + WHY.len(), 0x7));
    frames.extend(0_u32.to_be_bytes());
    frames.extend(0xc_u32.to_be_bytes());
    frames.extend(WHY);
    frames
}
