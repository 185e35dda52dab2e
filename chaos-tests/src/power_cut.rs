//! Ends a node in the middle of durable puts, by SIGKILL or by cutting the power of its file
//! system, starts it again, and finds every acknowledged block.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use kvmesh_client::{
    Block,
    client::{Chain, GetOptions, Opened, PutBlock, PutOptions, PutResult},
};
use kvmesh_directory::{Description, Part, namespace::AckLevel};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{blocks, disk::Disk, lone::Lone};

/// Puts at a time.
const WRITERS: usize = 8;
/// Reads at a time.
const READERS: usize = 8;
/// Of the file system that is cut, besides.
const SPARE_BYTES: u64 = 1 << 30;
/// For blocks, at least.
const DISK_BYTES_MIN: u64 = 5 << 30;
/// A node has so much memory for each copy that its disk may list (docs/runbook.md).
const MEMORY_BYTES_A_COPY: u64 = 8 << 10;
/// A cut must not harm what is allocated ahead of the log.
const RESERVE_BYTES: u64 = 64 << 20;
/// Of a block: from 4 KiB on.
const BLOCK_BYTES: std::ops::Range<usize> = 4 << 10..320 << 10;
/// Of one put; it ends without an answer when its node does.
const PUT_BOUND: Duration = Duration::from_secs(10);
/// For the wanted acknowledgements before a fault.
const ACKS_BOUND: Duration = Duration::from_secs(60);
/// After a start, for so long nothing more may be found of what was acknowledged; to read all
/// of many takes longer.
const FOUND_BOUND: Duration = Duration::from_secs(60);

/// After a fault the blocks of so many rounds are read,
const RECENT_ROUNDS: usize = 4;
/// after every so many faults, and at the end, those of all of them.
const ALL_EVERY: u32 = 50;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Times that the node is killed.
    pub kills: u32,
    /// Times that its power is cut.
    pub cuts: u32,
    /// Blocks that are acknowledged before each of these.
    pub blocks: u64,
}

impl Plan {
    /// Twice as many as are put in the mean, with what is under way and comes in after a round's
    /// last block, which is more on a slow machine: of so many nothing is evicted from disk.
    fn blocks_max(&self) -> u64 {
        let rounds = u64::from(self.kills + self.cuts);
        rounds * (self.blocks + 2 * WRITERS as u64) * 2
    }

    fn disk_bytes(&self) -> u64 {
        let mean = (BLOCK_BYTES.start + BLOCK_BYTES.end) as u64 / 2;
        DISK_BYTES_MIN.max(self.blocks_max() * mean)
    }

    /// Of the file system that is cut: a node stops writing at `disk_stop_writes` of it, whatever
    /// its budget.
    fn file_system_bytes(&self) -> u64 {
        self.disk_bytes() / 9 * 10 + SPARE_BYTES
    }

    fn memory_bytes(&self) -> u64 {
        self.blocks_max() * MEMORY_BYTES_A_COPY
    }
}

/// What it came to.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    acked: usize,
    unanswered: u64,
    corrupt: usize,
    lost: usize,
    found_ms_max: u128,
    seconds: f64,
}

impl Report {
    /// As it is printed.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json!({
            "kills": self.plan.kills,
            "cuts": self.plan.cuts,
            "blocks_acknowledged": self.acked,
            "puts_unanswered": self.unanswered,
            "blocks_corrupt": self.corrupt,
            "blocks_lost": self.lost,
            "found_after_start_ms_max": self.found_ms_max,
            "seconds": self.seconds,
        })
    }
}

/// What is put, and what of it is acknowledged.
#[derive(Default)]
struct Work {
    next: AtomicU64,
    acked: watch::Sender<Vec<u64>>,
    unanswered: AtomicU64,
}

impl Work {
    fn acked(&self) -> Vec<u64> {
        self.acked.borrow().clone()
    }

    async fn put(&self, opened: &Opened) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (hash, bytes) = block(number);
        let put = PutBlock {
            hash,
            part: Part::default(),
            block: Block::of(&bytes, 0),
        };
        let options = PutOptions {
            ack: Some(AckLevel::Durable),
            deadline: Some(PUT_BOUND),
        };
        match opened.put(&[put], options).await.as_deref() {
            Ok([PutResult::Acked(acked)]) if acked.level == AckLevel::Durable => {
                self.acked.send_modify(|all| all.push(number));
            }
            _ => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A block's name and bytes follow from its number.
fn block(number: u64) -> (Bytes, Bytes) {
    let mut rng = SmallRng::seed_from_u64(number);
    let mut hash = vec![0; 32];
    rng.fill_bytes(&mut hash);
    let mut bytes = vec![0; rng.random_range(BLOCK_BYTES)];
    rng.fill_bytes(&mut bytes);
    (hash.into(), bytes.into())
}

fn description() -> Description {
    Description {
        model: "power-cut".to_owned(),
        ..blocks::description()
    }
}

/// Runs all of it in a folder.
///
/// # Errors
/// When the region does not start, or a promise is broken; says which.
pub async fn run(plan: Plan, folder: &Path) -> Result<Report> {
    let begun = Instant::now();
    // Where no power is cut, no disk of its own is needed.
    let disk = match plan.cuts {
        0 => None,
        _ => Some(Disk::new(folder, plan.file_system_bytes())?),
    };
    let place = disk.as_ref().map_or(folder, |disk| &disk.path);
    let settings = kvmesh_node::Settings {
        raft_dir: place.join("raft"),
        raft_reserve: RESERVE_BYTES,
        disk_dir: place.join("blocks"),
        disk_bytes: plan.disk_bytes(),
        memory_bytes: plan.memory_bytes(),
        ..kvmesh_node::Settings::default()
    };
    let mut lone = Lone::start(folder, settings, &description()).await?;
    let work = Arc::new(Work::default());
    let (mut found_ms_max, mut begins, rounds) = (0, Vec::new(), plan.kills + plan.cuts);
    for round in 0..rounds {
        // Spread evenly among the kills.
        let cuts_before = |round: u32| round * plan.cuts / rounds;
        let cut = cuts_before(round + 1) > cuts_before(round);
        let fault = if cut { "power cut" } else { "kill" };
        begins.push(work.acked().len());
        write_until_fault(&mut lone, &work, plan.blocks, disk.as_ref().filter(|_| cut))
            .await
            .with_context(|| format!("round {round}, {fault}"))?;
        lone.restart().await?;
        let started = Instant::now();
        let from = match (round + 1) % ALL_EVERY == 0 || round + 1 == rounds {
            true => 0,
            false => begins[begins.len().saturating_sub(RECENT_ROUNDS)],
        };
        all_found(&lone.opened, &work.acked()[from..])
            .await
            .with_context(|| format!("after round {round}, {fault}"))?;
        found_ms_max = found_ms_max.max(started.elapsed().as_millis());
    }
    lone.node.kill()?;
    drop(lone);
    Ok(Report {
        plan,
        acked: work.acked().len(),
        unanswered: work.unanswered.load(Ordering::Relaxed),
        // Else it would have ended with an error.
        corrupt: 0,
        lost: 0,
        found_ms_max,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Puts until so many more are acknowledged, and ends the node while more are under way.
async fn write_until_fault(
    lone: &mut Lone,
    work: &Arc<Work>,
    blocks: u64,
    cut: Option<&Disk>,
) -> Result<()> {
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (work, opened) = (Arc::clone(work), lone.opened.clone());
        writers.spawn(async move {
            loop {
                work.put(&opened).await;
            }
        });
    }
    let mut acked = work.acked.subscribe();
    let wanted = acked.borrow().len() + blocks as usize;
    let enough = acked.wait_for(|all| all.len() >= wanted);
    // Not kept: nobody else could write meanwhile what was acknowledged.
    let came = timeout(ACKS_BOUND, enough).await.is_ok();
    ensure!(
        came,
        "{} of {wanted} durable acknowledgements came within {ACKS_BOUND:?}",
        work.acked().len()
    );
    match cut {
        Some(disk) => {
            disk.cut()?;
            // A node whose Raft log cannot be written may be faster.
            lone.node.put_down()?;
        }
        None => lone.node.kill()?,
    }
    // A gateway tries what is under way again until its deadline: nobody waits for that.
    let under_way = writers.len() as u64;
    writers.shutdown().await;
    work.unanswered.fetch_add(under_way, Ordering::Relaxed);
    match cut {
        Some(disk) => disk.power_on(),
        None => Ok(()),
    }
}

/// Reads every acknowledged block until each is found; other bytes end it at once.
async fn all_found(opened: &Opened, acked: &[u64]) -> Result<()> {
    let mut end = Instant::now() + FOUND_BOUND;
    let mut missing = acked.to_vec();
    loop {
        let before = missing.len();
        let reads = stream::iter(missing).map(|number| async move {
            Ok::<_, anyhow::Error>((number, is_found(opened, number).await?))
        });
        let read: Vec<_> = reads.buffer_unordered(READERS).collect().await;
        let mut left = Vec::new();
        for one in read {
            let (number, found) = one?;
            left.extend((!found).then_some(number));
        }
        if left.is_empty() {
            return Ok(());
        }
        if left.len() < before {
            end = Instant::now() + FOUND_BOUND;
        }
        ensure!(
            Instant::now() < end,
            "{} of {} acknowledged blocks are lost: {:?}",
            left.len(),
            acked.len(),
            &left[..left.len().min(10)]
        );
        missing = left;
    }
}

/// Whether a block is served.
///
/// # Errors
/// When it is served with other bytes.
async fn is_found(opened: &Opened, number: u64) -> Result<bool> {
    let (hash, bytes) = block(number);
    let options = GetOptions {
        deadline: Some(PUT_BOUND),
        ..GetOptions::default()
    };
    let chain = Chain::new([hash])?;
    let Ok(got) = opened.get(&chain, options).await else {
        return Ok(false);
    };
    let Some(block) = got.blocks.first() else {
        return Ok(false);
    };
    let same = block.block.pieces.concat() == bytes;
    ensure!(same, "block {number} is served with other bytes");
    Ok(true)
}
