//! Certificates of a dev mesh whose processes speak mutual TLS, made anew for each run and gone
//! with it, as `meshctl pki` makes them.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context;
use kvmesh_client::tls::{Credentials, Identity, Role, TlsFiles};
use kvmesh_directory::RegionId;
use kvmesh_process::{SystemClock, WallClock};
use tempfile::TempDir;

use crate::{
    args::TlsArgs,
    pki::{self, Authority, Validity},
};

const TRUST_DOMAIN: &str = "dev.kvmesh";
const DAYS: u32 = 1;

/// See the module.
pub struct Secured {
    dir: TempDir,
    authority: Authority,
    /// By region, role and name.
    processes: BTreeMap<String, Credentials>,
}

fn key(region: &RegionId, role: Role, name: &str) -> String {
    format!("{region}/{}-{name}", role.as_str())
}

impl Secured {
    /// Makes those of all processes of some regions, with so many nodes each.
    pub(super) fn new(regions: &[RegionId], nodes: usize) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("kvmesh-tls-").context("a folder for certificates")?;
        // A CA lives longer than what it signs.
        let ca = Validity::days(SystemClock.millis(), DAYS + 1);
        pki::init(dir.path(), TRUST_DOMAIN, ca)?;
        let mut secured = Self {
            authority: pki::open(dir.path())?,
            dir,
            processes: BTreeMap::new(),
        };
        for region in regions {
            let nodes = (1..=nodes).map(|node| (Role::Node, node.to_string()));
            let doors = [Role::Gateway, Role::RegionSync].map(|role| (role, "1".to_owned()));
            for (role, name) in nodes.chain(doors) {
                let files = secured.issue(role, Some(region), &name)?;
                let credentials = Credentials::load(files, &key(region, role, &name))?;
                secured
                    .processes
                    .insert(key(region, role, &name), credentials);
            }
        }
        Ok(secured)
    }

    fn issue(&self, role: Role, region: Option<&RegionId>, name: &str) -> anyhow::Result<TlsFiles> {
        let identity = Identity::new(TRUST_DOMAIN, role, region.cloned(), name)?;
        let valid = Validity::days(SystemClock.millis(), DAYS);
        let issued = self.authority.issue(&identity, valid, &[], &[])?;
        let made = pki::issue(self.dir.path(), &identity, &issued, self.dir.path(), true)?;
        Ok(TlsFiles {
            certificate: made.certificate,
            key: made.key,
            ca: made.ca,
        })
    }

    /// Of a process of the mesh.
    pub(crate) fn of(&self, region: &RegionId, role: Role, name: &str) -> Option<Credentials> {
        self.processes.get(&key(region, role, name)).cloned()
    }

    /// Flags of an operator, who may call everybody.
    ///
    /// # Errors
    /// When the certificate cannot be written.
    pub fn operator(&self) -> anyhow::Result<TlsArgs> {
        self.flags(self.issue(Role::Operator, None, "dev")?)
    }

    /// Flags of a client of a region.
    ///
    /// # Errors
    /// When the certificate cannot be written.
    pub fn client(&self, region: &RegionId) -> anyhow::Result<TlsArgs> {
        self.flags(self.issue(Role::Client, Some(region), "bench")?)
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "both callers return what it returns"
    )]
    fn flags(&self, files: TlsFiles) -> anyhow::Result<TlsArgs> {
        let of = |path: PathBuf| Some(path);
        Ok(TlsArgs {
            tls_cert: of(files.certificate),
            tls_key: of(files.key),
            tls_ca: of(files.ca),
        })
    }
}
