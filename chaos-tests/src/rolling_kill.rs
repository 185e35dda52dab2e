//! Kills each node of a region in turn while reads and puts go on, and afterwards finds
//! every acknowledged block in every region.

mod report;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use tokio::time::Instant;

pub use self::report::{Kill, Report};
use crate::{
    blocks::{self, Blocks, CHAIN_BLOCKS, Ledger},
    load::{Background, DEADLINE, Load, Progress},
    mesh::{Mesh, REGIONS},
    poll,
};

/// From the restart of a node until nothing lacks a copy.
const WHOLE_BOUND: Duration = Duration::from_secs(120);
/// For reads and puts to go on without a node.
const PROGRESS_BOUND: Duration = Duration::from_secs(60);
const OPEN_BOUND: Duration = Duration::from_secs(30);
/// Calls at once while the blocks are put and while they are verified.
const CALLS: usize = 8;
/// While a node is down, so many puts and reads end well before it starts again.
const PUTS_WITHOUT: u64 = 10;
const READS_WITHOUT: u64 = 40;

/// How much is put.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Blocks that are put before the first kill, rounded up to whole chains.
    pub blocks: u64,
    /// Bytes of one block.
    pub block_bytes: usize,
}

/// Runs all of it, with settings, logs and Raft stores in this folder.
///
/// # Errors
/// When the mesh does not start, or a promise is broken; says which.
pub async fn run(plan: Plan, folder: &Path) -> Result<Report> {
    let begun = Instant::now();
    let mut mesh = Mesh::start(folder).await?;
    let load = Arc::new(open(&mesh, plan).await?);
    put_all(&load, plan).await?;
    let before = load.ledger.all().len() as u64;
    let background = Background::start(&load);
    let mut kills = Vec::new();
    for node in 0..mesh.regions[0].nodes.len() {
        kills.push(kill(&mut mesh, &load, node).await?);
        load.progress.check()?;
    }
    background.end().await?;
    load.progress.check()?;
    let reads = load.progress.reads.load(Ordering::Relaxed);
    verify(&load).await?;
    mesh.check()?;
    let acked = load.ledger.all().len() as u64;
    let known = mesh.see(0, 0).await?.blocks;
    let wanted = acked * u64::from(CHAIN_BLOCKS);
    ensure!(
        known >= wanted,
        "the directory has {known} of {wanted} blocks"
    );
    Ok(Report {
        blocks_before: before * u64::from(CHAIN_BLOCKS),
        blocks_during: (acked - before) * u64::from(CHAIN_BLOCKS),
        block_bytes: plan.block_bytes,
        reads_during: reads,
        retries: load.progress.retries.load(Ordering::Relaxed),
        retry_reasons: load.progress.reasons(),
        kills,
        regions_verified: REGIONS.len(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

async fn open(mesh: &Mesh, plan: Plan) -> Result<Load> {
    let description = blocks::description();
    let mut opened = Vec::new();
    for (region, (name, _)) in REGIONS.iter().enumerate() {
        let client = mesh.client(region)?;
        let what = format!("opening the namespace in {name}");
        // The gateway may not have heard yet that its region was made.
        let namespace = poll::until(&what, OPEN_BOUND, async || {
            let opened = client.open(&description, "", "always", OPEN_BOUND);
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
        deadline: DEADLINE,
    })
}

async fn put_all(load: &Load, plan: Plan) -> Result<()> {
    let chains = plan.blocks.div_ceil(u64::from(CHAIN_BLOCKS));
    let puts = stream::iter(0..chains).for_each_concurrent(CALLS, |_| load.put());
    puts.await;
    load.progress.check()
}

/// Every acknowledged chain, in every region.
async fn verify(load: &Load) -> Result<()> {
    for region in 0..load.opened.len() {
        let chains = stream::iter(load.ledger.all());
        chains
            .for_each_concurrent(CALLS, |chain| load.read(region, chain))
            .await;
        load.progress.check()?;
    }
    Ok(())
}

/// Kills one node of the first region, lets work go on without it, starts it again, and
/// waits until nothing lacks a copy.
async fn kill(mesh: &mut Mesh, load: &Load, node: usize) -> Result<Kill> {
    let number = node as u64 + 1;
    let incarnation = incarnation(mesh, other(mesh, node), number).await?;
    let killed = Instant::now();
    mesh.regions[0].nodes[node].kill()?;
    let (puts, reads) = done(load);
    let what = format!("going on without node {number}");
    poll::until(&what, PROGRESS_BOUND, async || {
        load.progress.check()?;
        let (puts_now, reads_now) = done(load);
        let (puts, reads) = (puts_now - puts, reads_now - reads);
        ensure!(
            puts >= PUTS_WITHOUT && reads >= READS_WITHOUT,
            "{puts} puts and {reads} reads"
        );
        Ok(())
    })
    .await?;
    let down = killed.elapsed();
    mesh.regions[0].nodes[node].start().await?;
    let started = Instant::now();
    let what = format!("making up for node {number}");
    let goal = poll::until(&what, WHOLE_BOUND, async || {
        let seen = mesh.see(0, other(mesh, node)).await?;
        let record = seen.nodes.iter().find(|record| record.0 == number);
        let &(_, now, alive) = record.context("it is no member")?;
        ensure!(now > incarnation && alive, "it has not begun anew");
        Ok(seen.applied)
    })
    .await?;
    let left = WHOLE_BOUND.saturating_sub(started.elapsed());
    poll::until(&what, left, async || whole(mesh, goal).await).await?;
    Ok(Kill {
        node: number,
        down_seconds: down.as_secs_f64(),
        whole_seconds: started.elapsed().as_secs_f64(),
    })
}

/// Every node of the first region has applied the feed to here, and nothing lacks a copy.
async fn whole(mesh: &Mesh, goal: u64) -> Result<()> {
    for node in 0..mesh.regions[0].nodes.len() {
        let seen = mesh.see(0, node).await?;
        let (applied, lacking) = (seen.applied, seen.under_replicated);
        ensure!(
            applied >= goal,
            "node {} is at {applied} of {goal}",
            node + 1
        );
        ensure!(lacking == 0, "{lacking} blocks lack copies");
        let exported = mesh.under_replicated_metric(0, node).await?;
        ensure!(
            exported == 0.0,
            "node {} still exports {exported}",
            node + 1
        );
    }
    Ok(())
}

/// A node of the first region that is not this one.
fn other(mesh: &Mesh, node: usize) -> usize {
    (node + 1) % mesh.regions[0].nodes.len()
}

async fn incarnation(mesh: &Mesh, asked: usize, number: u64) -> Result<u64> {
    let seen = mesh.see(0, asked).await?;
    let record = seen.nodes.iter().find(|record| record.0 == number);
    Ok(record.context("the node is no member")?.1)
}

fn done(load: &Load) -> (u64, u64) {
    let progress = &load.progress;
    (
        progress.puts.load(Ordering::Relaxed),
        progress.reads.load(Ordering::Relaxed),
    )
}
