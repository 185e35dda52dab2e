//! The drill `region-loss`: one region is cut off under load, and comes back.
//!
//! What was cut off is let back, however the drill ends.

mod back;
mod changes;
mod loss;
mod precheck;
mod safe_point;
mod stage;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(super) use self::{back::Back, changes::Changed, loss::Loss, safe_point::SafePoint};
use self::{changes::Changes, stage::Stage};
use super::{load::Tally, material::Material, place::Place, report::Report, verify::Ghosts};
use crate::{args::RegionLossArgs, exit};

/// Load runs for so long before anything happens, and before the region is let back.
const CALM: Duration = Duration::from_secs(3);
/// Every block is there within this time.
const VERIFY_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What is to be done.
pub(super) struct Plan {
    /// The region that is cut off, by its place.
    pub(super) lost: usize,
    pub(super) material: Material,
    clients: usize,
    chains: u64,
    template: String,
    pub(super) redirect_max: Duration,
}

impl Plan {
    pub(super) fn new(args: &RegionLossArgs, place: &Place) -> anyhow::Result<Self> {
        let limit = Duration::try_from_secs_f64(args.redirect_max);
        Ok(Self {
            lost: place.find(&args.region)?,
            material: Material {
                run: kvmesh_client::random::word(),
                block_bytes: args.bytes_per_block.0 as usize,
            },
            clients: usize::from(args.clients),
            chains: u64::from(args.chains),
            template: args.template.clone(),
            redirect_max: limit.map_err(|_| exit::set_up("--redirect-max is no time"))?,
        })
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
    sleep(CALM).await;
    let baseline = Tally::of(&stage.load.calls(begun, |_| true));
    anyhow::ensure!(
        baseline.failed == 0 && baseline.calls > 0,
        "no load is possible on this mesh: {} of {} calls failed before anything was done, such \
         as {:?}; see whether `meshctl put` works in every region",
        baseline.failed,
        baseline.calls,
        baseline.failures
    );
    let safe_point = SafePoint::take(place, plan.lost).await?;
    safe_point.said(region).iter().for_each(|line| say(line));

    say(&format!("cutting {region} off"));
    cut.store(true, Ordering::Relaxed);
    let fencing = Instant::now();
    place.fence(plan.lost).await?;
    let fenced = Instant::now();
    let mut loss = Loss::watch(place, plan, &stage, fenced).await;
    loss.fence_s = (fenced - fencing).as_secs_f64();

    say("deleting, raising, and verifying what others have");
    let changes = Changes::make(place, plan, &stage).await?;
    loss.verify(place, plan, &stage, fenced).await;
    let ghosts = Ghosts::default();
    let coming = async {
        sleep(CALM).await;
        loss.account(&stage, plan.lost, fenced);
        say(&format!("letting {region} back"));
        place.mend(plan.lost).await?;
        cut.store(false, Ordering::Relaxed);
        Back::watch(place, plan, &stage, &changes, &ghosts).await
    };
    let back = tokio::select! {
        back = coming => back?,
        never = changes.look(place, plan, &ghosts) => match never {},
    };
    stage.clear(place).await;
    let changed = changes.told(&ghosts);
    let all = Tally::of(&stage.load.calls(begun, |_| true));
    let log = log.map(|log| log.display().to_string());
    Ok(Report::new(
        place, plan, baseline, safe_point, loss, changed, back, all, log,
    ))
}

/// How far the drill is; standard output is for the report.
pub(super) fn say(what: &str) {
    eprintln!("{what}");
}
