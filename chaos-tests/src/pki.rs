//! Certificates for a mesh of real processes, by `meshctl pki`.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use kvmesh_client::{
    channel::{Channels, TcpConnect},
    tls::{Credentials, TlsConnect, TlsFiles},
};

use crate::{operator::Operator, programs};

/// Certificates of one CA.
pub(crate) struct Pki {
    pub(crate) folder: PathBuf,
    operator: Operator,
}

impl Pki {
    pub(crate) async fn init(folder: PathBuf) -> Result<Self> {
        let program = programs::folder()?.join("meshctl");
        let operator = Operator::plain(program);
        let path = folder.to_str().context("a path in UTF-8")?;
        operator.json(&["pki", "init", path]).await?;
        Ok(Self { folder, operator })
    }

    /// What one process of each kind in a region needs, and a client of it.
    pub(crate) async fn issue_region(&self, region: &str, ip: &str) -> Result<()> {
        for role in ["node", "gateway", "region-sync", "client"] {
            self.issue(role, Some(region), "1", ip).await?;
        }
        Ok(())
    }

    /// As [`Self::issue_region`], of a region of so many nodes.
    pub(crate) async fn issue_nodes(&self, region: &str, nodes: u64, ip: &str) -> Result<()> {
        self.issue_region(region, ip).await?;
        for node in 2..=nodes {
            let node = node.to_string();
            self.issue("node", Some(region), &node, ip).await?;
        }
        Ok(())
    }

    /// `meshctl` with the certificate of these files.
    pub(crate) fn operator(&self, who: &str) -> Operator {
        let file = |name: String| self.folder.join(name).display().to_string();
        let flags = [
            ("--tls-cert", file(format!("{who}.pem"))),
            ("--tls-key", file(format!("{who}-key.pem"))),
            ("--tls-ca", file("ca.pem".to_owned())),
        ];
        let flags = flags.into_iter();
        Operator {
            program: self.operator.program.clone(),
            tls: flags
                .flat_map(|(flag, file)| [flag.to_owned(), file])
                .collect(),
        }
    }

    pub(crate) async fn issue(
        &self,
        role: &str,
        region: Option<&str>,
        name: &str,
        ip: &str,
    ) -> Result<()> {
        let path = self.folder.to_str().context("a path in UTF-8")?;
        let who = ["--role", role, "--name", name, "--ip", ip];
        let issue = [&["pki", "issue", path], &who[..]].concat();
        let region: Vec<&str> = region.map_or_else(Vec::new, |it| vec!["--region", it]);
        self.operator.json(&[issue, region].concat()).await?;
        Ok(())
    }

    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let file = self.folder.join(name);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    /// What calls with the certificate of these files.
    pub(crate) fn channels(&self, who: &str) -> Result<Channels> {
        let files = TlsFiles {
            certificate: self.folder.join(format!("{who}.pem")),
            key: self.folder.join(format!("{who}-key.pem")),
            ca: self.folder.join("ca.pem"),
        };
        let credentials = Credentials::load(files, who)?;
        let connect = TlsConnect::new(Arc::new(TcpConnect), credentials);
        Ok(Channels::new(Arc::new(connect)))
    }
}
