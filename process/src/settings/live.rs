//! Settings that can change while a program runs.
//!
//! Invariant: who asks gets all settings of one moment, never some of two.
//!
//! Not here: which may change (`ProgramSettings::RELOADABLE`), and when (`reload`).

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::leaves::{Leaf, leaves};

/// The settings: by [`Live::at_start`] as the program started with them, for what cannot
/// change; by [`Live::now`] as they are. Cheap to clone; all clones see the same.
#[derive(Debug)]
pub struct Live<S> {
    started: Arc<S>,
    now: watch::Receiver<Arc<S>>,
}

/// Changes what [`Live`] shows.
#[derive(Debug)]
pub struct Changer<S>(watch::Sender<Arc<S>>);

impl<S> Live<S> {
    /// Settings, and what can change them.
    #[must_use]
    pub fn new(settings: S) -> (Changer<S>, Self) {
        let started = Arc::new(settings);
        let (changer, now) = watch::channel(Arc::clone(&started));
        (Changer(changer), Self { started, now })
    }

    /// The settings as they are now. Ask again rather than keep them.
    #[must_use]
    pub fn now(&self) -> Arc<S> {
        Arc::clone(&self.now.borrow())
    }

    /// The settings as the program started with them.
    #[must_use]
    pub fn at_start(&self) -> &S {
        &self.started
    }

    /// Waits for the next change that this clone has not waited for. Never comes back where
    /// nothing can change them.
    pub async fn changed(&mut self) {
        if self.now.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl<S> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self {
            started: Arc::clone(&self.started),
            now: self.now.clone(),
        }
    }
}

/// Settings that never change: for tests, and for many servers in one process.
impl<S> From<S> for Live<S> {
    fn from(settings: S) -> Self {
        Self::new(settings).1
    }
}

impl<S> Changer<S> {
    /// From now on the settings are these.
    pub fn change(&self, settings: S) {
        self.0.send_replace(Arc::new(settings));
    }
}

/// One setting that is another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Dotted key.
    pub key: String,
    /// As TOML; none: it was not there.
    pub old: Option<String>,
    /// As TOML; none: it is gone.
    pub new: Option<String>,
}

/// What differs between two settings, ascending by key.
///
/// # Errors
/// When TOML cannot say one.
pub fn changes<S: Serialize>(old: &S, new: &S) -> Result<Vec<Change>, toml::ser::Error> {
    let (old, new) = (leaves(old)?, leaves(new)?);
    let value = |leaves: &[Leaf], key: &str| {
        let found = leaves.iter().find(|leaf| leaf.key == key);
        found.map(|leaf| leaf.value.to_string())
    };
    let mut keys: Vec<&str> = old.iter().chain(&new).map(|leaf| &*leaf.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let change = |key: &str| Change {
        key: key.to_owned(),
        old: value(&old, key),
        new: value(&new, key),
    };
    let differs = |change: &Change| change.old != change.new;
    Ok(keys.into_iter().map(change).filter(differs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Serialize)]
    struct Lamp {
        wait_ms: u64,
        bulbs: Vec<u32>,
        tls: Tls,
        zone: Option<String>,
    }

    #[derive(Clone, Serialize)]
    struct Tls {
        key: String,
    }

    #[test]
    fn what_differs_is_found_wherever_it_stands() {
        let old = Lamp {
            wait_ms: 5,
            bulbs: vec![1],
            tls: Tls {
                key: "k".to_owned(),
            },
            zone: None,
        };
        let found = |change: fn(&mut Lamp)| {
            let mut new = old.clone();
            change(&mut new);
            let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
            let lines = changes(&old, &new).unwrap().into_iter();
            let line = |c: Change| format!("{} {} {}", c.key, text(c.old), text(c.new));
            lines.map(line).collect::<Vec<_>>()
        };
        assert!(found(|_| {}).is_empty());
        assert_eq!(found(|lamp| lamp.wait_ms = 6), ["wait_ms 5 6"]);
        assert_eq!(found(|lamp| lamp.bulbs.push(2)), ["bulbs [1] [1, 2]"]);
        let two = found(|lamp| {
            lamp.zone = Some("z".to_owned());
            lamp.tls.key.clear();
        });
        assert_eq!(two, ["tls.key \"k\" \"\"", "zone none \"z\""]);
    }

    #[tokio::test]
    async fn all_who_ask_see_the_change() {
        let (changer, mut live) = Live::new(1);
        let (clone, before) = (live.clone(), live.now());
        changer.change(2);
        live.changed().await;
        let started = *live.at_start();
        assert_eq!((*live.now(), *clone.now(), *before, started), (2, 2, 1, 1));
    }
}
