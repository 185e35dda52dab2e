//! Who has the right of way on a link: gets of one block that somebody waits for, on their own and
//! while a policy has blocks brought over the same link.

use std::{ops::Range, time::Duration};

use anyhow::{Result, ensure};
use kvmesh_client::client::{ChainQuery, Opened};
use kvmesh_directory::Description;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    BLOCK_BYTES, BOUND, CALL_BOUND, CHAIN_BLOCKS, Plan, REGIONS, Sites, gets, mbit, names,
};
use crate::{mesh::PUSHED, poll};

/// Both regions' ends of one namespace.
struct Ends {
    near: Opened,
    far: Opened,
}

impl Ends {
    async fn open(sites: &Sites<'_>, description: &Description, template: &str) -> Result<Self> {
        Ok(Self {
            near: sites.open(0, description, template).await?,
            far: sites.open(1, description, template).await?,
        })
    }

    /// How many blocks of these chains the other region keeps itself.
    async fn kept(&self, chains: Range<u64>) -> Result<u64> {
        let queries: Result<Vec<ChainQuery>> = chains
            .map(|chain| Ok(ChainQuery::from(names(chain, CHAIN_BLOCKS)?)))
            .collect();
        let answer = self.far.lookup(&queries?, CALL_BOUND).await?;
        let matches = answer.matches.iter();
        Ok(matches.map(|found| u64::from(found.local_blocks)).sum())
    }
}

/// Gets `plan.singles` blocks alone, and as many while `plan.chains` chains are brought.
pub(super) async fn measure(sites: &Sites<'_>, plan: &Plan) -> Result<Value> {
    let singles = u64::from(plan.singles);
    let pushed = Description {
        model: "far-link-pushed".to_owned(),
        ..super::description()
    };
    let demand = Ends::open(sites, &super::description(), "always").await?;
    let pushed = Ends::open(sites, &pushed, PUSHED).await?;
    // The first one is for warming up.
    for chain in 0..=2 * singles {
        gets::put(&demand.near, chain, 1).await?;
    }
    poll::until("a get from afar", BOUND, async || {
        gets::get(&demand.far, 0, 1).await
    })
    .await?;
    let alone = gets::one_by_one(&demand.far, 1..singles + 1).await?;

    let (chains, begun) = (0..u64::from(plan.chains), Instant::now());
    for chain in chains.clone() {
        gets::put(&pushed.near, chain, CHAIN_BLOCKS).await?;
    }
    let kept = async || pushed.kept(chains.clone()).await;
    poll::until("the first blocks that are brought", BOUND, async || {
        ensure!(kept().await? > 0, "none is there");
        Ok(())
    })
    .await?;
    let (before, clock) = (kept().await?, Instant::now());
    let beside = gets::one_by_one(&demand.far, singles + 1..2 * singles + 1).await?;
    let (during, took) = (kept().await? - before, clock.elapsed());
    let all = chains.end * u64::from(CHAIN_BLOCKS);
    ensure!(
        before + during < all,
        "all {all} blocks are in {} before the last get ended: take more chains, or fewer gets",
        REGIONS[1].0
    );
    // At half of the link in the mean.
    let half = Duration::from_secs_f64(all as f64 * BLOCK_BYTES as f64 * 16e-6 / plan.mbit as f64);
    poll::until(
        "the last of what is brought",
        BOUND + 4 * half,
        async || {
            let there = kept().await?;
            ensure!(there == all, "{there} of {all}");
            Ok(())
        },
    )
    .await?;
    let rate = |blocks: u64, took| mbit(blocks as usize * BLOCK_BYTES, took);
    Ok(json!({
        "alone_ms": alone.told(),
        "beside_ms": beside.told(),
        "beside_of_alone": beside.at(0.5) / alone.at(0.5),
        "brought_meanwhile_mbit": rate(during, took),
        "brought_mbit": rate(all, begun.elapsed()),
        "brought_of_link": rate(all, begun.elapsed()) / plan.mbit as f64,
    }))
}
