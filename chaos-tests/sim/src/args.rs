//! What `kvmesh-sim` can be asked.

use std::{ops::Range, time::Duration};

use clap::{Parser, ValueEnum};
use kvmesh_directory::mutation::Mutation;

use crate::{Order, Shape};

/// Simulates a mesh from a seed, and judges what its clients were told.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Runs one seed, and reports on it.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Runs seeds, such as 0..100, and prints tables.
    #[arg(long, value_parser = seeds)]
    pub seeds: Option<Range<u64>>,
    /// Seeds that run side by side.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Prints the events of the run.
    #[arg(long)]
    pub log: bool,
    /// Prints the events, and every segment on the wire: where do two runs part?
    #[arg(long)]
    pub wire: bool,
    /// Runs each seed twice in one process and once in another: do they agree in every event
    /// and every byte on the wire?
    #[arg(long)]
    pub repeat: bool,
    /// Prints a summary for programs.
    #[arg(long)]
    pub brief: bool,
    /// How long clients work, seconds of simulated time.
    #[arg(long, default_value_t = 15)]
    pub load_s: u64,
    /// Nothing goes wrong.
    #[arg(long)]
    pub calm: bool,
    /// Regions of the mesh.
    #[arg(long, default_value_t = 3)]
    pub regions: usize,
    /// Runs the seeds with each known bug switched on, and says how many found it; 0 for a bug
    /// is a failure.
    #[arg(long, requires = "seeds", conflicts_with = "mutation")]
    pub mutations: bool,
    /// Switches a known bug on.
    #[arg(long)]
    pub mutation: Option<Bug>,
}

/// Known bugs; see [`Mutation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the same words as Mutation")]
pub enum Bug {
    AckBeforeApply,
    ClaimWithoutIncarnation,
    FillForgetsTombstone,
    EpochNotChecked,
    MeshViewSkips,
}

impl From<Bug> for Mutation {
    fn from(bug: Bug) -> Self {
        match bug {
            Bug::AckBeforeApply => Self::AckBeforeApply,
            Bug::ClaimWithoutIncarnation => Self::ClaimWithoutIncarnation,
            Bug::FillForgetsTombstone => Self::FillForgetsTombstone,
            Bug::EpochNotChecked => Self::EpochNotChecked,
            Bug::MeshViewSkips => Self::MeshViewSkips,
        }
    }
}

impl Args {
    /// The run of one seed.
    #[must_use]
    pub fn order(&self) -> Order {
        Order {
            seed: self.seed,
            shape: Shape {
                regions: self.regions.clamp(1, 3),
                nodes: 3,
                gateways: 2,
                clients: 2,
                joins: [false; 3],
            },
            load: Duration::from_secs(self.load_s.max(1)),
            faults: !self.calm,
            mutation: self.mutation.map(Mutation::from),
            keep_lines: self.log || self.wire,
            keep_segments: self.wire,
        }
    }

    /// What a process that runs one seed is told besides it.
    #[must_use]
    pub fn passed_on(&self) -> Vec<String> {
        let mut passed = vec![
            "--load-s".to_owned(),
            self.load_s.to_string(),
            "--regions".to_owned(),
            self.regions.to_string(),
        ];
        if self.calm {
            passed.push("--calm".to_owned());
        }
        let name = self.mutation.and_then(|bug| bug.to_possible_value());
        if let Some(name) = name {
            passed.extend(["--mutation".to_owned(), name.get_name().to_owned()]);
        }
        passed
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("write it as 0..100")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let seeds = number(from)?..number(to)?;
    match seeds.is_empty() {
        true => Err("there is no seed in it".to_owned()),
        false => Ok(seeds),
    }
}
