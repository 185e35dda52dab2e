//! The `[tls]` settings, and what a process does with them: it listens and calls with its
//! certificate, or in plaintext where it has none.

mod incoming;

use std::{path::PathBuf, sync::Arc};

use kvmesh_client::{
    channel::{Incoming, TcpConnect},
    tls::{TlsConnect, TlsFiles},
};
use serde::{Deserialize, Serialize};

pub use incoming::{HANDSHAKES_MAX, incoming};
pub use kvmesh_client::tls::{Credentials, Expected, Identity, Role, TlsError};

use crate::{
    Environment, SystemClock,
    settings::{Check, Impossible},
};

/// Where the process's own certificate, its key, and the CAs that it trusts are: PEM files,
/// all three or none. They are looked at again while the process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The certificate, and after it those between it and the CA.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CAs that are trusted.
    pub ca: PathBuf,
}

impl TlsSettings {
    /// Whether gRPC is secured.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    /// Reads and checks the files; none: TLS is not set up. `instance` is a label of metrics.
    ///
    /// # Errors
    /// When they cannot be used, or are another's than `own`.
    pub fn load(&self, instance: &str, own: &Expected) -> Result<Option<Credentials>, TlsError> {
        if !self.is_set() {
            return Ok(None);
        }
        let files = TlsFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            ca: self.ca.clone(),
        };
        let credentials = Credentials::load(files, instance)?;
        credentials.check_own(own)?;
        Ok(Some(credentials))
    }
}

impl Check for TlsSettings {
    fn check(&self) -> Result<(), Impossible> {
        let files = [
            ("tls.certificate", &self.certificate),
            ("tls.key", &self.key),
            ("tls.ca", &self.ca),
        ];
        let empty = |file: &PathBuf| file.as_os_str().is_empty();
        if files.iter().all(|(_, file)| empty(file)) {
            return Ok(());
        }
        match files.into_iter().find(|(_, file)| empty(file)) {
            None => Ok(()),
            Some((key, _)) => {
                let want = "TLS needs all of tls.certificate, tls.key and tls.ca";
                Err(Impossible::new(key, "empty", want))
            }
        }
    }
}

/// What a process calls with and is called on: over TLS when it has credentials.
pub(crate) fn secured(
    instance: &str,
    plain: Incoming,
    credentials: Option<Credentials>,
) -> (Environment, Incoming) {
    match credentials {
        None => (Environment::real(instance), plain),
        Some(credentials) => {
            let connector = TlsConnect::new(Arc::new(TcpConnect), credentials.clone());
            let environment =
                Environment::new(Arc::new(connector), Arc::new(SystemClock), instance);
            (environment, incoming(plain, credentials))
        }
    }
}
