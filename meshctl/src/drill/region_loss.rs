//! The drill `region-loss`: one region is cut off under load, and comes back.
//!
//! What was cut off is let back, however the drill ends.

mod back;
mod changes;
mod equal;
mod loss;
mod precheck;
mod safe_point;
mod stage;

use std::{
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub(super) use self::{back::Back, changes::Changed, loss::Loss, safe_point::SafePoint};
use self::{
    changes::{Changes, OFTEN, SELDOM},
    stage::Stage,
};
use super::{
    load::{self, Tally},
    material::Material,
    others::{Others, P99_CALLS_MIN, Times},
    place::Place,
    report::Report,
    verify::Ghosts,
};
use crate::{args::RegionLossArgs, exit};

/// Clients connect, and call for the first time.
const WARM_UP: Duration = Duration::from_secs(2);
/// Calm times, before the region is cut off and after its return, take a tenth of the cut within
/// these bounds; the region is not let back earlier than the first one after the changes.
const CALM: Duration = Duration::from_secs(3);
const CALM_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What is to be done.
pub(super) struct Plan {
    /// The region that is cut off, by its place.
    pub(super) lost: usize,
    pub(super) material: Material,
    clients: usize,
    chains: u64,
    template: String,
    /// It stays cut off for so long at least.
    hold: Duration,
    pub(super) redirect_max: Duration,
    pub(super) equal_max: Duration,
    pub(super) p99_more_max: Option<f64>,
}

impl Plan {
    pub(super) fn new(args: &RegionLossArgs, place: &Place) -> anyhow::Result<Self> {
        let seconds = |flag: &str, given: f64| {
            let limit = Duration::try_from_secs_f64(given);
            limit.map_err(|_| exit::set_up(format!("{flag} is no time")))
        };
        let plan = Self {
            lost: place.find(&args.region)?,
            material: Material {
                run: kvmesh_client::random::word(),
                block_bytes: args.bytes_per_block.0 as usize,
            },
            clients: usize::from(args.clients),
            chains: u64::from(args.chains),
            template: args.template.clone(),
            hold: Duration::from_secs(u64::from(args.hold)),
            redirect_max: seconds("--redirect-max", args.redirect_max)?,
            equal_max: seconds("--equal-max", args.equal_max)?,
            p99_more_max: args.p99_more_max,
        };
        plan.check(place.sites.len() - 1)?;
        Ok(plan)
    }

    /// How long each calm time is.
    fn calm(&self) -> Duration {
        (self.hold / 10).clamp(CALM, CALM_MAX)
    }

    /// Whether there will be calls enough for what is to be judged.
    fn check(&self, others: usize) -> anyhow::Result<()> {
        let puts = load::puts(self.clients * others, self.calm() * 2);
        if self.p99_more_max.is_none() || puts >= P99_CALLS_MIN {
            return Ok(());
        }
        Err(exit::set_up(format!(
            "--p99-more-max: the clients of {others} regions put {puts} times in two calm times of              {:?}, and a p99 of fewer than {P99_CALLS_MIN} says nothing: raise --hold or --clients",
            self.calm()
        )))
    }
}

/// Runs it; the error says why it broke off.
///
/// # Errors
/// When the mesh is not fit for it, no load is possible, or the region cannot be cut off.
pub(super) async fn run(
    place: &Place,
    plan: &Plan,
    stop: &CancellationToken,
    log: Option<&Path>,
) -> anyhow::Result<Report> {
    let cut = AtomicBool::new(false);
    let drilled = tokio::select! {
        drilled = drill(place, plan, &cut, log) => drilled,
        () = stop.cancelled() => Err(anyhow::anyhow!("it was told to end")),
    };
    let Err(error) = drilled else { return drilled };
    if !cut.load(Ordering::Relaxed) {
        return Err(error);
    }
    let region = &place.sites[plan.lost].region;
    say(&format!("the drill breaks off: letting {region} back"));
    match place.mend(plan.lost).await {
        Ok(()) => Err(error),
        Err(mend) => Err(error.context(format!("{region} may still be cut off: {mend:#}"))),
    }
}

async fn drill(
    place: &Place,
    plan: &Plan,
    cut: &AtomicBool,
    log: Option<&Path>,
) -> anyhow::Result<Report> {
    let region = &place.sites[plan.lost].region;
    say("is the mesh fit for a drill?");
    precheck::check(place).await?;
    say("putting chains, and starting the clients");
    let stage = Stage::set(place, plan).await?;
    let begun = Instant::now();
    sleep(WARM_UP).await;
    let (none, unseen) = (Changes::none(&stage), Ghosts::default());
    let calm = none.looked_for((place, plan), &unseen, SELDOM, span(plan.calm()));
    let before = calm.await;
    let baseline = baseline(&stage, begun)?;
    let safe_point = SafePoint::take(place, plan.lost).await?;
    safe_point.said(region).iter().for_each(|line| say(line));

    say(&format!("cutting {region} off"));
    cut.store(true, Ordering::Relaxed);
    let fencing = Instant::now();
    place.fence(plan.lost).await?;
    let fenced = Instant::now();
    let mut loss = Loss::watch(place, plan, &stage, fenced).await;
    loss.fence_s = (fenced - fencing).as_secs_f64();

    say("deleting and raising");
    let changes = Changes::make(place, plan, &stage).await?;
    let ghosts = Ghosts::default();
    let until = (fenced + plan.hold).max(Instant::now() + CALM);
    let staying = async {
        sleep_until(until).await;
        let cut_off = fencing..Instant::now();
        loss.account(&stage, plan.lost, fenced);
        say("verifying what others have");
        loss.verify(place, plan, &stage, fenced).await;
        cut_off
    };
    let staying = changes.looked_for((place, plan), &ghosts, SELDOM, staying);
    let cut_off = staying.await;
    let coming = async {
        say(&format!("letting {region} back"));
        place.mend(plan.lost).await?;
        cut.store(false, Ordering::Relaxed);
        anyhow::Ok(Back::watch(place, plan, &stage, &changes, &ghosts).await)
    };
    let coming = changes.looked_for((place, plan), &ghosts, OFTEN, coming);
    let mut back = coming.await?;
    let calm = changes.looked_for((place, plan), &ghosts, SELDOM, span(plan.calm()));
    let after = calm.await;
    let verifying = back.verify(place, plan, &stage);
    let verifying = changes.looked_for((place, plan), &ghosts, OFTEN, verifying);
    verifying.await;
    stage.clear(place).await;

    let calm = [before, after];
    let calls = stage.load.calls(begun, |region| region != plan.lost);
    Ok(Report::new(
        place,
        plan,
        baseline,
        safe_point,
        loss,
        Others::of(&calls, &Times { calm, cut_off }),
        changes.told(&ghosts),
        back,
        Tally::of(&stage.load.calls(begun, |_| true)),
        log.map(|log| log.display().to_string()),
    ))
}

/// What calls are like before anything was done.
fn baseline(stage: &Stage, begun: Instant) -> anyhow::Result<Tally> {
    let baseline = Tally::of(&stage.load.calls(begun, |_| true));
    anyhow::ensure!(
        baseline.failed == 0 && baseline.calls > 0,
        "no load is possible on this mesh: {} of {} calls failed before anything was done, such \
         as {:?}; see whether `meshctl put` works in every region",
        baseline.failed,
        baseline.calls,
        baseline.failures
    );
    Ok(baseline)
}

/// Lets a time go by, and says which.
async fn span(time: Duration) -> Range<Instant> {
    let begun = Instant::now();
    sleep(time).await;
    begun..Instant::now()
}

/// How far the drill is; standard output is for the report.
pub(super) fn say(what: &str) {
    eprintln!("{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(hold_s: u64, clients: usize, p99_more_max: Option<f64>) -> Plan {
        Plan {
            lost: 0,
            material: Material {
                run: 1,
                block_bytes: 1,
            },
            clients,
            chains: 2,
            template: String::new(),
            hold: Duration::from_secs(hold_s),
            redirect_max: Duration::ZERO,
            equal_max: Duration::ZERO,
            p99_more_max,
        }
    }

    #[test]
    fn calm_times_are_a_tenth_of_the_cut_within_bounds() {
        let calm_s = |hold_s| plan(hold_s, 1, None).calm().as_secs();
        assert_eq!([0, 100, 600, 3_600].map(calm_s), [3, 10, 60, 60]);
    }

    #[test]
    fn a_p99_of_few_calls_is_refused_before_anything_is_done() {
        assert!(plan(0, 1, None).check(1).is_ok(), "it is not judged");
        // Two puts a second of each client, for two minutes.
        assert!(plan(600, 3, Some(0.1)).check(2).is_ok());
        let few = plan(600, 2, Some(0.1)).check(2).unwrap_err().to_string();
        assert!(few.contains("960") && few.contains("--clients"), "{few}");
    }
}
