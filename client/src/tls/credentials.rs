//! A process's own credentials; new files are taken up without a restart.

use std::{
    fs, io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    error::{TlsError, with_causes},
    identity::{Expected, Identity},
    loaded::{Loaded, TlsFiles},
};
use crate::channel::{BoxedIo, CongestionControl, Link, between_regions};

/// Files are looked at so often, when connections are made.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// When each of the files was changed.
type Stamps = [Option<(SystemTime, u64)>; 3];

/// Who this process is and whom it trusts. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
    between_regions: Option<CongestionControl>,
}

struct Shared {
    files: TlsFiles,
    instance: String,
    look_interval: Duration,
    now: ArcSwap<Loaded>,
    looked: Mutex<Looked>,
}

struct Looked {
    /// None: not yet.
    at: Option<Instant>,
    /// Of the files that were read.
    stamps: Stamps,
}

impl Credentials {
    /// Reads and checks the files; `instance` is a label of metrics.
    ///
    /// # Errors
    /// When a file cannot be read, they do not fit together, or every other process would
    /// refuse the certificate.
    pub fn load(files: TlsFiles, instance: &str) -> Result<Self, TlsError> {
        Self::load_looking(files, instance, LOOK_INTERVAL)
    }

    /// As [`Self::load`], with another period of looking at the files.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn load_looking(
        files: TlsFiles,
        instance: &str,
        look_interval: Duration,
    ) -> Result<Self, TlsError> {
        // Before reading: what changes meanwhile is read again.
        let stamps = stamps(&files);
        let loaded = Loaded::read(&files)?;
        let looked = Looked { at: None, stamps };
        Ok(Self {
            shared: Arc::new(Shared {
                files,
                instance: instance.to_owned(),
                look_interval,
                now: ArcSwap::from_pointee(loaded),
                looked: Mutex::new(looked),
            }),
            between_regions: None,
        })
    }

    /// The same, with a congestion control for connections, from here and to here, at whose
    /// other end another region is. All others keep the kernel's.
    #[must_use]
    pub fn between_regions(self, congestion: CongestionControl) -> Self {
        Self {
            between_regions: Some(congestion),
            ..self
        }
    }

    /// Now it is known who is at the other end.
    pub(super) fn known(&self, plain: &BoxedIo, link: &Link) {
        let (Some(own), Some(peer)) = (link.own.region(), link.peer.region()) else {
            return;
        };
        if own == peer {
            return;
        }
        let congestion = self.between_regions.as_ref();
        let set_up = |socket| between_regions::set_up(socket, congestion);
        if let Some(Err(error)) = plain.socket().map(set_up) {
            warn!(%peer, %error, "a connection to another region sends as any other one");
        }
    }

    /// Who this process is.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.shared.now.load().identity)
    }

    /// Refuses a certificate that is another's.
    ///
    /// # Errors
    /// When the identity is not who is expected.
    pub fn check_own(&self, want: &Expected) -> Result<(), TlsError> {
        let got = self.identity();
        if want.admits(&got) {
            return Ok(());
        }
        Err(TlsError::Another {
            file: self.shared.files.certificate.clone(),
            got: Box::new(Identity::clone(&got)),
            want: want.clone(),
        })
    }

    /// Reads the files again, whether or not they have changed. What was good stays in use
    /// when they cannot be used.
    ///
    /// # Errors
    /// Those of [`Self::load`], and when the certificate is suddenly another's.
    pub fn reload(&self) -> Result<(), TlsError> {
        let shared = &self.shared;
        let stamps = stamps(&shared.files);
        let loaded = Loaded::read(&shared.files).and_then(|loaded| self.same(loaded));
        let outcome = if loaded.is_ok() { "ok" } else { "failed" };
        metrics::counter!(
            "kvmesh_tls_reloads_total", "instance" => shared.instance.clone(), "outcome" => outcome
        )
        .increment(1);
        shared.now.store(Arc::new(loaded?));
        let mut looked = shared.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.stamps = stamps;
        Ok(())
    }

    /// A process does not become another one while it runs.
    fn same(&self, loaded: Loaded) -> Result<Loaded, TlsError> {
        let own = self.identity();
        if loaded.identity == own {
            return Ok(loaded);
        }
        Err(TlsError::Another {
            file: self.shared.files.certificate.clone(),
            got: Box::new(Identity::clone(&loaded.identity)),
            want: Expected {
                role: Some(own.role()),
                region: own.region().cloned(),
                name: Some(own.name().to_owned()),
            },
        })
    }

    /// For a connection that is made now. Looks at the files first, when it is time to: three
    /// small local files, and so without a thread of its own.
    pub(super) fn now(&self) -> Arc<Loaded> {
        if self.is_changed() {
            match self.reload() {
                Ok(()) => info!(identity = %self.identity(), "new certificates are in use"),
                Err(error) => warn!(
                    error = %with_causes(&error),
                    "new certificates cannot be used: the old ones stay; mend the files"
                ),
            }
        }
        self.shared.now.load_full()
    }

    fn is_changed(&self) -> bool {
        let shared = &self.shared;
        let mut looked = shared.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = looked.at.is_none_or(|at| now >= at + shared.look_interval);
        if !due {
            return false;
        }
        looked.at = Some(now);
        metrics::gauge!(
            "kvmesh_tls_certificate_ends_seconds", "instance" => shared.instance.clone()
        )
        .set(shared.now.load().not_after as f64);
        looked.stamps != stamps(&shared.files)
    }

    pub(super) fn count(&self, side: &'static str, error: Option<&io::Error>) {
        let outcome = match error.map(io::Error::kind) {
            None => "ok",
            Some(io::ErrorKind::TimedOut) => "silent",
            Some(_) => "refused",
        };
        metrics::counter!(
            "kvmesh_tls_handshakes_total",
            "instance" => self.shared.instance.clone(), "side" => side, "outcome" => outcome
        )
        .increment(1);
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.certificate, &files.key, &files.ca].map(|file| {
        let meta = fs::metadata(file).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}
