//! Which ports a dev mesh takes. With a data directory they are kept there: the committed
//! members name them, so a second run must take the same ones.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::mesh::Settings;
use crate::exit;

/// Ports of each region: its nodes', its gateway's, its region-sync's. 0: any free one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    nodes: usize,
    regions: Vec<Vec<u16>>,
}

impl Ports {
    /// The ports of an earlier run, or what the settings say.
    ///
    /// # Errors
    /// When the data directory belongs to a mesh of another shape.
    pub(super) fn load(settings: &Settings) -> anyhow::Result<Self> {
        if let Some(dir) = &settings.data_dir
            && let Some(kept) = read(&file(dir))?
        {
            let shape = (kept.regions.len(), kept.nodes);
            if shape != (settings.regions, settings.nodes) {
                return Err(exit::set_up(format!(
                    "{} keeps a mesh of {} regions of {} nodes: name these, or another directory",
                    dir.display(),
                    shape.0,
                    shape.1
                )));
            }
            return Ok(kept);
        }
        let gateway = |at: usize| match settings.first_port {
            0 => 0,
            first => first.saturating_add(at as u16),
        };
        let region = |at| {
            let nodes = std::iter::repeat_n(0, settings.nodes);
            nodes.chain([gateway(at), 0]).collect()
        };
        Ok(Self {
            nodes: settings.nodes,
            regions: (0..settings.regions).map(region).collect(),
        })
    }

    /// Keeps the ports taken, if there is a data directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn keep(settings: &Settings, regions: Vec<Vec<u16>>) -> anyhow::Result<()> {
        let Some(dir) = &settings.data_dir else {
            return Ok(());
        };
        let ports = Self {
            nodes: settings.nodes,
            regions,
        };
        let text = serde_json::to_string_pretty(&ports)?;
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(file(dir), text))
            .map_err(|error| {
                exit::set_up(format!("{} cannot be written to: {error}", dir.display()))
            })
    }

    pub(super) fn node(&self, region: usize, node: usize) -> u16 {
        self.regions[region].get(node).copied().unwrap_or(0)
    }

    pub(super) fn gateway(&self, region: usize) -> u16 {
        self.node(region, self.nodes)
    }

    pub(super) fn region_sync(&self, region: usize) -> u16 {
        self.node(region, self.nodes + 1)
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("ports.json")
}

fn read(path: &Path) -> anyhow::Result<Option<Ports>> {
    let wrong = |why: String| exit::set_up(format!("{}: {why}", path.display()));
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| wrong(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(data_dir: Option<PathBuf>) -> Settings {
        Settings {
            regions: 2,
            nodes: 1,
            link_scale: 0.0,
            memory_bytes: 1,
            data_dir,
            first_port: 7_400,
            return_after: None,
            gateways_map: false,
        }
    }

    #[test]
    fn gateways_follow_one_another() {
        let ports = Ports::load(&settings(None)).unwrap();
        assert_eq!((ports.gateway(0), ports.gateway(1)), (7_400, 7_401));
        assert_eq!((ports.node(1, 0), ports.region_sync(1)), (0, 0));
    }

    #[test]
    fn a_second_run_takes_the_same_ports() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(Some(dir.path().join("mesh")));
        let taken = vec![vec![1, 2, 3], vec![4, 5, 6]];
        Ports::keep(&settings, taken.clone()).unwrap();
        assert_eq!(Ports::load(&settings).unwrap().regions, taken);
        settings.nodes = 3;
        let error = Ports::load(&settings).unwrap_err();
        assert_eq!(exit::code(&error), exit::SET_UP);
    }
}
