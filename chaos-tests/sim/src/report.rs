//! What runs came to: one in full, or many as a table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use comfy_table::{LineStyle, Table, TableStyle};

use crate::{
    changes::CHANGES,
    history::{History, Kind, PutTold},
    plan::KINDS,
    rpc::Opening,
    run::Outcome,
};

/// A line below the heads.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// What one run came to, without its history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of which seed.
    pub seed: u64,
    /// Of history and wire.
    pub fingerprint: String,
    /// By kind of fault or change: planned, and how many of these met something or were made.
    pub faults: BTreeMap<String, (u64, u64)>,
    /// By what was asked or met: how often.
    pub calls: BTreeMap<String, u64>,
    /// Simulated time.
    pub simulated_ms: u64,
    /// What must not be.
    pub bugs: Vec<String>,
}

impl From<&Outcome> for Summary {
    fn from(outcome: &Outcome) -> Self {
        let mut faults: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for (fault, met) in &outcome.faults {
            let count = faults.entry(fault.kind.to_string()).or_default();
            count.0 += 1;
            count.1 += u64::from(*met > 0);
        }
        for (change, made) in &outcome.changes {
            let count = faults.entry(change.kind.to_string()).or_default();
            count.0 += 1;
            count.1 += u64::from(*made);
        }
        let mut calls = calls(&outcome.history);
        if outcome.stale_claims > 0 {
            calls.insert("stale-claims".to_owned(), outcome.stale_claims);
        }
        Self {
            seed: outcome.seed,
            fingerprint: outcome.fingerprint.to_string(),
            faults,
            calls,
            simulated_ms: outcome.simulated.as_millis() as u64,
            bugs: outcome.bugs.clone(),
        }
    }
}

fn calls(history: &History) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for op in &history.ops {
        let what = match &op.kind {
            Kind::Put { told, .. } => match told {
                PutTold::Acked { .. } => "put-acked",
                PutTold::Refused => "put-refused",
                PutTold::Unknown => "put-unknown",
            },
            Kind::Lookup { found } => match found.is_empty() {
                true => "lookup-behind",
                false => "lookup-own",
            },
            Kind::Straggle { told, .. } => match told {
                Opening::Taken => "straggle-taken",
                Opening::Refused => "straggle-refused",
                Opening::Unknown => "straggle-unknown",
            },
            Kind::Get { got, .. } if got.is_empty() => "get-nothing",
            Kind::Get { .. } => "get-blocks",
            Kind::Delete { acked: true, .. } => "delete-acked",
            Kind::Delete { acked: false, .. } => "delete-unknown",
        };
        *calls.entry(what.to_owned()).or_default() += 1;
    }
    calls
}

/// One line each, as [`Summary::parse`] reads it.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, fingerprint, ms) = (self.seed, &self.fingerprint, self.simulated_ms);
        writeln!(f, "seed {seed} {fingerprint} {ms}")?;
        for (kind, (planned, met)) in &self.faults {
            writeln!(f, "fault {kind} {planned} {met}")?;
        }
        for (what, count) in &self.calls {
            writeln!(f, "calls {what} {count}")?;
        }
        for bug in &self.bugs {
            writeln!(f, "bug {}", bug.replace('\n', " "))?;
        }
        Ok(())
    }
}

impl Summary {
    /// Reads what [`Summary`] prints; none: it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut summary = Self::default();
        let mut begun = false;
        for line in text.lines() {
            let (what, rest) = line.split_once(' ')?;
            let words: Vec<&str> = rest.split(' ').collect();
            match (what, words.as_slice()) {
                ("seed", [seed, fingerprint, ms]) => {
                    begun = true;
                    summary.seed = seed.parse().ok()?;
                    summary.fingerprint = (*fingerprint).to_owned();
                    summary.simulated_ms = ms.parse().ok()?;
                }
                ("fault", [kind, planned, met]) => {
                    let count = (planned.parse().ok()?, met.parse().ok()?);
                    summary.faults.insert((*kind).to_owned(), count);
                }
                ("calls", [what, count]) => {
                    summary
                        .calls
                        .insert((*what).to_owned(), count.parse().ok()?);
                }
                ("bug", _) => summary.bugs.push(rest.to_owned()),
                _ => return None,
            }
        }
        begun.then_some(summary)
    }
}

/// Many runs as tables: faults by kind, calls by answer, and every bug.
#[must_use]
pub fn table(summaries: &[Summary], took_s: f64) -> String {
    let mut faults = Table::new();
    faults.load_style(STYLE);
    faults.set_header(["fault", "planned", "took effect", "in seeds"]);
    let kinds = KINDS.iter().map(ToString::to_string);
    for kind in kinds.chain(CHANGES.iter().map(ToString::to_string)) {
        let (planned, met, seeds) = faults_of(summaries, &kind);
        let cells = [kind, planned, met, seeds];
        faults.add_row(cells);
    }
    let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in summaries.iter().flat_map(|summary| &summary.calls) {
        *calls.entry(what).or_default() += count;
    }
    let mut answers = Table::new();
    answers.load_style(STYLE);
    answers.set_header(["calls", "count"]);
    for (what, count) in calls {
        answers.add_row([what.to_owned(), count.to_string()]);
    }
    let mut text = format!("{faults}\n\n{answers}\n\n");
    for summary in summaries {
        for bug in &summary.bugs {
            writeln!(text, "seed {}: {bug}", summary.seed).ok();
        }
    }
    let wrong = summaries.iter().filter(|summary| !summary.bugs.is_empty());
    let simulated: u64 = summaries.iter().map(|summary| summary.simulated_ms).sum();
    writeln!(
        text,
        "{} seeds, {} with bugs; {} s simulated in {took_s:.0} s",
        summaries.len(),
        wrong.count(),
        simulated / 1_000,
    )
    .ok();
    text
}

/// In how many runs each known bug was found, and by what.
#[must_use]
pub fn mutations_table(found: &[(String, Vec<Summary>)]) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(["bug", "found in", "of seeds", "by"]);
    for (bug, summaries) in found {
        let wrong: Vec<_> = summaries.iter().filter(|of| !of.bugs.is_empty()).collect();
        let rules = wrong.iter().flat_map(|of| &of.bugs);
        let rules: BTreeSet<&str> = rules
            .map(|bug| bug.split(':').next().unwrap_or_default())
            .collect();
        table.add_row([
            bug.clone(),
            wrong.len().to_string(),
            summaries.len().to_string(),
            rules.into_iter().collect::<Vec<_>>().join(", "),
        ]);
    }
    table.to_string()
}

fn faults_of(summaries: &[Summary], kind: &str) -> (String, String, String) {
    let counts = summaries
        .iter()
        .filter_map(|summary| summary.faults.get(kind));
    let (mut planned, mut met, mut seeds) = (0, 0, 0);
    for (one, of_it) in counts {
        planned += one;
        met += of_it;
        seeds += 1;
    }
    (planned.to_string(), met.to_string(), seeds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_as_it_is_printed() {
        let summary = Summary {
            seed: 7,
            fingerprint: "a-b".to_owned(),
            faults: [("cut".to_owned(), (2, 1))].into(),
            calls: [("put-acked".to_owned(), 3)].into(),
            simulated_ms: 5,
            bugs: vec!["two words".to_owned()],
        };
        assert_eq!(Summary::parse(&summary.to_string()), Some(summary.clone()));
        assert_eq!(Summary::parse("Segmentation fault"), None);
        let printed = table(&[summary], 1.0);
        assert!(printed.contains("seed 7: two words"), "{printed}");
        assert!(printed.contains("1 seeds, 1 with bugs"), "{printed}");
    }
}
