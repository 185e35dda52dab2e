//! Connections to others: any connector's stream, encrypted, with the other end verified.

use std::{io, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{
    accept::peer_of,
    credentials::Credentials,
    error::explained,
    identity::Expected,
    loaded::{self, ALPN},
    stream::Explained,
};
use crate::channel::{BoxedIo, CONNECT_TIMEOUT, Connect, Connecting, Link};

/// How long a handshake may take, at either end.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Mutual TLS over another connector's streams.
pub struct TlsConnect {
    inner: Arc<dyn Connect>,
    credentials: Credentials,
}

impl TlsConnect {
    /// Over a connector, as who the credentials say.
    #[must_use]
    pub fn new(inner: Arc<dyn Connect>, credentials: Credentials) -> Self {
        Self { inner, credentials }
    }
}

impl Connect for TlsConnect {
    fn connect(&self, address: &str) -> Connecting {
        self.connect_to(address, &Expected::default())
    }

    fn connect_to(&self, address: &str, expected: &Expected) -> Connecting {
        let plain = self.inner.connect(address);
        let (credentials, expected) = (self.credentials.clone(), expected.clone());
        let address = address.to_owned();
        Box::pin(async move {
            let plain = timeout(CONNECT_TIMEOUT, plain).await??;
            let shaken = shake(plain, &credentials, &expected);
            let shaken = match timeout(HANDSHAKE_TIMEOUT, shaken).await {
                Ok(shaken) => shaken,
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the other end did not finish the TLS handshake in time: does it speak TLS?",
                )),
            };
            credentials.count("connect", shaken.as_ref().err());
            shaken.inspect_err(|error| debug!(address, %expected, %error, "no TLS connection"))
        })
    }

    fn time_max(&self) -> Duration {
        self.inner.time_max() + HANDSHAKE_TIMEOUT
    }
}

async fn shake(
    plain: BoxedIo,
    credentials: &Credentials,
    expected: &Expected,
) -> io::Result<BoxedIo> {
    let loaded = credentials.now();
    let connector = TlsConnector::from(loaded.client(expected));
    let stream = connector.connect(loaded::nobody(), plain).await;
    let stream = stream.map_err(explained)?;
    let (plain, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        let what = "the other end does not speak HTTP/2 (ALPN h2): check the address";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let link = Link {
        own: loaded.identity.clone(),
        peer: peer_of(session)?,
    };
    credentials.known(plain, &link);
    Ok(BoxedIo::new(Explained(stream)))
}
