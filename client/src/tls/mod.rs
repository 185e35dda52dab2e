//! Mutual TLS: who a process is, whom it trusts, and encrypted connections to others.
//!
//! Invariants: TLS 1.3, HTTP/2, and a certificate at both ends, or no connection; a connection
//! is never resumed, so each one sees certificates as they are now.
//!
//! Not here: how servers accept many, and who may call what; the `process` crate does these.

mod accept;
mod certificate;
mod connect;
mod credentials;
mod error;
mod identity;
mod loaded;
mod stream;
mod verify;

pub use accept::accept;
pub use certificate::{Certificate, CertificateProblem};
pub use connect::{HANDSHAKE_TIMEOUT, TlsConnect};
pub use credentials::{Credentials, LOOK_INTERVAL};
pub use error::TlsError;
pub use identity::{
    Expected, Identity, IdentityError, Role, check_trust_domain, trust_domain_of, trust_domain_uri,
};
pub use loaded::{TlsFiles, certificates_of_pem};
