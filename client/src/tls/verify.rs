//! Who is accepted at the other end: the chain is verified by webpki, then the name by rule.
//!
//! Addresses are not compared with certificates: what a certificate proves is the SPIFFE name.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    certificate::Certificate,
    error::{NameError, TlsError},
    identity::{Expected, Identity},
};

/// Whose certificates count, and what their names begin with.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    trust_domain: Arc<str>,
}

impl Trust {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        trust_domain: &str,
    ) -> Self {
        let trust_domain = trust_domain.into();
        Self {
            roots,
            provider,
            trust_domain,
        }
    }

    /// Verifies those that call.
    pub(super) fn of_callers(self) -> Result<Callers, TlsError> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        Ok(Callers {
            chain: chain.map_err(|error| TlsError::Setup(error.to_string()))?,
            trust: self,
        })
    }

    /// Verifies who is called.
    pub(super) fn of_servers(self, expected: Expected) -> Servers {
        Servers {
            trust: self,
            expected,
        }
    }

    fn check_name(&self, der: &[u8], expected: &Expected) -> Result<(), NameError> {
        let got = identity_of(der)?;
        if got.trust_domain() != &*self.trust_domain {
            let own = self.trust_domain.to_string();
            return Err(NameError::TrustDomain { got, own });
        }
        if !expected.admits(&got) {
            let want = expected.clone();
            return Err(NameError::Unexpected { got, want });
        }
        Ok(())
    }

    fn name(&self, der: &[u8], expected: &Expected) -> Result<(), Error> {
        self.check_name(der, expected)
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))).into())
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn signature_12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whose a certificate in DER is.
pub(super) fn identity_of(der: &[u8]) -> Result<Identity, NameError> {
    Ok(Certificate::read(der)?.identity()?)
}

/// Verifies those that call: any process of the mesh may connect; what it may call is decided
/// call by call.
#[derive(Debug)]
pub(super) struct Callers {
    chain: Arc<dyn ClientCertVerifier>,
    trust: Trust,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(certificate, intermediates, now)?;
        self.trust.name(certificate, &Expected::default())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.signature_12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.schemes()
    }
}

/// Verifies who is called, against who is expected.
#[derive(Debug)]
pub(super) struct Servers {
    trust: Trust,
    expected: Expected,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.trust.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.trust.roots,
            intermediates,
            now,
            algorithms,
        )?;
        self.trust.name(certificate, &self.expected)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.signature_12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.schemes()
    }
}
