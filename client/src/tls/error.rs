//! Why certificates cannot be used, and why a peer was refused; each says what to do next.

use std::{io, path::PathBuf};

use rustls::{AlertDescription, CertificateError, Error as Rustls};

use super::{
    certificate::CertificateProblem,
    identity::{Expected, Identity},
};

/// Why a process's own certificate, key or CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{what} file {file} cannot be read")]
    Read {
        /// Certificate, key or CA.
        what: &'static str,
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not have what it should.
    #[error("{what} file {file} has none in PEM: check which file it is")]
    Empty {
        /// Certificate, key or CA.
        what: &'static str,
        /// Which file.
        file: PathBuf,
    },
    /// The certificate names nobody of a mesh.
    #[error("certificate {file} cannot be used")]
    Certificate {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: CertificateProblem,
    },
    /// The certificate is not good for others, or no longer.
    #[error("certificate {file} would be refused by others: {why}")]
    Refused {
        /// Which file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// Certificate and key do not belong together.
    #[error("key {key} does not belong to certificate {certificate}: give both of one issue")]
    Pair {
        /// Of the certificate.
        certificate: PathBuf,
        /// Of the key.
        key: PathBuf,
    },
    /// The certificate is another process's.
    #[error("certificate {file} is of {got}, this is {want}: give it its own")]
    Another {
        /// Which file.
        file: PathBuf,
        /// Whose it is.
        got: Box<Identity>,
        /// Whose it should be.
        want: Expected,
    },
    /// TLS cannot be set up with them.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Why a peer's certificate is refused although its chain is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error("its certificate names nobody of a mesh")]
    Certificate(#[from] CertificateProblem),
    #[error(
        "it is {got}, of another trust domain than {own:?}: give it a certificate of this mesh"
    )]
    TrustDomain { got: Identity, own: String },
    #[error(
        "it is {got}, {want} was expected: check the address, and which certificate it was given"
    )]
    Unexpected { got: Identity, want: Expected },
}

/// What went wrong in a handshake or on a connection, in words for the one who runs this end.
pub(super) fn explain(error: &Rustls) -> String {
    match error {
        Rustls::NoCertificatesPresented => {
            "it presented no certificate: give it one of this mesh".to_owned()
        }
        Rustls::InvalidMessage(_) => {
            "it does not speak TLS: set up TLS at both ends, or at neither".to_owned()
        }
        Rustls::InvalidCertificate(why) => certificate(why),
        Rustls::AlertReceived(alert) => alerted(*alert),
        Rustls::PeerIncompatible(why) => {
            format!("it speaks another TLS than 1.3 ({why:?}): update it")
        }
        Rustls::NoApplicationProtocol => "it does not offer HTTP/2 (ALPN h2)".to_owned(),
        other => other.to_string(),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by a CA that is trusted here: give it one of this mesh, \
             or add its CA to the trust bundle"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check the clocks of both ends".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for this use: a server's needs the extended key usage \
             serverAuth, and one that calls others clientAuth"
                .to_owned()
        }
        CertificateError::Other(other) => with_causes(other),
        other => format!("its certificate cannot be used: {other}"),
    }
}

/// What the other end says by its alert; it does not say more.
fn alerted(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::CertificateExpired => "it has expired, or the clocks differ: renew it",
        AlertDescription::UnknownCA => "its CA is not trusted there",
        AlertDescription::CertificateRequired => "none was presented: set up TLS here",
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::NoApplicationProtocol => {
            return format!("it refused the connection ({alert:?}): it speaks another TLS");
        }
        AlertDescription::BadCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => "its log says why",
        _ => return format!("it ended the connection with the alert {alert:?}"),
    };
    format!("it refused the certificate of this end ({alert:?}): {what}")
}

/// An error with its causes, for one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

/// The same error with words that say what to do, where TLS is the reason.
pub(super) fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls) => io::Error::new(error.kind(), explain(rustls)),
        None => error,
    }
}
