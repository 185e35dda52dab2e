//! While the region is cut off: who notices when, who is served, and what is still there.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{POLL, Place, Plan, Stage, say};
use crate::drill::{
    load::{End, Kind, Tally},
    place::Site,
    verify::{self, Verified},
    watch::{self, Noticed},
};

/// The others see within this time that a region is lost; 5 to 7 s by the usual settings.
const DETECT_MAX: Duration = Duration::from_secs(120);
/// Clients are served elsewhere within this time, or the drill goes on without.
const REDIRECT_MAX: Duration = Duration::from_secs(60);

/// See the module. Seconds count from when the region was cut off.
#[derive(Debug, Default, Serialize)]
pub(in crate::drill) struct Loss {
    /// How long cutting it off took.
    pub(super) fence_s: f64,
    /// Its gateway does not answer any more.
    pub(in crate::drill) fenced: bool,
    pub(in crate::drill) noticed: Vec<Noticed>,
    /// Until each of the region's clients got a chain elsewhere; none: not in time.
    pub(in crate::drill) gets_s: Option<f64>,
    /// Until each had a put acknowledged elsewhere.
    pub(in crate::drill) puts_s: Option<f64>,
    /// From then on no client's call failed, and all were served.
    pub(in crate::drill) recovered_s: Option<f64>,
    /// What was acknowledged and others have.
    pub(in crate::drill) verified: Verified,
    /// Calls of the region's clients.
    pub(in crate::drill) its_clients: Tally,
}

impl Loss {
    /// Until the others have noticed, and the region's clients are served.
    pub(super) async fn watch(place: &Place, plan: &Plan, stage: &Stage, fenced: Instant) -> Self {
        let site = &place.sites[plan.lost];
        let others: Vec<&Site> = place.others(plan.lost).collect();
        let elsewhere = |by: &str| by != site.region;
        let served = async {
            let (gets_s, puts_s) = tokio::join!(
                served(
                    stage,
                    plan.lost,
                    (Kind::Get, fenced),
                    elsewhere,
                    REDIRECT_MAX
                ),
                served(
                    stage,
                    plan.lost,
                    (Kind::Put, fenced),
                    elsewhere,
                    REDIRECT_MAX
                ),
            );
            let said = |served: Option<f64>| match served {
                Some(seconds) => format!("after {seconds:.2} s"),
                None => format!("not within {REDIRECT_MAX:?}"),
            };
            let (gets, puts) = (said(gets_s), said(puts_s));
            say(&format!(
                "its clients get elsewhere {gets}, put elsewhere {puts}"
            ));
            (gets_s, puts_s)
        };
        let (noticed, (gets_s, puts_s), answers) = tokio::join!(
            watch::loss(&others, &site.region, fenced, DETECT_MAX),
            served,
            watch::answers(site),
        );
        Self {
            fenced: !answers,
            noticed,
            gets_s,
            puts_s,
            ..Self::default()
        }
    }

    /// Everything that was acknowledged, and that others have, is there.
    pub(super) async fn verify(
        &mut self,
        place: &Place,
        plan: &Plan,
        stage: &Stage,
        fenced: Instant,
    ) {
        let region = &place.sites[plan.lost].region;
        let acked = stage.load.acked();
        let elsewhere = acked.iter().filter(|it| !it.regions.contains(region));
        let chains = stage.shared.iter().copied();
        let chains: Vec<u64> = chains.chain(elsewhere.map(|acked| acked.chain)).collect();
        let others: Vec<&Site> = place.others(plan.lost).collect();
        let verified = verify::all(&others, &stage.namespace, plan.material, &chains);
        self.verified = verified.await;
        let took_s = fenced.elapsed().as_secs_f64();
        say(&format!(
            "{} blocks verified, {} chains lost, {} wrong, {took_s:.1} s after the loss",
            self.verified.blocks, self.verified.lost, self.verified.wrong
        ));
    }

    /// What the calls were like until now.
    pub(super) fn account(&mut self, stage: &Stage, lost: usize, fenced: Instant) {
        let all = stage.load.calls(fenced, |_| true);
        let failed = all.iter().filter(|call| matches!(call.end, End::Failed(_)));
        let last = failed.map(|call| (call.ended - fenced).as_secs_f64());
        let served = self.gets_s.zip(self.puts_s);
        self.recovered_s = served.map(|(gets, puts)| last.fold(gets.max(puts), f64::max));
        self.its_clients = Tally::of(&stage.load.calls(fenced, |region| region == lost));
    }
}

/// Seconds until every engine of a region was served a call of a kind `by` whom it is to be.
pub(super) async fn served(
    stage: &Stage,
    region: usize,
    (kind, since): (Kind, Instant),
    by: impl Fn(&str) -> bool,
    bound: Duration,
) -> Option<f64> {
    let engines = stage.load.engines.iter();
    let mut latest = since;
    for engine in engines.filter(|engine| engine.region == region) {
        let first = loop {
            match engine.first_served(kind, since, &by) {
                Some(first) => break first,
                None if since.elapsed() >= bound => return None,
                None => sleep(POLL).await,
            }
        };
        latest = latest.max(first);
    }
    Some((latest - since).as_secs_f64())
}
