//! One source of settings: a file, a variable or a flag, and where it stands for messages.

use std::{fs, path::Path};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};

use super::SettingsError;

/// A variable of the environment that is meant for this program.
pub(super) struct Variable {
    /// As it is set.
    pub(super) name: String,
    /// Dotted key.
    pub(super) key: String,
    /// As it is set.
    pub(super) value: String,
}

/// Values of one source.
pub(super) struct Layer {
    /// For messages.
    pub(super) origin: String,
    values: Figment,
}

/// Variables that begin with `KVMESH_<PROGRAM>_`, ascending by name. The one place that reads the environment.
pub(super) fn variables(program: &str) -> Vec<Variable> {
    let prefix = format!("KVMESH_{}_", program.to_uppercase().replace('-', "_"));
    let mut found: Vec<_> = Env::raw()
        .lowercase(false)
        .iter()
        .filter_map(|(name, value)| {
            let name = name.into_string();
            let key = name.strip_prefix(&prefix)?;
            let key = key.to_lowercase().replace("__", ".");
            Some(Variable { name, key, value })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Layer {
    /// Not `Toml::file`: it searches parent folders and forgives a missing file.
    pub(super) fn file(file: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(file).map_err(|source| SettingsError::Read {
            file: file.to_owned(),
            source,
        })?;
        if let Err(error) = toml::from_str::<toml::Table>(&text) {
            return Err(SettingsError::Syntax {
                file: file.to_owned(),
                problem: error.to_string().trim().replace('\n', " "),
            });
        }
        Ok(Self {
            origin: format!("file {}", file.display()),
            values: Figment::from(Toml::string(&text)),
        })
    }

    pub(super) fn variable(variable: &Variable) -> Result<Self, SettingsError> {
        let origin = format!("variable {}", variable.name);
        Self::single(origin, &variable.key, &variable.value)
    }

    pub(super) fn flag(key: &str, value: &str) -> Result<Self, SettingsError> {
        Self::single(format!("flag --set {key}"), key, value)
    }

    fn single(origin: String, key: &str, value: &str) -> Result<Self, SettingsError> {
        if key.split('.').any(str::is_empty) {
            return Err(SettingsError::NoKey { origin });
        }
        Ok(Self {
            origin,
            values: Figment::from(Serialized::default(key, value_of(value))),
        })
    }

    /// `below` with this layer over it.
    pub(super) fn over(below: Figment, layer: &Self) -> Figment {
        below.merge(&layer.values)
    }

    /// Whether the layer has a value at a dotted key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains(key)
    }
}

/// The text as one TOML value, or else as plain text: `7` is a number, `"7"` and `7a` are texts.
fn value_of(text: &str) -> toml::Value {
    let plain = || toml::Value::String(text.to_owned());
    match toml::from_str::<toml::Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or_else(plain),
        _ => plain(),
    }
}
