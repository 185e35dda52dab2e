//! Handshakes with callers, beside one another: a silent caller holds up nobody else.
//!
//! Invariants: at most [`HANDSHAKES_MAX`] at a time, each with an end; what comes out has a
//! known caller.

use std::{io, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream, stream::FuturesUnordered};
use kvmesh_client::{
    channel::{BoxedIo, Incoming},
    tls::{self, Credentials},
};
use tokio::time::Instant;
use tracing::{debug, warn};

/// Handshakes at a time; one more caller is closed at once, so that it tries elsewhere.
pub const HANDSHAKES_MAX: usize = 512;
/// Refused callers are named in the log so often at most: anybody can knock.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// The connections of `plain` whose callers proved who they are.
#[must_use]
pub fn incoming(plain: Incoming, credentials: Credentials) -> Incoming {
    let door = Door {
        plain,
        credentials,
        shaking: FuturesUnordered::new(),
        warned: None,
    };
    Box::pin(stream::unfold(door, |mut door| async {
        let next = door.next().await?;
        Some((next, door))
    }))
}

struct Door {
    plain: Incoming,
    credentials: Credentials,
    shaking: FuturesUnordered<BoxFuture<'static, io::Result<BoxedIo>>>,
    warned: Option<Instant>,
}

impl Door {
    async fn next(&mut self) -> Option<io::Result<BoxedIo>> {
        loop {
            tokio::select! {
                biased;
                Some(shaken) = self.shaking.next() => match shaken {
                    Ok(stream) => return Some(Ok(stream)),
                    Err(error) => self.refused(&error),
                },
                accepted = self.plain.next() => match accepted {
                    None => return None,
                    Some(Err(error)) => return Some(Err(error)),
                    Some(Ok(plain)) => self.begin(plain),
                },
            }
        }
    }

    fn begin(&mut self, plain: BoxedIo) {
        if self.shaking.len() >= HANDSHAKES_MAX {
            if self.may_warn() {
                warn!(HANDSHAKES_MAX, remote = ?plain.remote(), "too many TLS handshakes: closed one");
            }
            return;
        }
        let credentials = self.credentials.clone();
        self.shaking.push(Box::pin(async move {
            let remote = plain.remote();
            let shaken = tls::accept(plain, &credentials).await;
            shaken.map_err(|error| {
                let remote = remote.map_or_else(String::new, |remote| format!("{remote}: "));
                io::Error::new(error.kind(), format!("{remote}{error}"))
            })
        }));
    }

    fn refused(&mut self, error: &io::Error) {
        // Whoever only looks whether the port is open.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            debug!(%error, "a caller went away during its TLS handshake");
            return;
        }
        match self.may_warn() {
            true => warn!(%error, "a caller was refused"),
            false => debug!(%error, "a caller was refused"),
        }
    }

    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let may = self.warned.is_none_or(|at| now >= at + WARN_INTERVAL);
        if may {
            self.warned = Some(now);
        }
        may
    }
}
