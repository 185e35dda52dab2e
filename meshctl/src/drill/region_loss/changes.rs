//! What is deleted and raised while the region is cut off, and whether it stays away.

use std::{convert::Infallible, future::Future, time::Duration};

use kvmesh_directory::{FeedPosition, Namespace};
use serde::Serialize;
use tokio::time::interval;

use super::{Place, Plan, Stage};
use crate::drill::{
    material::BLOCKS,
    verify::{Ghosts, Gone},
};

/// How often what was deleted is looked for while the region comes back.
pub(super) const OFTEN: Duration = Duration::from_millis(100);
/// And while calls are measured: looking is load as well.
pub(super) const SELDOM: Duration = Duration::from_secs(1);
/// Chains that nobody puts.
const NEVER: [u64; 2] = [3_000_000_000, 3_000_000_001];

/// What was made away with.
pub(super) struct Changes {
    pub(super) gone: Vec<Gone>,
    /// A view at these positions shows none of it.
    pub(super) positions: Vec<FeedPosition>,
}

/// As the report says it.
#[derive(Debug, Serialize)]
pub(in crate::drill) struct Changed {
    deleted_blocks: u64,
    raised_blocks: u64,
    /// How often they were looked for.
    pub(in crate::drill) looks: u64,
    /// Blocks that the region served after its return, before it had heard of the deletes.
    pub(in crate::drill) served_before_it_knew: u64,
    /// Where they were served though they may not be.
    pub(in crate::drill) seen: Vec<String>,
}

impl Changes {
    /// By the gateway of another region.
    pub(super) async fn make(place: &Place, plan: &Plan, stage: &Stage) -> anyhow::Result<Self> {
        let Some(by) = place.others(plan.lost).next() else {
            anyhow::bail!("there is no other region");
        };
        let cache = by.gateway.cache(&stage.namespace, &[])?;
        for chain in stage.deleted {
            cache.delete(&plan.material.chain(chain)?, 0, 0).await?;
        }
        let mut positions = cache.positions();
        let (raised, _) = by.gateway.raise(stage.doomed.id).await?;
        // The newest position of a region shows what the earlier ones do.
        if let Some(raised) = raised {
            positions.retain(|position| position.region != raised.region);
            positions.push(raised);
        }
        let of = |namespace: &Namespace, chains: [u64; 2]| Gone {
            namespace: namespace.clone(),
            chains: chains.to_vec(),
            after: positions.clone(),
        };
        let gone = vec![
            of(&stage.namespace, stage.deleted),
            of(&stage.doomed, stage.raised),
        ];
        Ok(Self { gone, positions })
    }

    /// Before there are any: looking for these is as much load as it is later.
    pub(super) fn none(stage: &Stage) -> Self {
        let of = |namespace: &Namespace| Gone {
            namespace: namespace.clone(),
            chains: NEVER.to_vec(),
            after: Vec::new(),
        };
        Self {
            gone: vec![of(&stage.namespace), of(&stage.doomed)],
            positions: Vec::new(),
        }
    }

    /// Looks for all of it while something is done.
    pub(super) async fn looked_for<T>(
        &self,
        (place, plan): (&Place, &Plan),
        ghosts: &Ghosts,
        every: Duration,
        doing: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            done = doing => done,
            never = self.look((place, plan), ghosts, every) => match never {},
        }
    }

    /// Looks for all of it at every gateway, until dropped.
    async fn look(
        &self,
        (place, plan): (&Place, &Plan),
        ghosts: &Ghosts,
        every: Duration,
    ) -> Infallible {
        let looking = place.sites.iter().enumerate().map(|(at, site)| async move {
            let mut ticks = interval(every);
            loop {
                ticks.tick().await;
                let lost = at == plan.lost;
                ghosts.look(site, lost, &self.gone, plan.material).await;
            }
        });
        let (never, _, _) = futures::future::select_all(looking.map(Box::pin)).await;
        never
    }

    pub(super) fn told(&self, ghosts: &Ghosts) -> Changed {
        let blocks = |gone: &Gone| gone.chains.len() as u64 * u64::from(BLOCKS);
        Changed {
            deleted_blocks: blocks(&self.gone[0]),
            raised_blocks: blocks(&self.gone[1]),
            looks: ghosts.looks(),
            served_before_it_knew: ghosts.early(),
            seen: ghosts.seen(),
        }
    }
}
