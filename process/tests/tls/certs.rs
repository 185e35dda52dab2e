//! Certificates for tests, also such as no tool of ours would make.

use std::{fs, path::PathBuf};

use kvmesh_client::tls::{Credentials, TlsFiles};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;

/// A CA.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// For a name of kind URI, valid in the years given.
    pub(crate) fn issue(&self, uri: Option<&str>, years: (i32, i32)) -> Pair {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let uri = uri.map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uri);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn good(&self, uri: &str) -> Pair {
        self.issue(Some(uri), GOOD)
    }
}

pub(crate) const GOOD: (i32, i32) = (2020, 2100);

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Files of one process, replaceable.
pub(crate) struct Files {
    dir: TempDir,
}

impl Files {
    pub(crate) fn new(pair: &Pair, ca: &str) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write(pair, ca);
        files
    }

    pub(crate) fn write(&self, pair: &Pair, ca: &str) {
        let files = self.paths();
        fs::write(files.key, &pair.key).unwrap();
        fs::write(files.certificate, &pair.certificate).unwrap();
        fs::write(files.ca, ca).unwrap();
    }

    pub(crate) fn paths(&self) -> TlsFiles {
        let file = |name: &str| -> PathBuf { self.dir.path().join(name) };
        TlsFiles {
            certificate: file("certificate.pem"),
            key: file("key.pem"),
            ca: file("ca.pem"),
        }
    }

    /// Looks at the files at every connection.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::load_looking(self.paths(), "test", std::time::Duration::ZERO).unwrap()
    }
}
