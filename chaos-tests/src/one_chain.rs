//! Many writers put the same chain at the same time, through one gateway or both of a region:
//! the bytes of each block come to the gateways once.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use kvmesh_client::client::{Opened, PutOptions, PutResult};

use crate::{
    blocks::{self, Blocks, CHAIN_BLOCKS},
    poll, scrape,
    site::Site,
};

const WRITERS: usize = 16;
const BLOCK_BYTES: usize = 300_000;
const BOUND: Duration = Duration::from_secs(60);
const RECEIVED: &str = "kvmesh_gateway_put_received_bytes_total";

/// Bytes of the chain, and those that came to the gateways, by how many of them were written
/// through.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Of all blocks.
    pub chain_bytes: u64,
    /// Through one gateway.
    pub through_one: u64,
    /// Through two.
    pub through_two: u64,
}

/// Runs it, with settings, logs and Raft stores in this folder.
///
/// # Errors
/// When the region does not start, or a block is not acknowledged.
pub async fn run(folder: &Path) -> Result<Report> {
    let mut site = Site::patient(folder, 3).await?;
    let one = received_of(&site, 0, 1).await?;
    let two = received_of(&site, 1, 2).await?;
    site.check()?;
    Ok(Report {
        chain_bytes: u64::from(CHAIN_BLOCKS) * BLOCK_BYTES as u64,
        through_one: one,
        through_two: two,
    })
}

async fn received_of(site: &Site, chain: u64, gateways: usize) -> Result<u64> {
    let opening = (0..WRITERS).map(|writer| open(site, writer % gateways));
    let writers = try_join_all(opening).await?;
    let before = received(site).await?;
    let blocks = Blocks { bytes: BLOCK_BYTES }.to_put(chain);
    let options = || PutOptions {
        deadline: Some(BOUND),
        ..PutOptions::default()
    };
    let puts = writers.iter().map(|writer| writer.put(&blocks, options()));
    let mut stored = 0;
    for put in join_all(puts).await {
        for result in put? {
            match result {
                PutResult::Acked(acked) => stored += u32::from(!acked.existed),
                other => bail!("a block was not acknowledged: {other:?}"),
            }
        }
    }
    ensure!(stored == CHAIN_BLOCKS, "{stored} blocks were stored");
    Ok((received(site).await? - before) as u64)
}

async fn open(site: &Site, gateway: usize) -> Result<Opened> {
    let client = site.client_through(gateway)?;
    let description = blocks::description();
    poll::until("opening the namespace", BOUND, async || {
        Ok(client.open(&description, "", "", BOUND).await?)
    })
    .await
}

/// Bytes of pieces that came to all gateways.
async fn received(site: &Site) -> Result<f64> {
    let mut sum = 0.0;
    for metrics in site.gateway_metrics() {
        let values = scrape::metric(metrics, RECEIVED).await;
        sum += values.context("a gateway's metrics")?.iter().sum::<f64>();
    }
    Ok(sum)
}
