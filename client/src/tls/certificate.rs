//! What a certificate says: whose it is, and when it is valid.

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::identity::{Identity, IdentityError};

/// Why a certificate names nobody of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It is damaged, or something else.
    #[error("it is not an X.509 certificate: {0}")]
    Unreadable(String),
    /// No name, or several: SPIFFE admits exactly one.
    #[error("it has {0} names of kind URI instead of one: issue it with its SPIFFE name")]
    Names(usize),
    /// Its name is of another kind.
    #[error("its name cannot be read")]
    Identity(#[from] IdentityError),
}

/// The facts of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its names of kind URI.
    pub uris: Vec<String>,
    /// Host names and addresses that it names besides.
    pub hosts: Vec<String>,
    /// Subject, for people.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Seconds since 1970 from which on it is valid.
    pub not_before: i64,
    /// Seconds since 1970 until which it is valid.
    pub not_after: i64,
}

impl Certificate {
    /// Reads a certificate in DER. It verifies nothing.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(der: &[u8]) -> Result<Self, CertificateProblem> {
        let unreadable =
            |error: &dyn std::fmt::Display| CertificateProblem::Unreadable(error.to_string());
        let (rest, read) = parse_x509_certificate(der).map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(unreadable(&"more follows after its end"));
        }
        let names = read
            .subject_alternative_name()
            .map_err(|error| unreadable(&error))?;
        let (mut uris, mut hosts) = (Vec::new(), Vec::new());
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::IPAddress(raw) => hosts.extend(address(raw)),
                _ => {}
            }
        }
        Ok(Self {
            uris,
            hosts,
            subject: read.subject().to_string(),
            issuer: read.issuer().to_string(),
            serial: read.raw_serial_as_string(),
            is_ca: read.is_ca(),
            not_before: read.validity().not_before.timestamp(),
            not_after: read.validity().not_after.timestamp(),
        })
    }

    /// Whose it is.
    ///
    /// # Errors
    /// When it has not exactly one name of kind URI, or that is no name of a mesh.
    pub fn identity(&self) -> Result<Identity, CertificateProblem> {
        match &self.uris[..] {
            [uri] => Ok(uri.parse()?),
            uris => Err(CertificateProblem::Names(uris.len())),
        }
    }
}

fn address(raw: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(raw).map(|raw| std::net::Ipv4Addr::from(raw).to_string());
    let sixteen = <[u8; 16]>::try_from(raw).map(|raw| std::net::Ipv6Addr::from(raw).to_string());
    four.or(sixteen).ok()
}
