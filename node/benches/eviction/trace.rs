//! A trace of requests: which blocks each asks for, and when.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// One request.
pub(crate) struct Request {
    /// When, in seconds from the trace's begin.
    pub(crate) second: u64,
    /// Numbers of its blocks from the root on; a number stands for the whole prefix.
    pub(crate) chain: Vec<u32>,
}

/// A whole trace.
pub(crate) struct Trace {
    /// In the order of time.
    pub(crate) requests: Vec<Request>,
    /// Blocks that differ.
    pub(crate) unique: usize,
    /// Blocks asked for.
    pub(crate) asked: usize,
}

#[derive(Deserialize)]
struct Line {
    hash_ids: Vec<u64>,
    timestamp: f64,
}

impl Trace {
    /// Reads one JSON object a line, with `hash_ids` and a `timestamp` in milliseconds.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("no trace at {}", path.display()))?;
        let mut numbers = HashMap::new();
        let mut requests = Vec::new();
        for line in BufReader::new(file).lines() {
            let line: Line = serde_json::from_str(&line?)
                .with_context(|| format!("{} has a line that is no request", path.display()))?;
            let chain = line.hash_ids.iter().map(|id| {
                let next = numbers.len() as u32;
                *numbers.entry(*id).or_insert(next)
            });
            requests.push(Request {
                second: (line.timestamp / 1_000.0) as u64,
                chain: chain.collect(),
            });
        }
        let sorted = requests.is_sorted_by_key(|request| request.second);
        ensure!(sorted, "{} is not in the order of time", path.display());
        let asked = requests.iter().map(|request| request.chain.len()).sum();
        ensure!(asked > 0, "{} asks for nothing", path.display());
        Ok(Self {
            requests,
            unique: numbers.len(),
            asked,
        })
    }
}
