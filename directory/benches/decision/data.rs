//! What the public files say: requests, links, and what models cost.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use anyhow::{Context, ensure};
use kvmesh_directory::cost::Prefill;
use serde::Deserialize;

/// A block that more than one request in so many shares does not tell conversations apart.
const SHARED_BY_ONE_IN: usize = 20;
/// Recordings that were made days apart follow one another after so long.
const PAUSE_MAX: f64 = 60.0;

/// One request.
pub(crate) struct Request {
    /// Seconds from the trace's begin.
    pub(crate) at: f64,
    pub(crate) tokens: u64,
    /// Its blocks from the root on; a number stands for the whole prefix.
    pub(crate) chain: Vec<u32>,
    /// What it belongs to.
    pub(crate) conversation: u64,
}

pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) block_tokens: u32,
    pub(crate) requests: Vec<Request>,
    pub(crate) unique: usize,
}

#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: u64,
    hash_ids: Vec<u64>,
    #[serde(default)]
    session_id: String,
}

impl Trace {
    pub(crate) fn read(path: &Path, block_tokens: u32) -> anyhow::Result<Self> {
        let text = read(path)?;
        let lines = text.lines().map(serde_json::from_str);
        let lines: Vec<Line> = lines
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} has a line that is no request", path.display()))?;
        let mut uses: HashMap<u64, usize> = HashMap::new();
        for line in &lines {
            for id in line.hash_ids.iter().collect::<HashSet<_>>() {
                *uses.entry(*id).or_default() += 1;
            }
        }
        let mut numbers = HashMap::new();
        let mut requests = Vec::with_capacity(lines.len());
        let (mut at, mut before) = (0.0, 0.0);
        for line in lines {
            let now = line.timestamp / 1_000.0;
            at += (now - before).clamp(0.0, PAUSE_MAX);
            before = now;
            let own = line.hash_ids.iter();
            let own = own
                .copied()
                .find(|id| uses[id] * SHARED_BY_ONE_IN <= uses.len());
            let conversation = match line.session_id.as_str() {
                "" => own.or(line.hash_ids.first().copied()).unwrap_or_default(),
                id => u64::from_str_radix(&id[..15], 16)?,
            };
            let chain = line.hash_ids.iter().map(|id| {
                let next = numbers.len() as u32;
                *numbers.entry(*id).or_insert(next)
            });
            requests.push(Request {
                at,
                tokens: line.input_length,
                chain: chain.collect(),
                conversation,
            });
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self {
            name: name.into_owned(),
            block_tokens,
            requests,
            unique: numbers.len(),
        })
    }
}

/// One pair of regions.
#[derive(Clone, Copy, Default)]
pub(crate) struct Link {
    pub(crate) rtt: f64,
    /// Bytes per second.
    pub(crate) bandwidth: f64,
}

/// The links of all pairs, measured from one cloud's machines, and how far sources differ.
pub(crate) struct Network {
    pub(crate) cloud: &'static str,
    pub(crate) names: Vec<String>,
    pub(crate) links: Vec<Vec<Link>>,
    /// Standard deviation of the logarithm of a bandwidth and of a round trip.
    pub(crate) bandwidth_sigma: f64,
    pub(crate) rtt_sigma: f64,
}

impl Network {
    pub(crate) fn read(folder: &Path, cloud: &'static str) -> anyhow::Result<Self> {
        let matrix = table(&folder.join("rtt_10regions_matrix.csv"))?;
        let names: Vec<String> = matrix[0][1..].to_vec();
        let pairs = table(&folder.join("rtt_10regions.csv"))?;
        let column = |name: String| {
            let found = pairs[0].iter().position(|head| *head == name);
            found.with_context(|| format!("rtt_10regions.csv has no column {name}"))
        };
        let gbps = |cloud: &str| column(format!("gbps_{cloud}_vm_a_to_b_2022"));
        let (aws, gcp, own) = (gbps("aws")?, gbps("gcp")?, gbps(cloud)?);
        let number = |row: &[String], at: usize| row[at].parse::<f64>().ok();
        let rows = || pairs[1..].iter();
        let ratio = |row: &Vec<String>, to: usize| {
            let both = number(row, to).zip(number(row, aws));
            both.map(|(this, aws)| (this / aws).ln())
        };
        // Where a cloud was not measured, as much more than AWS as it is elsewhere.
        let (level, _) = mean_and_deviation(rows().filter_map(|row| ratio(row, own)));
        let between = rows().filter_map(|row| ratio(row, gcp));
        let (_, bandwidth_sigma) = mean_and_deviation(between);
        let sources = 3..7;
        let trips = rows().flat_map(|row| {
            let recommended = number(row, 2);
            let all = sources.clone().filter_map(|at| number(row, at));
            all.filter_map(move |rtt| recommended.map(|it| (rtt / it).ln()))
        });
        let (_, rtt_sigma) = mean_and_deviation(trips);
        let mut links = vec![vec![Link::default(); names.len()]; names.len()];
        for row in rows() {
            let place = |name: &String| names.iter().position(|it| it == name);
            let ends = place(&row[0]).zip(place(&row[1]));
            let (a, b) = ends.with_context(|| format!("{} is not in the matrix", row[0]))?;
            let gbps = number(row, own).or(number(row, aws).map(|aws| aws * level.exp()));
            let rtt: f64 = matrix[a + 1][b + 1].parse()?;
            let link = Link {
                rtt: rtt / 1_000.0,
                bandwidth: gbps.context("a pair has no bandwidth")? * 1e9 / 8.0,
            };
            (links[a][b], links[b][a]) = (link, link);
        }
        Ok(Self {
            cloud,
            names,
            links,
            bandwidth_sigma,
            rtt_sigma,
        })
    }
}

/// What a model's KV weighs and what computing it takes.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) bytes_per_token: f64,
    pub(crate) prefill: Prefill,
}

/// Name in `kv_geometry.csv`, configuration in `breakeven_rtt80ms.csv`.
const MODELS: [(&str, &str); 4] = [
    ("Llama-3.1-8B", "Llama-3.1-8B bf16, 1xH100"),
    ("Llama-3.1-70B", "Llama-3.3-70B bf16, 4xH100"),
    ("Llama-3.1-405B", "Llama-3.1-405B fp8 wts, 8xH100"),
    ("DeepSeek-V3/R1", "DeepSeek-V3 MLA, 8xH800 node"),
];

pub(crate) fn models(folder: &Path) -> anyhow::Result<Vec<Model>> {
    let geometry = table(&folder.join("kv_geometry.csv"))?;
    let rates = table(&folder.join("breakeven_rtt80ms.csv"))?;
    let models = MODELS.iter().map(|(name, config)| {
        let row = geometry.iter().find(|row| row[0] == *name);
        let row = row.with_context(|| format!("kv_geometry.csv has no {name}"))?;
        let rate = rates.iter().find(|row| row[0] == *config);
        let rate = rate.with_context(|| format!("breakeven_rtt80ms.csv has no {config}"))?;
        let bytes_per_token: f64 = row[5].parse()?;
        let number = |at: usize| rate[at].parse::<f64>();
        // Where fetching over 10 Gbit/s at 80 ms begins to win tells the growth of attention:
        // 0.080 + 8 k L / 10e9 = L / P (1 + L / G).
        let (kv, rate, even) = (number(2)?, number(3)?, number(6)?);
        let fetch = 0.080 + 8.0 * kv * even / 10e9;
        let growth = even / (fetch * rate / even - 1.0);
        Ok(Model {
            name,
            bytes_per_token,
            prefill: Prefill { rate, growth },
        })
    });
    models.collect()
}

fn mean_and_deviation(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let count = values.len().max(2) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    (mean, (squares.sum::<f64>() / (count - 1.0)).sqrt())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let missing = || {
        format!(
            "no data at {}: nothing was compared; name the folder with --data",
            path.display()
        )
    };
    fs::read_to_string(path).with_context(missing)
}

/// Comma-separated values, of which some are quoted.
fn table(path: &Path) -> anyhow::Result<Vec<Vec<String>>> {
    let text = read(path)?;
    let rows: Vec<Vec<String>> = text
        .lines()
        .map(|line| {
            let (mut cells, mut quoted) = (vec![String::new()], false);
            for letter in line.chars() {
                match letter {
                    '"' => quoted = !quoted,
                    ',' if !quoted => cells.push(String::new()),
                    other => cells.last_mut().expect("there is one").push(other),
                }
            }
            cells
        })
        .collect();
    ensure!(rows.len() > 1, "{} has no rows", path.display());
    Ok(rows)
}
