//! Settings: defaults, then a TOML file, then `KVMESH_<PROGRAM>_…` variables, then flags.
//! Read once, and again when the program is told to; unknown keys and impossible values are
//! refused before a socket opens.
//!
//! A variable's name is the key in capitals, with `__` where the key has a dot.
//! The values of variables and flags are TOML, or else plain text.

mod layer;
mod leaves;
pub mod live;
mod outside;
pub mod possible;
#[cfg(test)]
mod settings_test;

use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

use figment::{Figment, providers::Serialized};
use serde::{Serialize, de::DeserializeOwned};

pub use live::Live;
pub use outside::Outside;

use layer::Layer;
use leaves::leaves;

/// Settings that could not be had; says which file, variable or flag, and which key.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("settings file {file} cannot be read")]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("settings file {file} is not TOML: {problem}")]
    Syntax {
        /// Which file.
        file: PathBuf,
        /// Where, and what is wrong.
        problem: String,
    },
    /// A variable or flag does not name a key.
    #[error("{origin} names no key: a key is words with single dots between them")]
    NoKey {
        /// Which variable or flag.
        origin: String,
    },
    /// A key is unknown or missing, or its value has another type.
    #[error("{origin}: key {key}: {problem}")]
    Key {
        /// File, variable or flag.
        origin: String,
        /// Dotted key.
        key: String,
        /// What is wrong, and what may be there.
        problem: String,
    },
    /// A value that can be read and cannot be.
    #[error("{origin}: {impossible}")]
    Impossible {
        /// File, variable or flag.
        origin: String,
        /// Key, value, and what is possible.
        impossible: Impossible,
    },
}

/// Settings know what is possible.
pub trait Check {
    /// Refuses impossible values.
    ///
    /// # Errors
    /// The key, and what is possible.
    fn check(&self) -> Result<(), Impossible>;
}

/// A value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {key} is {got}: {want}")]
pub struct Impossible {
    /// Dotted key.
    pub key: String,
    /// What was there.
    pub got: String,
    /// What may be there.
    pub want: String,
}

impl Impossible {
    /// A value that cannot be at a key.
    pub fn new(key: impl Into<String>, got: impl ToString, want: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            got: got.to_string(),
            want: want.into(),
        }
    }
}

/// Where the settings of a program come from, as read at one time.
pub struct Sources {
    layers: Vec<Layer>,
}

impl Sources {
    /// Reads file and variables of a program (`node`, `gateway`, `region-sync`). `flags` are
    /// dotted keys with values.
    ///
    /// # Errors
    /// Names the file or variable.
    pub fn read(
        program: &str,
        file: Option<&Path>,
        flags: &[(String, String)],
    ) -> Result<Self, SettingsError> {
        Self::of(file, layer::variables(program), flags)
    }

    /// As [`Sources::read`], with the variables given.
    fn of(
        file: Option<&Path>,
        variables: Vec<layer::Variable>,
        flags: &[(String, String)],
    ) -> Result<Self, SettingsError> {
        let mut layers = Vec::new();
        if let Some(file) = file {
            layers.push(Layer::file(file)?);
        }
        for variable in variables {
            layers.push(Layer::variable(&variable)?);
        }
        for (key, value) in flags {
            layers.push(Layer::flag(key, value)?);
        }
        Ok(Self { layers })
    }

    /// The settings.
    ///
    /// # Errors
    /// Names the file, variable or flag, and the key.
    pub fn settings<T>(&self) -> Result<T, SettingsError>
    where
        T: Serialize + DeserializeOwned + Default + Check,
    {
        let defaults = Figment::from(Serialized::defaults(T::default()));
        let merged = self.layers.iter().fold(defaults.clone(), Layer::over);
        let settings: T = merged
            .extract()
            .map_err(|error| blame::<T>(defaults, &self.layers, &error))?;
        settings.check().map_err(|wrong| self.blamed(wrong))?;
        Ok(settings)
    }

    /// An impossible value, with where it comes from.
    #[must_use]
    pub fn blamed(&self, impossible: Impossible) -> SettingsError {
        SettingsError::Impossible {
            origin: self
                .origin(&impossible.key)
                .unwrap_or("the defaults")
                .to_owned(),
            impossible,
        }
    }

    /// The last source that has a key, or the part of the key before its first index; none:
    /// it has its default.
    fn origin(&self, key: &str) -> Option<&str> {
        let stem = key.split('[').next().unwrap_or(key);
        let from = self.layers.iter().rev().find(|layer| layer.has(stem));
        from.map(|layer| layer.origin.as_str())
    }

    /// Every setting on a line of its own, with where it comes from; still TOML.
    ///
    /// # Errors
    /// When TOML cannot say one.
    pub fn explained<T: Serialize>(&self, settings: &T) -> Result<String, toml::ser::Error> {
        let mut text = String::new();
        for leaf in leaves(settings)? {
            let origin = self.origin(&leaf.key).unwrap_or("default");
            let _ = writeln!(text, "{} = {}  # {origin}", leaf.key, leaf.value);
        }
        Ok(text)
    }
}

/// Says which layer brought an error: the first with which it shows.
fn blame<T: DeserializeOwned>(
    defaults: Figment,
    layers: &[Layer],
    error: &figment::Error,
) -> SettingsError {
    let mut merged = defaults;
    let mut origin = None;
    for layer in layers {
        merged = Layer::over(merged, layer);
        if let Err(now) = merged.extract::<T>()
            && (now.path == error.path && now.kind == error.kind)
        {
            origin = Some(layer.origin.clone());
            break;
        }
    }
    let mut key = error.path.join(".");
    let named = match &error.kind {
        figment::error::Kind::UnknownField(field, _) => Some(field.clone()),
        figment::error::Kind::MissingField(field) => Some(field.to_string()),
        _ => None,
    };
    if let Some(field) = named
        && error.path.last() != Some(&field)
    {
        key = if key.is_empty() {
            field
        } else {
            format!("{key}.{field}")
        };
    }
    SettingsError::Key {
        origin: origin.unwrap_or_else(|| "the settings".to_owned()),
        key,
        problem: match &error.kind {
            figment::error::Kind::UnknownField(_, possible) => {
                format!("it is unknown; possible are {}", possible.join(", "))
            }
            figment::error::Kind::MissingField(_) => "it is missing".to_owned(),
            kind => kind.to_string(),
        },
    }
}
