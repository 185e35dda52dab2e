//! The region's return: when it answers, knows what it missed, is asked again, and has its
//! clients back; and whether everything is there then.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{POLL, Place, Plan, Stage, changes::Changes, equal::Equal, loss, say};
use crate::drill::{
    load::Kind,
    place::Site,
    verify::{self, Ghosts, Verified},
    watch,
};

/// Its gateway answers within this time.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// It knows by then what it missed, and is asked again; 30 to 36 s by the usual settings.
const RETURN_MAX: Duration = Duration::from_secs(300);

/// See the module. Seconds count from when the region was let back; none: not in time.
#[derive(Debug, Default, Serialize)]
pub(in crate::drill) struct Back {
    pub(in crate::drill) answers_s: Option<f64>,
    /// It has heard of every delete and raise.
    pub(in crate::drill) knows_s: Option<f64>,
    /// Every other region asks it again.
    pub(in crate::drill) online_s: Option<f64>,
    /// Each of its clients gets from it again.
    pub(in crate::drill) home_s: Option<f64>,
    /// Every region knows what every other one has.
    pub(in crate::drill) equal: Equal,
    /// What only it had, read in the other regions.
    pub(in crate::drill) its_own: Verified,
    /// Everything that was ever acknowledged and not deleted, read everywhere.
    pub(in crate::drill) all: Verified,
}

impl Back {
    /// Until it is as if it had never been away, or that is late.
    pub(super) async fn watch(
        place: &Place,
        plan: &Plan,
        stage: &Stage,
        changes: &Changes,
        ghosts: &Ghosts,
    ) -> Self {
        let (site, mended) = (&place.sites[plan.lost], Instant::now());
        let others: Vec<&Site> = place.others(plan.lost).collect();
        let at_home = |by: &str| by == site.region;
        let knowing = async {
            let answers_s = watch::back(site, mended, ANSWER_MAX).await;
            let knows_s = knows(stage, site, changes, mended).await;
            if knows_s.is_some() {
                ghosts.it_knows();
            }
            (answers_s, knows_s)
        };
        let ((answers_s, knows_s), online_s, home_s, equal) = tokio::join!(
            knowing,
            watch::online(&others, &site.region, mended, RETURN_MAX),
            loss::served(stage, plan.lost, (Kind::Get, mended), at_home, RETURN_MAX),
            Equal::watch(place, mended, RETURN_MAX),
        );
        let said = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!("after {seconds:.1} s"),
            None => "not in time".to_owned(),
        };
        say(&format!(
            "it answers {}, knows what it missed {}, is asked again {}, has its clients back {}",
            said(answers_s),
            said(knows_s),
            said(online_s),
            said(home_s)
        ));
        Self {
            answers_s,
            knows_s,
            online_s,
            home_s,
            equal,
            ..Self::default()
        }
    }

    /// Ends the clients, and reads everything that there is.
    pub(super) async fn verify(&mut self, place: &Place, plan: &Plan, stage: &Stage) {
        let (namespace, material) = (&stage.namespace, plan.material);
        let others: Vec<&Site> = place.others(plan.lost).collect();
        self.its_own = verify::all(&others, namespace, material, &stage.alone).await;
        // What is put meanwhile would have to be looked for, too.
        stage.load.end().await;
        let chains: Vec<u64> = stage.load.acked().iter().map(|acked| acked.chain).collect();
        let everywhere: Vec<&Site> = place.sites.iter().collect();
        self.all = verify::all(&everywhere, namespace, material, &chains).await;
        say(&format!("{} blocks verified everywhere", self.all.blocks));
    }
}

/// Seconds until the region's gateway shows what was deleted and raised meanwhile.
async fn knows(stage: &Stage, site: &Site, changes: &Changes, since: Instant) -> Option<f64> {
    let chain = stage.load.ledger.material.chain(0).ok()?;
    let cache = site
        .gateway
        .cache(&stage.namespace, &changes.positions)
        .ok()?;
    while since.elapsed() < RETURN_MAX {
        if let Ok(answer) = cache.lookup(&chain, 0).await
            && !answer.view_behind
        {
            return Some(since.elapsed().as_secs_f64());
        }
        sleep(POLL).await;
    }
    None
}
