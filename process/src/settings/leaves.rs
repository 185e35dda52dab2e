//! Settings as single values with dotted keys: to show them, and to compare them.

use serde::Serialize;

/// One setting that is no table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaf {
    /// Dotted.
    pub(super) key: String,
    pub(super) value: toml::Value,
}

/// All settings, ascending by key. Lists are single values.
///
/// # Errors
/// When TOML cannot say one.
pub(super) fn leaves<S: Serialize>(settings: &S) -> Result<Vec<Leaf>, toml::ser::Error> {
    let mut found = Vec::new();
    walk("", toml::Value::try_from(settings)?, &mut found);
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

fn walk(key: &str, value: toml::Value, found: &mut Vec<Leaf>) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                let key = match key {
                    "" => name,
                    key => format!("{key}.{name}"),
                };
                walk(&key, value, found);
            }
        }
        value => found.push(Leaf {
            key: key.to_owned(),
            value,
        }),
    }
}
