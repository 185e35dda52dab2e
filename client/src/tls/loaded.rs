//! Certificate, key and CA as they were read at one time, checked against one another.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    version::TLS13,
};

use super::{
    certificate::{Certificate, CertificateProblem},
    error::{TlsError, explain},
    identity::{Expected, Identity, Role},
    verify::Trust,
};

/// What is spoken inside of TLS.
pub(super) const ALPN: &[u8] = b"h2";

/// Where a process's own certificate, its key, and the CAs that it trusts are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate, and after it those between it and the CA.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CAs that are trusted.
    pub ca: PathBuf,
}

/// Credentials as they are now. Connections that are made keep those that they were made with.
pub(super) struct Loaded {
    pub(super) identity: Arc<Identity>,
    /// Seconds since 1970 at which the certificate ends.
    pub(super) not_after: i64,
    pub(super) server: Arc<ServerConfig>,
    client: ClientConfig,
    trust: Trust,
}

impl Loaded {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates("certificate", &files.certificate)?;
        let key = key(&files.key)?;
        let provider = Arc::new(provider());
        let facts = facts(&files.certificate, &chain)?;
        let identity = facts.identity().map_err(|source| TlsError::Certificate {
            file: files.certificate.clone(),
            source,
        })?;
        let roots = Arc::new(roots(&files.ca)?);
        let trust = Trust::new(roots, Arc::clone(&provider), identity.trust_domain());
        check_chain(files, &chain, &trust, &identity)?;
        let pair = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Pair {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            },
            other => TlsError::Setup(other.to_string()),
        };
        let server = server(&provider, trust.clone())?
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        let anybody = Arc::new(trust.clone().of_servers(Expected::default()));
        let client = client(&provider, anybody)?
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        Ok(Self {
            identity: Arc::new(identity),
            not_after: facts.not_after,
            server: Arc::new(tuned_server(server)),
            client: tuned_client(client),
            trust,
        })
    }

    /// For one connection to whom is expected.
    pub(super) fn client(&self, expected: &Expected) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        let verifier = self.trust.clone().of_servers(expected.clone());
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

/// AES-128-GCM first: it takes less of the processor than AES-256-GCM, which ring prefers.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    let suites = &mut provider.cipher_suites;
    suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

type ServerBuilder = rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>;

fn server(provider: &Arc<CryptoProvider>, trust: Trust) -> Result<ServerBuilder, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    Ok(builder.with_client_cert_verifier(Arc::new(trust.of_callers()?)))
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientBuilder, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// A resumed session would skip the certificates, and with them their end and their renewal.
fn tuned_server(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn tuned_client(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

/// Refuses what every other process would refuse: better at the start than at each call.
fn check_chain(
    files: &TlsFiles,
    chain: &[CertificateDer<'_>],
    trust: &Trust,
    identity: &Identity,
) -> Result<(), TlsError> {
    let (end, between) = chain.split_first().ok_or_else(|| TlsError::Empty {
        what: "certificate",
        file: files.certificate.clone(),
    })?;
    let now = UnixTime::now();
    let refused = |error: rustls::Error| TlsError::Refused {
        file: files.certificate.clone(),
        why: explain(&error),
    };
    let callers = trust.clone().of_callers()?;
    callers
        .verify_client_cert(end, between, now)
        .map_err(refused)?;
    if matches!(
        identity.role(),
        Role::Node | Role::Gateway | Role::RegionSync
    ) {
        let servers = trust.clone().of_servers(Expected::default());
        servers
            .verify_server_cert(end, between, &nobody(), &[], now)
            .map_err(refused)?;
    }
    Ok(())
}

/// TLS wants a name for who is called; ours are in the certificates.
pub(super) fn nobody() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

fn read(what: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|source| TlsError::Read {
        what,
        file: file.to_owned(),
        source,
    })
}

fn certificates(what: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let empty = || TlsError::Empty {
        what,
        file: file.to_owned(),
    };
    let found = found.map_err(|_| empty())?;
    if found.is_empty() {
        return Err(empty());
    }
    Ok(found)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "key";
    PrivateKeyDer::from_pem_slice(&read(what, file)?).map_err(|_| TlsError::Empty {
        what,
        file: file.to_owned(),
    })
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", file)? {
        roots.add(certificate).map_err(|error| {
            let why = CertificateProblem::Unreadable(error.to_string());
            TlsError::Certificate {
                file: file.to_owned(),
                source: why,
            }
        })?;
    }
    Ok(roots)
}

fn facts(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Certificate, TlsError> {
    let end = chain.first().map_or(&[][..], |end| end);
    Certificate::read(end).map_err(|source| TlsError::Certificate {
        file: file.to_owned(),
        source,
    })
}

/// The certificates of a PEM text. It verifies nothing.
///
/// # Errors
/// When there is none, or one cannot be read.
pub fn certificates_of_pem(pem: &[u8]) -> Result<Vec<Certificate>, CertificateProblem> {
    let unreadable = |why: String| CertificateProblem::Unreadable(why);
    let found: Result<Vec<Certificate>, _> = CertificateDer::pem_slice_iter(pem)
        .map(|der| {
            let der = der.map_err(|error| unreadable(error.to_string()))?;
            Certificate::read(&der)
        })
        .collect();
    match found? {
        found if found.is_empty() => Err(unreadable("there is none in PEM".to_owned())),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_suite_is_offered_first_and_none_is_lost() {
        let suites = provider().cipher_suites;
        let first = suites.first().map(|suite| suite.suite());
        assert_eq!(first, Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(suites.len(), ring::default_provider().cipher_suites.len());
    }
}
