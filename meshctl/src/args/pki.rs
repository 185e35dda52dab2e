//! Flags of `meshctl pki`.

use std::{net::IpAddr, path::PathBuf};

use clap::Subcommand;

pub(super) const ABOUT: &str = "\
Certificates for a mesh, from a CA of its own

For trying a mesh out, and for small ones: the CA's key lies in a folder, unencrypted. A mesh
that matters takes certificates with the same names from the CA that its owner runs already
(SPIRE, Vault, cert-manager).";

const INIT: &str = "\
Writes ca.pem, which every process trusts, and ca-key.pem, which nobody but `pki issue` needs.

Example: meshctl pki init pki --trust-domain kvmesh.local";

const ISSUE: &str = "\
Writes <region>-<role>-<name>.pem and -key.pem, and a copy of ca.pem, into --out. The
certificate's name is spiffe://<trust domain>/region/<region>/<role>/<name>; an operator has
no region. A node's name is its number. Addresses are not verified: --dns and --ip are for
other programs that connect.

Examples:
  meshctl pki issue pki --role node --region us-east --name 1
  meshctl pki issue pki --role gateway --region us-east --name gw-1 --out /etc/kvmesh
  meshctl pki issue pki --role region-sync --region us-east --name sync-1
  meshctl pki issue pki --role client --region us-east --name engine-1
  meshctl pki issue pki --role operator --name alice
  meshctl pki issue pki --role node --region us-east --name 1 --renew";

/// Verbs about certificates.
#[derive(Debug, Subcommand)]
pub enum PkiVerb {
    /// Make a CA, once
    #[command(after_help = INIT)]
    Init(PkiInitArgs),
    /// Make a key and a certificate for one process or person
    #[command(after_help = ISSUE)]
    Issue(PkiIssueArgs),
    /// Say whose a certificate is, and until when it is valid
    #[command(after_help = "Example: meshctl pki show pki/us-east-node-1.pem -o json")]
    Show(PkiShowArgs),
}

/// A CA to make.
#[derive(Debug, Clone, clap::Args)]
pub struct PkiInitArgs {
    /// Folder to put it into; made when it is not there.
    pub dir: PathBuf,
    /// What its certificates' names begin with: one mesh, one trust domain.
    #[arg(long, default_value = "kvmesh.local", value_name = "NAME")]
    pub trust_domain: String,
    /// Days that the CA is valid.
    #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// A certificate to make.
#[derive(Debug, Clone, clap::Args)]
pub struct PkiIssueArgs {
    /// Folder of the CA.
    pub dir: PathBuf,
    /// What it does: node, gateway, region-sync, client, operator.
    #[arg(long)]
    pub role: String,
    /// Its region; an operator has none.
    #[arg(long)]
    pub region: Option<String>,
    /// A node's number, or a name that is its own.
    #[arg(long)]
    pub name: String,
    /// Days that it is valid.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// Folder to write into [default: the folder of the CA].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A host name to put in; repeatable.
    #[arg(long, value_name = "HOST")]
    pub dns: Vec<String>,
    /// An address to put in; repeatable.
    #[arg(long, value_name = "ADDR")]
    pub ip: Vec<IpAddr>,
    /// Replace the files of an earlier one; processes take the new ones up by themselves.
    #[arg(long)]
    pub renew: bool,
}

/// A certificate to look at.
#[derive(Debug, Clone, clap::Args)]
pub struct PkiShowArgs {
    /// PEM file; of several certificates in it, all are shown.
    pub file: PathBuf,
}
