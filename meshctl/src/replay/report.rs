//! What a replay found, as table and as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{bound::Split, drive::Seen, ideal::Ideal, latency::Percentiles};
use crate::{
    dev::link::Crossed,
    output::{self, ms},
    sizes::human,
};

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every promise held.
    pub ok: bool,
    /// What did not.
    pub broken: Vec<String>,
    /// Name of the trace.
    pub trace: String,
    /// Requests sent.
    pub requests: usize,
    /// Bytes of a block.
    pub bytes_per_block: u64,
    /// `settled`, `fast` or `trace`.
    pub pace: &'static str,
    /// Of the mesh that the replay started; none for gateways that were named.
    pub link_scale: Option<f64>,
    /// How requests came to regions.
    pub assignment: AssignmentReport,
    /// Per block reference.
    pub blocks: Blocks,
    /// Put by the replay.
    pub puts: Puts,
    /// Blocks served, by link; an inner one has the same region twice.
    pub links: Vec<Link>,
    /// Everything that crossed the links, feeds and probes included; only for a mesh of the
    /// replay's own.
    pub crossed: Option<Vec<Crossed>>,
    /// Beside a mesh that knows everything at once.
    pub ideal: Ideal,
    /// Milliseconds.
    pub latency_ms: Latency,
    /// Seconds from the first request to the last.
    pub wall_s: f64,
}

/// How requests came to regions.
#[derive(Debug, Serialize)]
pub struct AssignmentReport {
    /// In words.
    pub method: &'static str,
    /// Probability of going home.
    pub sticky: f64,
    /// Seed.
    pub seed: u64,
    /// Requests that left their home.
    pub away: usize,
    /// Requests by region.
    pub by_region: BTreeMap<String, usize>,
}

/// Per block reference.
#[derive(Debug, Serialize)]
pub struct Blocks {
    /// All.
    pub references: u64,
    /// Served by the request's own region.
    pub local_hits: u64,
    /// Served by another region.
    pub remote_hits: u64,
    /// Nowhere in the mesh.
    pub misses: u64,
    /// Hits of an infinite cache over the same requests.
    pub bound: u64,
    /// Local hits that the assignment implies.
    pub expected_local: u64,
    /// Remote hits that the assignment implies.
    pub expected_remote: u64,
    /// Requests whose hits were not as the assignment implies.
    pub requests_unexpected: u64,
    /// Served blocks with a wrong byte.
    pub wrong: u64,
}

/// Put by the replay.
#[derive(Debug, Serialize)]
pub struct Puts {
    /// All.
    pub blocks: u64,
    /// Of them there already.
    pub existed: u64,
    /// Fetched blocks that could not be kept.
    pub fill_failures: u64,
}

/// Blocks that one region served to requests of another, or of itself.
#[derive(Debug, Serialize)]
pub struct Link {
    /// Where the bytes came from.
    pub from: String,
    /// Where the request was.
    pub to: String,
    /// How many.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Milliseconds, by kind of call.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Lookups.
    pub lookup: Percentiles,
    /// Gets that one region served alone.
    pub get_local: Percentiles,
    /// Gets that another region took part in; in settled pace with the time of the fill.
    pub get_far: Percentiles,
    /// Puts.
    pub put: Percentiles,
    /// Waits for views, in settled pace.
    pub settle: Percentiles,
    /// Beginnings of requests after their time, in the trace's pace.
    pub late: Percentiles,
}

impl Blocks {
    /// From what was seen and what was expected.
    #[must_use]
    pub fn new(seen: &Seen, want: Split) -> Self {
        Self {
            references: seen.split.references(),
            local_hits: seen.split.local,
            remote_hits: seen.split.remote,
            misses: seen.split.misses,
            bound: want.bound(),
            expected_local: want.local,
            expected_remote: want.remote,
            requests_unexpected: seen.surprises,
            wrong: seen.wrong_blocks,
        }
    }
}

impl Latency {
    /// From what was seen.
    #[must_use]
    pub fn new(seen: &Seen) -> Self {
        Self {
            lookup: seen.lookup.percentiles(),
            get_local: seen.get_local.percentiles(),
            get_far: seen.get_far.percentiles(),
            put: seen.put.percentiles(),
            settle: seen.settle.percentiles(),
            late: seen.late.percentiles(),
        }
    }
}

/// Blocks served, by link.
#[must_use]
pub fn links(seen: &Seen) -> Vec<Link> {
    let link = |((from, to), (blocks, bytes)): (&(String, String), &(u64, u64))| Link {
        from: from.clone(),
        to: to.clone(),
        blocks: *blocks,
        bytes: *bytes,
    };
    seen.links.iter().map(link).collect()
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let verdict = match self.broken.as_slice() {
            [] => "every promise held".to_owned(),
            broken => format!("broken: {}", broken.join("; ")),
        };
        format!(
            "{} requests of {} in {}, {:.1} a second; {} left their home region\n{}\n{}\n{}\n{}\n{verdict}",
            self.requests,
            self.trace,
            seconds(self.wall_s),
            self.requests as f64 / self.wall_s.max(1e-9),
            self.assignment.away,
            self.blocks.table(self.bytes_per_block),
            self.ideal.table(),
            self.link_table(),
            self.latency_ms.table(),
        )
    }

    fn link_table(&self) -> String {
        let heads = ["from", "to", "blocks", "bytes", "all bytes on the link"];
        let mut table = output::table(&heads, &[2, 3, 4]);
        for link in &self.links {
            let crossed = self.crossed.iter().flatten();
            let all = crossed
                .filter(|crossed| crossed.from == link.from && crossed.to == link.to)
                .map(|crossed| human(crossed.bytes))
                .next();
            table.add_row(vec![
                link.from.clone(),
                link.to.clone(),
                link.blocks.to_string(),
                human(link.bytes),
                all.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.to_string()
    }
}

impl Blocks {
    fn table(&self, bytes_per_block: u64) -> String {
        let mut table = output::table(&["blocks", "seen", "expected", "bytes"], &[1, 2, 3]);
        let hits = self.local_hits + self.remote_hits;
        for (what, seen, want) in [
            ("local hits", self.local_hits, self.expected_local),
            ("remote hits", self.remote_hits, self.expected_remote),
            ("all hits, infinite-cache bound", hits, self.bound),
            (
                "misses, then put",
                self.misses,
                self.references - self.bound,
            ),
            ("hits with a wrong byte", self.wrong, 0),
        ] {
            table.add_row(vec![
                what.to_owned(),
                seen.to_string(),
                want.to_string(),
                human(seen * bytes_per_block),
            ]);
        }
        table.to_string()
    }
}

impl Latency {
    fn table(&self) -> String {
        let heads = ["call", "count", "p50", "p95", "p99", "slowest"];
        let mut table = output::table(&heads, &[1, 2, 3, 4, 5]);
        for (what, times) in [
            ("lookup", &self.lookup),
            ("get, all local", &self.get_local),
            ("get, some from afar", &self.get_far),
            ("put", &self.put),
            ("views settled", &self.settle),
            ("begun late", &self.late),
        ] {
            if times.count == 0 {
                continue;
            }
            table.add_row(vec![
                what.to_owned(),
                times.count.to_string(),
                ms(times.p50),
                ms(times.p95),
                ms(times.p99),
                ms(times.max),
            ]);
        }
        table.to_string()
    }
}

fn seconds(value: f64) -> String {
    format!(
        "{:.1} s",
        Duration::from_secs_f64(value.max(0.0)).as_secs_f64()
    )
}
