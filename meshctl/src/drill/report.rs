//! What was promised, what was seen, and how long everything took.

use std::time::Duration;

use serde::Serialize;

use super::{
    load::Tally,
    others::Others,
    place::Place,
    region_loss::{Back, Changed, Loss, Plan, SafePoint},
    verify::Verified,
};
use crate::output;

/// The drill's JSON. Times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) ok: bool,
    promises: Vec<Promise>,
    region: String,
    others: Vec<String>,
    /// What the log of the drill's own mesh says.
    log: Option<String>,
    baseline: Tally,
    safe_point: SafePoint,
    loss: Loss,
    /// The clients of the regions that stayed.
    others_clients: Others,
    changed: Changed,
    back: Back,
    /// Of all clients, from beginning to end.
    calls: Tally,
}

/// One promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Promise {
    name: &'static str,
    what: String,
    pub(super) held: bool,
    pub(super) seen: String,
}

pub(super) fn promise(
    name: &'static str,
    what: impl Into<String>,
    held: bool,
    seen: String,
) -> Promise {
    Promise {
        name,
        what: what.into(),
        held,
        seen,
    }
}

impl Report {
    #[allow(clippy::too_many_arguments, reason = "one per part of the report")]
    pub(super) fn new(
        place: &Place,
        plan: &Plan,
        baseline: Tally,
        safe_point: SafePoint,
        loss: Loss,
        others_clients: Others,
        changed: Changed,
        back: Back,
        calls: Tally,
        log: Option<String>,
    ) -> Self {
        let mut promises = during(&loss, plan.redirect_max);
        promises.extend(others_clients.promises(plan.p99_more_max));
        promises.extend(after(&back, &changed));
        promises.extend(back.equal.promise(plan.equal_max));
        let wrong = calls.wrong + loss.verified.wrong + back.its_own.wrong + back.all.wrong;
        promises.push(promise(
            "exact",
            "no wrong byte is served",
            wrong == 0,
            format!("{wrong} chains with wrong bytes"),
        ));
        let failures = calls.failures.join("; ");
        promises.push(promise(
            "calls",
            "no call of a client fails",
            calls.failed == 0,
            format!("{} of {} failed {failures}", calls.failed, calls.calls),
        ));
        Self {
            ok: promises.iter().all(|promise| promise.held),
            promises,
            region: place.sites[plan.lost].region.clone(),
            others: place
                .others(plan.lost)
                .map(|it| it.region.clone())
                .collect(),
            log,
            baseline,
            safe_point,
            loss,
            others_clients,
            changed,
            back,
            calls,
        }
    }

    /// The promises that broke, in words.
    pub(super) fn broken(&self) -> Vec<String> {
        let broken = self.promises.iter().filter(|promise| !promise.held);
        let told = broken.map(|promise| format!("{}: {}", promise.what, promise.seen));
        told.collect()
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut promises = output::table(&["promise", "held", "seen"], &[]);
        for promise in &self.promises {
            let held = if promise.held { "yes" } else { "NO" };
            promises.add_row(vec![&promise.what, held, promise.seen.trim_end()]);
        }
        let log = self.log.as_ref();
        format!(
            "{} was lost and came back\n\n{}\n{}\n{}\n{}\n{}\n{promises}{}",
            self.region,
            self.safe_point.said(&self.region).join("\n"),
            self.times(),
            self.clients(),
            self.others_clients.table(),
            match self.ok {
                true => "every promise held",
                false => "a promise broke",
            },
            log.map_or_else(String::new, |log| format!("\nlog: {log}")),
        )
    }

    fn times(&self) -> String {
        let mut table = output::table(&["what", "after"], &[1]);
        let mut row = |what: String, seconds: Option<f64>| {
            let after = match seconds {
                Some(seconds) => format!("{seconds:.2} s"),
                None => "not in time".to_owned(),
            };
            table.add_row(vec![what, after]);
        };
        let (loss, back) = (&self.loss, &self.back);
        for noticed in &loss.noticed {
            row(format!("suspect to {}", noticed.by), noticed.suspect_s);
            row(format!("offline to {}", noticed.by), noticed.offline_s);
        }
        row("its clients get elsewhere".to_owned(), loss.gets_s);
        row("its clients put elsewhere".to_owned(), loss.puts_s);
        row("no call fails any more".to_owned(), loss.recovered_s);
        row("back: its gateway answers".to_owned(), back.answers_s);
        row("back: it knows what it missed".to_owned(), back.knows_s);
        row("back: all views are equal".to_owned(), back.equal.equal_s);
        row("back: its clients get from it".to_owned(), back.home_s);
        row("back: every region asks it".to_owned(), back.online_s);
        table.to_string()
    }

    fn clients(&self) -> String {
        let heads = [
            "calls", "number", "missed", "failed", "get p50", "get p99", "put p99", "longest",
        ];
        let mut table = output::table(&heads, &[1, 2, 3, 4, 5, 6, 7]);
        for (what, tally) in [
            ("before", &self.baseline),
            ("loss, its clients", &self.loss.its_clients),
            ("all", &self.calls),
        ] {
            table.add_row(vec![
                what.to_owned(),
                tally.calls.to_string(),
                tally.missed.to_string(),
                tally.failed.to_string(),
                output::ms(tally.get_p50_ms),
                output::ms(tally.get_p99_ms),
                output::ms(tally.put_p99_ms),
                output::ms(tally.longest_ms),
            ]);
        }
        table.to_string()
    }
}

fn during(loss: &Loss, redirect_max: Duration) -> Vec<Promise> {
    let bar = redirect_max.as_secs_f64();
    let redirect = loss.gets_s.zip(loss.puts_s);
    let redirect = redirect.map(|(gets, puts)| gets.max(puts));
    let offline = loss.noticed.iter().map(|noticed| noticed.offline_s);
    let offline: Option<Vec<f64>> = offline.collect();
    let latest = offline.map(|seconds| seconds.into_iter().fold(0.0, f64::max));
    vec![
        promise(
            "fenced",
            "the region is cut off, from here as well",
            loss.fenced,
            match loss.fenced {
                true => "its gateway does not answer".to_owned(),
                false => "its gateway answers: correct the command of --fence".to_owned(),
            },
        ),
        promise(
            "detected",
            "every other region finds it offline",
            latest.is_some(),
            seen(latest),
        ),
        promise(
            "redirected",
            format!("its clients are served elsewhere within {bar} s"),
            redirect.is_some_and(|seconds| seconds <= bar),
            seen(redirect),
        ),
        kept("kept", "what others have of it is not lost", &loss.verified),
    ]
}

fn after(back: &Back, changed: &Changed) -> Vec<Promise> {
    let knows = back.answers_s.and(back.knows_s);
    vec![
        promise(
            "informed",
            "back, it hears of every delete and raise",
            knows.is_some(),
            seen(knows),
        ),
        promise(
            "deleted",
            "what was deleted meanwhile is read nowhere any more",
            changed.seen.is_empty() && changed.looks > 0,
            match &changed.seen[..] {
                [] => format!("gone in {} looks", changed.looks),
                seen => seen.join("; "),
            },
        ),
        promise(
            "readmitted",
            "every other region asks it again",
            back.online_s.is_some(),
            seen(back.online_s),
        ),
        promise(
            "home",
            "its clients come back to it",
            back.home_s.is_some(),
            seen(back.home_s),
        ),
        kept(
            "returned",
            "what only it had is read elsewhere again",
            &back.its_own,
        ),
        kept(
            "whole",
            "all that was acknowledged is read everywhere",
            &back.all,
        ),
    ]
}

fn kept(name: &'static str, what: &str, verified: &Verified) -> Promise {
    let Verified {
        blocks,
        lost,
        gateways,
        such_as,
        ..
    } = verified;
    let such_as = such_as.join("; ");
    let seen = format!("{blocks} blocks by {gateways} gateways, {lost} chains lost {such_as}");
    promise(name, what, *lost == 0 && *blocks > 0, seen)
}

pub(super) fn seen(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) => format!("after {seconds:.2} s"),
        None => "not in time".to_owned(),
    }
}
