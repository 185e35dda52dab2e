//! The clients of the regions that stay, while one is cut off and while none is: whether they
//! lose anything, and how much slower their slowest calls are.
//!
//! The same clients at the same pace, over calm times before and after together, so that a
//! machine that slows down by and by is not taken for the cut. What a drill reads of its own
//! meanwhile is the same in both.

use std::ops::Range;

use comfy_table::Table;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    load::{Call, Tally},
    report::{Promise, promise},
};
use crate::output;

/// Of fewer calls a p99 says nothing: ten of them are beyond it.
pub(super) const P99_CALLS_MIN: usize = 1_000;

/// When it was calm, and when the region was cut off.
pub(super) struct Times {
    pub(super) calm: [Range<Instant>; 2],
    pub(super) cut_off: Range<Instant>,
}

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Others {
    calm: Phase,
    cut_off: Phase,
    /// By how much of the calm one the p99 is longer; none: there were no such calls.
    get_p99_more: Option<f64>,
    put_p99_more: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Phase {
    seconds: f64,
    calls: Tally,
}

impl Others {
    /// Of all calls of these clients. One that was under way when the region was cut off, or
    /// when that ended, belongs to the cut; one that began before a calm time or outlasted it
    /// counts nowhere.
    pub(super) fn of(calls: &[Call], times: &Times) -> Self {
        let calm = |call: &&Call| times.calm.iter().any(|calm| call.is_within(calm));
        let calm: Vec<Call> = calls.iter().filter(calm).cloned().collect();
        let cut = calls.iter().filter(|call| call.touches(&times.cut_off));
        let cut: Vec<Call> = cut.cloned().collect();
        let lasted = |range: &Range<Instant>| (range.end - range.start).as_secs_f64();
        let calm = Phase {
            seconds: times.calm.iter().map(lasted).sum(),
            calls: Tally::of(&calm),
        };
        let cut_off = Phase {
            seconds: lasted(&times.cut_off),
            calls: Tally::of(&cut),
        };
        let (before, then) = (&calm.calls, &cut_off.calls);
        Self {
            get_p99_more: more(before.get_p99_ms, then.get_p99_ms),
            put_p99_more: more(before.put_p99_ms, then.put_p99_ms),
            calm,
            cut_off,
        }
    }

    /// That they lose nothing; and that they are not slower than so much, if that is asked.
    pub(super) fn promises(&self, p99_more_max: Option<f64>) -> Vec<Promise> {
        let Tally {
            calls,
            missed,
            failed,
            ..
        } = self.cut_off.calls;
        let mut promises = vec![promise(
            "available",
            "cut off from it, the other regions' clients lose nothing",
            calls > 0 && missed + failed == 0,
            format!("{missed} misses and {failed} failures of {calls} calls"),
        )];
        if let Some(most) = p99_more_max {
            let within = |more: Option<f64>| more.is_some_and(|more| more <= most);
            let held = within(self.get_p99_more) && within(self.put_p99_more);
            let fewest = self.fewest();
            let enough = fewest >= P99_CALLS_MIN;
            let few = format!(
                "; of {fewest} calls only, {P99_CALLS_MIN} are needed: raise --hold or --clients"
            );
            promises.push(promise(
                "undisturbed",
                format!("and their p99 is at most {} longer", percent(Some(most))),
                held && enough,
                format!(
                    "gets {}, puts {}{}",
                    percent(self.get_p99_more),
                    percent(self.put_p99_more),
                    if enough { "" } else { &few }
                ),
            ));
        }
        promises
    }

    /// The fewest calls that one of the compared p99s is of.
    fn fewest(&self) -> usize {
        let phases = [&self.calm.calls, &self.cut_off.calls];
        let served = phases.into_iter().flat_map(|it| [it.gets, it.puts]);
        served.min().unwrap_or_default()
    }

    /// For people.
    pub(super) fn table(&self) -> Table {
        let heads = ["the others' clients", "before, after", "cut off", "more"];
        let mut table = output::table(&heads, &[1, 2, 3]);
        let (calm, cut) = (&self.calm.calls, &self.cut_off.calls);
        let mut row = |what: &str, calm: String, cut: String, more: Option<Option<f64>>| {
            let more = more.map_or_else(String::new, percent);
            table.add_row(vec![what.to_owned(), calm, cut, more]);
        };
        let seconds = |phase: &Phase| format!("{:.1} s", phase.seconds);
        row("time", seconds(&self.calm), seconds(&self.cut_off), None);
        let mut count = |what: &str, of: fn(&Tally) -> usize| {
            row(what, of(calm).to_string(), of(cut).to_string(), None);
        };
        count("calls", |it| it.calls);
        count("failed", |it| it.failed);
        count("missed", |it| it.missed);
        count("gets served", |it| it.gets);
        count("puts served", |it| it.puts);
        let mut time = |what: &str, of: fn(&Tally) -> f64| {
            let more = more(of(calm), of(cut));
            row(what, output::ms(of(calm)), output::ms(of(cut)), Some(more));
        };
        time("get p50", |it| it.get_p50_ms);
        time("get p99", |it| it.get_p99_ms);
        time("put p50", |it| it.put_p50_ms);
        time("put p99", |it| it.put_p99_ms);
        time("longest", |it| it.longest_ms);
        table
    }
}

fn more(before: f64, then: f64) -> Option<f64> {
    (before > 0.0 && then > 0.0).then(|| then / before - 1.0)
}

fn percent(more: Option<f64>) -> String {
    match more {
        Some(more) => format!("{:+.0} %", more * 100.0),
        None => "not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drill::load::{End, Kind};

    /// A second of calm, ten of the cut, and a second of calm again.
    fn of(calls: &[(Kind, u64, u64, End)]) -> Others {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let call = |(kind, begun, took, end): &(Kind, u64, u64, End)| Call {
            kind: *kind,
            begun: at(*begun),
            ended: at(*begun + *took),
            end: end.clone(),
        };
        let times = Times {
            calm: [at(0)..at(1_000), at(11_000)..at(12_000)],
            cut_off: at(1_000)..at(11_000),
        };
        Others::of(&calls.iter().map(call).collect::<Vec<_>>(), &times)
    }

    fn served() -> End {
        End::Served("a".to_owned())
    }

    /// Of each kind and phase so many calls, that take so long.
    fn steady(calls: u64, calm: u64, cut: u64) -> Vec<(Kind, u64, u64, End)> {
        let of = |kind| {
            (0..calls).flat_map(move |_| {
                let half = [(kind, 100, calm), (kind, 11_100, calm)];
                let all = half.into_iter().chain([(kind, 2_000, cut); 2]);
                all.map(|(kind, begun, took)| (kind, begun, took, served()))
            })
        };
        of(Kind::Get).chain(of(Kind::Put)).collect()
    }

    fn held(others: &Others, most: Option<f64>) -> Vec<bool> {
        let promises = others.promises(most);
        promises.iter().map(|promise| promise.held).collect()
    }

    #[test]
    fn a_call_that_touches_the_cut_belongs_to_it() {
        let calls = [
            (Kind::Get, 100, 10, served()),
            (Kind::Get, 900, 5_000, served()),
            (Kind::Put, 10_900, 3_000, End::Failed("late".to_owned())),
            (Kind::Get, 11_500, 20, served()),
            (Kind::Get, 11_900, 400, End::Missed),
        ];
        let others = of(&calls);
        let (calm, cut) = (&others.calm.calls, &others.cut_off.calls);
        assert_eq!((calm.calls, calm.gets, calm.missed), (2, 2, 0));
        assert_eq!((cut.calls, cut.gets, cut.failed), (2, 1, 1));
        assert_eq!((others.calm.seconds, others.cut_off.seconds), (2.0, 10.0));
        assert_eq!(held(&others, None), [false], "one failed");
    }

    #[test]
    fn a_miss_in_the_cut_is_a_loss_and_so_is_no_call() {
        assert_eq!(held(&of(&[]), None), [false]);
        let mut calls = steady(1, 10, 10);
        assert_eq!(held(&of(&calls), None), [true]);
        calls.push((Kind::Get, 5_000, 1, End::Missed));
        assert_eq!(held(&of(&calls), None), [false]);
    }

    #[test]
    fn a_p99_is_judged_of_enough_calls() {
        let most = Some(0.1);
        assert_eq!(held(&of(&steady(500, 100, 109)), most), [true, true]);
        assert_eq!(held(&of(&steady(500, 100, 111)), most), [true, false]);
        let few = of(&steady(499, 100, 100));
        assert_eq!(held(&few, most), [true, false]);
        let seen = &few.promises(most)[1].seen;
        assert!(seen.contains("998") && seen.contains("--clients"), "{seen}");
        let table = few.table().to_string();
        assert!(
            table.contains("get p99") && table.contains("+0 %"),
            "{table}"
        );
    }
}
