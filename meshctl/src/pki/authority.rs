//! Keys and certificates, in memory.

use std::net::IpAddr;

use anyhow::{Context, bail, ensure};
use kvmesh_client::tls::{
    Certificate, Identity, Role, check_trust_domain, trust_domain_of, trust_domain_uri,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// Clocks of a mesh may differ by so much.
const BACKDATED_SECONDS: i64 = 300;
const DAY_SECONDS: i64 = 86_400;

/// From when until when, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
}

impl Validity {
    /// So many days from now on, and a little before, for clocks that go behind.
    #[must_use]
    pub fn days(now_ms: u64, days: u32) -> Self {
        let now = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
        Self {
            not_before: now.saturating_sub(BACKDATED_SECONDS),
            not_after: now.saturating_add(i64::from(days) * DAY_SECONDS),
        }
    }
}

/// A certificate with its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key; keep it secret.
    pub key: String,
}

/// A CA.
pub struct Authority {
    trust_domain: String,
    not_after: i64,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; its key is in the second answer, and nowhere else.
    ///
    /// # Errors
    /// When the trust domain cannot be.
    pub fn new(trust_domain: &str, valid: Validity) -> anyhow::Result<(Self, Issued)> {
        check_trust_domain(trust_domain)?;
        let mut params = params(valid)?;
        let name = format!("kvmesh CA of {trust_domain}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![uri(&trust_domain_uri(trust_domain))?];
        // It signs processes, not further CAs.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let issued = Issued {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        Ok((Self::read(&issued.certificate, &issued.key)?, issued))
    }

    /// From its PEM texts.
    ///
    /// # Errors
    /// When they are not a mesh's CA.
    pub fn read(certificate: &str, key: &str) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key).context("the CA's key cannot be read")?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key);
        let issuer = issuer.context("the CA's certificate cannot be read")?;
        let facts = super::files::certificates(certificate)?;
        let [facts] = &facts[..] else {
            bail!("the CA has {} certificates instead of one", facts.len());
        };
        ensure!(facts.is_ca, "the certificate is not of a CA");
        let [domain] = &facts.uris[..] else {
            bail!("the CA names no trust domain: make one with `meshctl pki init`");
        };
        let domain = trust_domain_of(domain);
        Ok(Self {
            trust_domain: domain
                .context("the CA's name is no trust domain")?
                .to_owned(),
            not_after: facts.not_after,
            certificate: certificate.to_owned(),
            issuer,
        })
    }

    /// What the names of its certificates begin with.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Its certificate in PEM, which every process trusts.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A key and a certificate for a process or a person.
    ///
    /// # Errors
    /// When it would outlive the CA, or a host name cannot be.
    pub fn issue(
        &self,
        identity: &Identity,
        valid: Validity,
        dns: &[String],
        ips: &[IpAddr],
    ) -> anyhow::Result<Issued> {
        ensure!(
            valid.not_after <= self.not_after,
            "the certificate would outlive the CA: take fewer days, or make a new CA"
        );
        let mut params = params(valid)?;
        let name = identity.to_string();
        // Not the SPIFFE name: subjects are short.
        let common = format!("{} {}", identity.role(), identity.name());
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = vec![uri(&name)?];
        for host in dns {
            let host = host.as_str().try_into();
            let host = host.with_context(|| "a host name is ASCII".to_owned())?;
            params.subject_alt_names.push(SanType::DnsName(host));
        }
        let addresses = ips.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages(identity.role());
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A client's or an operator's certificate cannot be used by a server.
fn usages(role: Role) -> Vec<ExtendedKeyUsagePurpose> {
    match role {
        Role::Node | Role::Gateway | Role::RegionSync => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        Role::Client | Role::Operator => vec![ExtendedKeyUsagePurpose::ClientAuth],
    }
}

fn params(valid: Validity) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = OffsetDateTime::from_unix_timestamp(valid.not_before)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(valid.not_after)?;
    Ok(params)
}

fn uri(name: &str) -> anyhow::Result<SanType> {
    Ok(SanType::URI(name.try_into()?))
}

impl From<&Certificate> for Validity {
    fn from(certificate: &Certificate) -> Self {
        Self {
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        }
    }
}
