//! Where keys and certificates lie.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use kvmesh_client::tls::{Certificate, Identity};
use serde::Serialize;

use super::{Authority, Issued, Validity};
use crate::exit;

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Files that were written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA that every process trusts.
    pub ca: PathBuf,
}

/// Makes a CA in a folder.
///
/// # Errors
/// When there is one already, or the folder cannot be written.
pub fn init(dir: &Path, trust_domain: &str, valid: Validity) -> anyhow::Result<Made> {
    let (certificate, key) = (dir.join(CA), dir.join(CA_KEY));
    for file in [&certificate, &key] {
        refuse_existing(file, "choose another folder, a CA is never replaced")?;
    }
    let (_, issued) = Authority::new(trust_domain, valid)?;
    fs::create_dir_all(dir).map_err(|error| cannot("made", dir, &error))?;
    write_new(&key, &issued.key, SECRET)?;
    write_new(&certificate, &issued.certificate, PUBLIC)?;
    let ca = certificate.clone();
    Ok(Made {
        certificate,
        key,
        ca,
    })
}

/// The CA of a folder.
///
/// # Errors
/// When there is none.
pub fn open(dir: &Path) -> anyhow::Result<Authority> {
    Authority::read(&read(&dir.join(CA))?, &read(&dir.join(CA_KEY))?)
        .with_context(|| format!("folder {}", dir.display()))
}

/// Makes a certificate by the CA of a folder, and writes it into `out`, with the CA's own.
///
/// # Errors
/// When there is no CA, or files are there already and `renew` is not set.
pub fn issue(
    dir: &Path,
    identity: &Identity,
    issued: &Issued,
    out: &Path,
    renew: bool,
) -> anyhow::Result<Made> {
    let made = write_issued(out, identity, issued, renew)?;
    if !made.ca.exists() {
        replace(&made.ca, &read(&dir.join(CA))?, PUBLIC)?;
    }
    Ok(made)
}

/// Writes a certificate and its key under names that say whose they are.
///
/// # Errors
/// When they are there already and `renew` is not set.
pub fn write_issued(
    out: &Path,
    identity: &Identity,
    issued: &Issued,
    renew: bool,
) -> anyhow::Result<Made> {
    let region = identity.region().map(|region| format!("{region}-"));
    let (region, role) = (region.unwrap_or_default(), identity.role());
    let stem = format!("{region}{role}-{}", identity.name());
    let made = Made {
        certificate: out.join(format!("{stem}.pem")),
        key: out.join(format!("{stem}-key.pem")),
        ca: out.join(CA),
    };
    fs::create_dir_all(out).map_err(|error| cannot("made", out, &error))?;
    if !renew {
        for file in [&made.certificate, &made.key] {
            refuse_existing(file, "add --renew to replace it")?;
        }
    }
    // Between the two, a process that looks finds that they do not fit, and looks again later.
    replace(&made.key, &issued.key, SECRET)?;
    replace(&made.certificate, &issued.certificate, PUBLIC)?;
    Ok(made)
}

/// The certificates of a PEM text.
///
/// # Errors
/// When there is none, or one cannot be read.
pub(crate) fn certificates(pem: &str) -> anyhow::Result<Vec<Certificate>> {
    Ok(kvmesh_client::tls::certificates_of_pem(pem.as_bytes())?)
}

/// A file's text.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).map_err(|error| {
        let hint = match file.ends_with(CA) || file.ends_with(CA_KEY) {
            true => ": make a CA with `meshctl pki init`",
            false => "",
        };
        exit::set_up(format!(
            "file {} cannot be read ({error}){hint}",
            file.display()
        ))
    })
}

fn refuse_existing(file: &Path, hint: &str) -> anyhow::Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let file = file.display();
    Err(exit::set_up(format!(
        "file {file} is there already: {hint}"
    )))
}

fn write_new(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(mode);
    let written = options.open(file).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| cannot("written", file, &error))
}

/// Writes beside the file first, so that it is whole at any time.
fn replace(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // Of a run that was cut short.
    let _ = fs::remove_file(&beside);
    write_new(&beside, text, mode)?;
    fs::rename(&beside, file).map_err(|error| cannot("replaced", file, &error))
}

fn cannot(what: &str, file: &Path, error: &io::Error) -> anyhow::Error {
    exit::set_up(format!("{} cannot be {what}: {error}", file.display()))
}
