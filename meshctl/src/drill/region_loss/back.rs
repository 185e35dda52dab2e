//! The region's return: when it answers, knows what it missed, is asked again, and has its
//! clients back; and whether everything is there then.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{POLL, Place, Plan, Stage, VERIFY_MAX, changes::Changes, loss, say};
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
    /// What only it had, read in the other regions.
    pub(in crate::drill) its_own: Verified,
    /// Everything that was ever acknowledged and not deleted, read everywhere.
    pub(in crate::drill) all: Verified,
}

impl Back {
    pub(super) async fn watch(
        place: &Place,
        plan: &Plan,
        stage: &Stage,
        changes: &Changes,
        ghosts: &Ghosts,
    ) -> anyhow::Result<Self> {
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
        let ((answers_s, knows_s), online_s, home_s) = tokio::join!(
            knowing,
            watch::online(&others, &site.region, mended, RETURN_MAX),
            loss::served(stage, plan.lost, (Kind::Get, mended), at_home, RETURN_MAX),
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
        let its_own = verify::all(
            &others,
            &stage.namespace,
            plan.material,
            &stage.alone,
            VERIFY_MAX,
        );
        let its_own = its_own.await;
        // What is put meanwhile would have to be looked for, too.
        stage.load.end().await;
        let chains: Vec<u64> = stage.load.acked().iter().map(|acked| acked.chain).collect();
        let everywhere: Vec<&Site> = place.sites.iter().collect();
        let all = verify::all(
            &everywhere,
            &stage.namespace,
            plan.material,
            &chains,
            VERIFY_MAX,
        );
        let all = all.await;
        say(&format!("{} blocks verified everywhere", all.blocks));
        Ok(Self {
            answers_s,
            knows_s,
            online_s,
            home_s,
            its_own,
            all,
        })
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
