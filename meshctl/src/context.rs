//! Names of meshes: which gateway or node to ask, and who asks.
//!
//! A TOML file, written whole or not at all:
//!
//! ```toml
//! current = "lab"
//! [contexts.lab]
//! gateway = ["127.0.0.1:7400"]
//! ```
//!
//! A context counts only where no flag and no variable says otherwise. Who names a gateway or
//! a node, and no context, is asked for none.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{args::Global, exit};

/// The file under the home directory.
const FILE: &str = ".config/kvmesh/contexts.toml";

/// Where one mesh is, and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Gateways, `host:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<String>,
    /// Node to ask instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Region-sync that `region sync` asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region_sync: Option<String>,
    /// Certificate to call with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// CAs to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that counts when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Reads a file; one that is not there has none.
    ///
    /// # Errors
    /// When it cannot be read, or is no such file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let wrong = |why: String| exit::set_up(format!("contexts {}: {why}", path.display()));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))
    }

    /// Writes the file whole, beside it first.
    ///
    /// # Errors
    /// When it cannot be written; then the old one stands.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let written = || {
            let text = toml::to_string(self).map_err(io::Error::other)?;
            let dir = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            io::Result::Ok(())
        };
        written().map_err(|error| {
            exit::set_up(format!(
                "contexts {} cannot be written: {error}",
                path.display()
            ))
        })
    }

    /// A context by its name.
    ///
    /// # Errors
    /// When there is none; the error names those that there are.
    pub fn get(&self, name: &str) -> anyhow::Result<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = match names.is_empty() {
                true => "there are none: `meshctl context set NAME --gateway ADDR`".to_owned(),
                false => format!("there are {}", names.join(", ")),
            };
            exit::set_up(format!("context {name:?} is not known; {known}"))
        })
    }
}

/// The file that the flags name.
///
/// # Errors
/// When they name none and the user has no home directory.
pub fn file(global: &Global) -> anyhow::Result<PathBuf> {
    match &global.contexts {
        Some(path) => Ok(path.clone()),
        None => std::env::home_dir()
            .map(|home| home.join(FILE))
            .ok_or_else(|| exit::set_up("no home directory: name the file with --contexts")),
    }
}

/// Fills in what no flag says; afterwards `context` is the name of the one that counts.
///
/// # Errors
/// When the file cannot be read, or the named context is not in it.
pub fn resolve(mut global: Global) -> anyhow::Result<Global> {
    let asked = [&global.node, &global.region_sync];
    let said = !global.gateway.is_empty() || asked.into_iter().any(Option::is_some);
    if said && global.context.is_none() {
        return Ok(global);
    }
    // Without a home there are no contexts, and nobody has asked for one.
    let contexts = match (file(&global), &global.context) {
        (Ok(path), _) => Contexts::read(&path)?,
        (Err(error), Some(_)) => return Err(error),
        (Err(_), None) => return Ok(global),
    };
    let Some(name) = global.context.clone().or(contexts.current.clone()) else {
        return Ok(global);
    };
    let context = contexts.get(&name)?;
    if !said {
        global.gateway.clone_from(&context.gateway);
        global.node.clone_from(&context.node);
        global.region_sync.clone_from(&context.region_sync);
    }
    let tls = &mut global.tls;
    if tls.tls_cert.is_none() && tls.tls_key.is_none() && tls.tls_ca.is_none() {
        tls.tls_cert.clone_from(&context.tls_cert);
        tls.tls_key.clone_from(&context.tls_key);
        tls.tls_ca.clone_from(&context.tls_ca);
    }
    global.context = Some(name);
    Ok(global)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn global(path: &Path, flags: &[&str]) -> Global {
        let contexts = ["meshctl", "stats", "--contexts", path.to_str().unwrap()];
        Args::parse_from(contexts.iter().chain(flags)).global
    }

    #[test]
    fn flags_come_before_the_named_context_and_that_before_the_current_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("contexts.toml");
        let at = |address: &str| Context {
            gateway: vec![address.to_owned()],
            tls_ca: Some("ca.pem".into()),
            ..Context::default()
        };
        let contexts = Contexts {
            current: Some("lab".to_owned()),
            contexts: [("lab", at("lab:1")), ("prod", at("prod:1"))]
                .map(|(name, context)| (name.to_owned(), context))
                .into(),
        };
        contexts.write(&path).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), contexts);

        let resolved = |flags: &[&str]| resolve(global(&path, flags)).unwrap();
        let seen = |global: &Global| (global.address().to_owned(), global.context.clone());
        let lab = resolved(&[]);
        assert_eq!(seen(&lab), ("lab:1".to_owned(), Some("lab".to_owned())));
        assert_eq!(lab.tls.tls_ca.as_deref(), Some(Path::new("ca.pem")));
        let prod = resolved(&["--context", "prod"]);
        assert_eq!(seen(&prod), ("prod:1".to_owned(), Some("prod".to_owned())));
        let flagged = resolved(&["--gateway", "flag:1"]);
        assert_eq!(seen(&flagged), ("flag:1".to_owned(), None));
        assert_eq!(flagged.tls.tls_ca, None);
        let both = resolved(&["--gateway", "flag:1", "--context", "prod"]);
        assert_eq!(seen(&both), ("flag:1".to_owned(), Some("prod".to_owned())));
        let node = resolved(&["--node", "flag:2"]);
        assert_eq!(seen(&node), ("flag:2".to_owned(), None));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        let error = resolve(global(&path, &["--context", "lab"])).unwrap_err();
        assert!(error.to_string().contains("there are none"), "{error}");
        assert_eq!(exit::code(&error), exit::SET_UP);
        assert_eq!(resolve(global(&path, &[])).unwrap().context, None);
        fs::write(&path, "curent = 'lab'").unwrap();
        let error = resolve(global(&path, &[])).unwrap_err();
        assert!(error.to_string().contains("curent"), "{error}");
        fs::write(&path, "current = 'lab'\n[contexts.home]").unwrap();
        let error = resolve(global(&path, &[])).unwrap_err();
        assert!(error.to_string().contains("there are home"), "{error}");
    }
}
