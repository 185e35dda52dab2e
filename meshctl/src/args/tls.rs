//! Flags of who the caller is.

use std::{path::PathBuf, sync::Arc};

use kvmesh_client::{
    channel::{Channels, TcpConnect},
    tls::{Credentials, Expected, Role, TlsConnect, TlsFiles},
};

use crate::exit;

/// Certificate, key and CA: all three or none. Without them connections are plaintext.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options of all verbs")]
pub struct TlsArgs {
    /// Certificate to call with, PEM; see `meshctl pki`
    #[arg(long, global = true, value_name = "FILE", env = "KVMESH_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, global = true, value_name = "FILE", env = "KVMESH_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// CAs to trust, PEM
    #[arg(long, global = true, value_name = "FILE", env = "KVMESH_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// Channels to processes of a role; none: to whoever is of this mesh.
    ///
    /// # Errors
    /// When only some of the flags are there, or their files cannot be used.
    pub fn channels(&self, role: Option<Role>) -> anyhow::Result<Channels> {
        let plain = Arc::new(TcpConnect);
        let Some(credentials) = self.credentials()? else {
            return Ok(Channels::new(plain));
        };
        let channels = Channels::new(Arc::new(TlsConnect::new(plain, credentials)));
        Ok(channels.expecting(Expected {
            role,
            ..Expected::default()
        }))
    }

    /// As [`Self::channels`], with another certificate and its key; the CAs are the same.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn channels_as(
        &self,
        certificate: &str,
        key: &str,
        role: Option<Role>,
    ) -> anyhow::Result<Channels> {
        let who = Self {
            tls_cert: Some(certificate.into()),
            tls_key: Some(key.into()),
            tls_ca: self.tls_ca.clone(),
        };
        who.channels(role)
    }

    /// Who calls; none: nobody in particular, in plaintext.
    ///
    /// # Errors
    /// When only some of the flags are there, or their files cannot be used.
    pub fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        let files = match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (None, None, None) => return Ok(None),
            (Some(certificate), Some(key), Some(ca)) => TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                ca: ca.clone(),
            },
            _ => {
                let what = "TLS needs all of --tls-cert, --tls-key and --tls-ca";
                return Err(exit::set_up(what));
            }
        };
        let credentials = Credentials::load(files, "meshctl")
            .map_err(|error| exit::set_up(format!("{:#}", anyhow::Error::new(error))))?;
        Ok(Some(credentials))
    }
}
