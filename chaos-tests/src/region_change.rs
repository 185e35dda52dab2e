//! Everything that may be done to a region's nodes, one after the other, while engines read, put
//! and look up: no call fails that is made again inside of its deadline, and no acknowledged
//! block is lost.

mod report;
mod steps;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use tokio::time::Instant;

pub use self::report::{Phase, Report};
use self::steps::Step;
use crate::{
    blocks::{self, Blocks, CHAIN_BLOCKS, Ledger},
    load::{Background, Load, Progress},
    poll,
    site::Site,
};

/// Nodes that form the region.
const NODES: u64 = 5;
const OPEN_BOUND: Duration = Duration::from_secs(30);
/// After a change, until the region is whole again.
const WHOLE_BOUND: Duration = Duration::from_secs(120);
/// For calls to go on.
const PROGRESS_BOUND: Duration = Duration::from_secs(60);
/// Calls at once while the blocks are put and while they are verified.
const CALLS: usize = 8;
/// So many of each end well after a change.
const PUTS_AFTER: u64 = 2;
const READS_AFTER: u64 = 10;
const LOOKUPS_AFTER: u64 = 10;

/// How much is put, and who votes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Blocks that are put before the first change, rounded up to whole chains.
    pub blocks: u64,
    /// Bytes of one block.
    pub block_bytes: usize,
    /// Of the five nodes that form the region, so many vote: 3 or 5.
    pub voters: u64,
    /// Every node is restarted, not only one.
    pub all: bool,
    /// Inside of which a call may be made again.
    pub call_bound: Duration,
}

/// Runs all of it, with settings, logs and Raft stores in this folder.
///
/// # Errors
/// When the region does not start, or a promise is broken; says which.
pub async fn run(plan: Plan, folder: &Path) -> Result<Report> {
    let begun = Instant::now();
    let mut site = Site::start(folder, NODES, plan.voters).await?;
    let load = Arc::new(open(&site, plan).await?);
    let chains = plan.blocks.div_ceil(u64::from(CHAIN_BLOCKS));
    let puts = stream::iter(0..chains).for_each_concurrent(CALLS, |_| load.put());
    puts.await;
    load.progress.check()?;
    let before = load.ledger.all().len() as u64;
    let background = Background::start(&load).looking_up(&load);
    let mut phases = Vec::new();
    for step in steps::all(plan.all) {
        phases.push(phase(&mut site, &load, step).await?);
        check_voters(&site, plan.voters).await?;
    }
    background.end().await?;
    load.progress.check()?;
    for door in 0..load.opened.len() {
        let reads = stream::iter(load.ledger.all());
        let reads = reads.for_each_concurrent(CALLS, |chain| load.read(door, chain));
        reads.await;
        load.progress.check()?;
    }
    site.check()?;
    let acked = load.ledger.all().len() as u64;
    Ok(Report {
        voters: plan.voters,
        blocks_before: before * u64::from(CHAIN_BLOCKS),
        blocks_during: (acked - before) * u64::from(CHAIN_BLOCKS),
        block_bytes: plan.block_bytes,
        phases,
        retries: load.progress.retries.load(Ordering::Relaxed),
        retry_reasons: load.progress.reasons(),
        failures: 0,
        blocks_verified: acked * u64::from(CHAIN_BLOCKS),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

async fn open(site: &Site, plan: Plan) -> Result<Load> {
    let (mut opened, description) = (Vec::new(), blocks::description());
    for door in 0..site.gateways.len() {
        let client = site.client(door)?;
        let namespace = poll::until("opening the namespace", OPEN_BOUND, async || {
            let opened = client.open(&description, "", "", OPEN_BOUND);
            Ok(opened.await?)
        });
        opened.push(namespace.await?);
    }
    Ok(Load {
        blocks: Blocks {
            bytes: plan.block_bytes,
        },
        opened,
        ledger: Ledger::default(),
        progress: Progress::default(),
        next: 0.into(),
        deadline: plan.call_bound,
    })
}

/// Makes a change, waits until the region is whole again, and sees that calls go on.
async fn phase(site: &mut Site, load: &Load, step: Step) -> Result<Phase> {
    let what = step.to_string();
    let (begun, before) = (Instant::now(), done(load));
    load.progress.take_slowest_ms();
    step.make(site, load).await?;
    site.whole(&what, WHOLE_BOUND).await?;
    let seconds = begun.elapsed().as_secs_f64();
    goes_on(load, &what).await?;
    let after = done(load);
    Ok(Phase {
        what,
        seconds,
        puts: after.0 - before.0,
        reads: after.1 - before.1,
        lookups: after.2 - before.2,
        slowest_ms: load.progress.take_slowest_ms(),
    })
}

/// Some calls of each kind end well from now on.
async fn goes_on(load: &Load, what: &str) -> Result<()> {
    let before = done(load);
    poll::until(
        &format!("going on after {what}"),
        PROGRESS_BOUND,
        async || {
            load.progress.check()?;
            let now = done(load);
            let (puts, reads, lookups) = (now.0 - before.0, now.1 - before.1, now.2 - before.2);
            ensure!(
                puts >= PUTS_AFTER && reads >= READS_AFTER && lookups >= LOOKUPS_AFTER,
                "{puts} puts, {reads} reads and {lookups} lookups"
            );
            Ok(())
        },
    )
    .await?;
    load.progress.check()
}

/// As many members as at first are to vote, and all of them live.
async fn check_voters(site: &Site, wanted: u64) -> Result<()> {
    let first = site.other(0)?;
    let voters = site.see(first).await?.voters;
    let known = voters.iter().all(|voter| site.nodes.contains_key(voter));
    ensure!(
        voters.len() as u64 == wanted && known,
        "{voters:?} are to vote, and not {wanted} of the nodes that live"
    );
    Ok(())
}

fn done(load: &Load) -> (u64, u64, u64) {
    let progress = &load.progress;
    (
        progress.puts.load(Ordering::Relaxed),
        progress.reads.load(Ordering::Relaxed),
        progress.lookups.load(Ordering::Relaxed),
    )
}
