//! Settings: defaults, then a TOML file, then `KVMESH_<PROGRAM>_…` variables, then flags.
//! Read once; unknown keys and impossible values are refused before a socket opens.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

/// Settings that could not be had; says which file and key.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {}

/// Settings know what is possible.
pub trait Check {
    /// Refuses impossible values.
    ///
    /// # Errors
    /// The key, and what is possible.
    fn check(&self) -> Result<(), Impossible>;
}

/// A value that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("setting {key} is {got}: {want}")]
pub struct Impossible {
    /// Dotted key.
    pub key: String,
    /// What was there.
    pub got: String,
    /// What may be there.
    pub want: String,
}

/// Loads the settings of a program (`node`, `gateway`, `region-sync`). `flags` are dotted keys with values.
///
/// # Errors
/// Names the file or variable and the key.
pub fn load<T>(
    _program: &str,
    _file: Option<&Path>,
    _flags: &[(String, String)],
) -> Result<T, SettingsError>
where
    T: Serialize + DeserializeOwned + Default + Check,
{
    todo!()
}
