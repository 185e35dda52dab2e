//! What a benchmark says.

use serde::Serialize;

use super::load::Round;
use crate::{
    args::{BenchArgs, Work},
    output,
    replay::latency::{Percentiles, Times},
    sizes,
    ways::Ways,
};

/// All rounds of all who did the work.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `get`, `put` or `lookup`.
    pub work: &'static str,
    /// Of 100 calls so many put.
    pub puts_percent: u32,
    /// Of a block.
    pub bytes: u64,
    /// Blocks of a call.
    pub batch: u32,
    /// Connections.
    pub connections: u32,
    /// Calls a second that were due, in open loop.
    pub rate: Option<f64>,
    /// Ours first.
    pub results: Vec<Outcome>,
}

/// How one did.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Who.
    pub name: String,
    /// Of the median round.
    pub calls_per_s: f64,
    /// Of the median round; of lookups none.
    pub gb_per_s: Option<f64>,
    /// Names asked for, of the median round; of lookups only.
    pub names_per_s: Option<f64>,
    /// Of all rounds.
    pub latency_ms: Percentiles,
    /// Blocks by the way that they went, in the mesh; what was stored to be read apart.
    pub ways: Option<Ways>,
    /// Median over rounds of our throughput over this one's.
    pub ours_is: Option<f64>,
    #[serde(skip)]
    rounds: Vec<f64>,
}

impl Outcome {
    /// Of the rounds that one did.
    ///
    /// # Errors
    /// Never: the bounds of times are possible.
    pub fn new(
        name: String,
        work: Work,
        ways: Option<Ways>,
        rounds: &[Round],
    ) -> anyhow::Result<Self> {
        let per_s = |value: fn(&Round) -> u64| {
            let rounds = rounds.iter();
            rounds
                .map(|round| value(round) as f64 / round.took.as_secs_f64())
                .collect::<Vec<f64>>()
        };
        let mut times = Times::new()?;
        for round in rounds {
            times.add(&round.times)?;
        }
        let amounts = per_s(|round| round.amount);
        let amount = median(&amounts);
        let lookup = work == Work::Lookup;
        Ok(Self {
            name,
            calls_per_s: median(&per_s(|round| round.calls)),
            gb_per_s: (!lookup).then_some(amount / 1e9),
            names_per_s: lookup.then_some(amount),
            latency_ms: times.percentiles(),
            ways,
            ours_is: None,
            rounds: amounts,
        })
    }

    /// Notes how ours compares, round by round.
    pub fn compare(&mut self, ours: &Self) {
        let ratios = ours.rounds.iter().zip(&self.rounds);
        let ratios: Vec<f64> = ratios.map(|(ours, theirs)| ours / theirs).collect();
        self.ours_is = Some(median(&ratios));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Report {
    /// Of outcomes, ours first.
    #[must_use]
    pub fn new(args: &BenchArgs, mut results: Vec<Outcome>) -> Self {
        if let Some((ours, peers)) = results.split_first_mut() {
            peers.iter_mut().for_each(|peer| peer.compare(ours));
        }
        Self {
            work: match args.work {
                Work::Get => "get",
                Work::Put => "put",
                Work::Lookup => "lookup",
            },
            puts_percent: args.puts,
            bytes: args.bytes.0,
            batch: args.batch,
            connections: args.connections,
            rate: args.rate,
            results,
        }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let amount = match self.work {
            "lookup" => "names/s",
            _ => "GB/s",
        };
        let heads = ["", "calls/s", amount, "p50", "p95", "p99", "max", "ours is"];
        let mut table = output::table(&heads, &[1, 2, 3, 4, 5, 6, 7]);
        for result in &self.results {
            let latency = result.latency_ms;
            let amount = match (result.gb_per_s, result.names_per_s) {
                (Some(gb), _) => format!("{gb:.2}"),
                (None, names) => format!("{:.0}", names.unwrap_or_default()),
            };
            table.add_row(vec![
                result.name.clone(),
                format!("{:.0}", result.calls_per_s),
                amount,
                output::ms(latency.p50),
                output::ms(latency.p95),
                output::ms(latency.p99),
                output::ms(latency.max),
                result
                    .ours_is
                    .map_or_else(String::new, |ratio| format!("{ratio:.2} of it")),
            ]);
        }
        let mixed = match self.puts_percent {
            0 => String::new(),
            percent => format!(" and {percent} % puts"),
        };
        let what = match self.work {
            "lookup" => format!("{} names", self.batch),
            _ => format!("{} x {}", self.batch, sizes::human(self.bytes)),
        };
        let (work, connections) = (self.work, self.connections);
        format!("{work}{mixed}: {what} a call, {connections} connections\n{table}")
    }
}
