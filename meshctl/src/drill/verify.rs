//! Whether blocks are there, byte for byte, and whether deleted ones are gone.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use kvmesh_client::client::{GetOptions, GetOutcome};
use kvmesh_directory::{FeedPosition, Namespace};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    material::{BLOCKS, Material},
    place::Site,
};
use crate::rpc::Peer;

/// Chains that are read at once.
const AT_ONCE: usize = 16;
/// A chain that did not come whole is read again: a view may lag, or a far fetch be full.
const AGAIN: Duration = Duration::from_millis(100);
/// A chain is there within this time after it was read first.
const VERIFY_MAX: Duration = Duration::from_secs(60);
/// Once so many are lost, the promise is broken: the others are read once.
const LOST_WAITED_FOR: usize = 32;
/// Missing chains that are told.
const TOLD: usize = 5;

/// One get, as the gateway asked sees it.
pub(super) struct Read {
    pub(super) blocks: u32,
    pub(super) whole: bool,
    pub(super) exact: bool,
    pub(super) fill_failures: u32,
}

/// Gets a chain by one gateway; what comes is compared with what was put.
pub(super) async fn read(
    gateway: &Peer,
    namespace: &Namespace,
    material: Material,
    number: u64,
    await_fill: bool,
) -> anyhow::Result<Read> {
    read_after(gateway, (namespace, &[]), material, number, await_fill).await
}

/// As [`read`], by views that show what those at `after` show.
async fn read_after(
    gateway: &Peer,
    (namespace, after): (&Namespace, &[FeedPosition]),
    material: Material,
    number: u64,
    await_fill: bool,
) -> anyhow::Result<Read> {
    let cache = gateway.cache(namespace, after)?;
    let options = GetOptions {
        await_fill,
        ..GetOptions::default()
    };
    let (mut blocks, mut exact) = (0, true);
    let on_block = |block| {
        blocks += 1;
        exact &= material.is_exact(number, &block);
        Ok(())
    };
    let summary = cache
        .get(&material.chain(number)?, options, on_block)
        .await?;
    Ok(Read {
        blocks,
        whole: blocks == BLOCKS && summary.outcome == GetOutcome::Complete,
        exact,
        fill_failures: summary.fill_failures,
    })
}

/// What a verification found, over all gateways that were asked.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Verified {
    pub(super) gateways: usize,
    pub(super) chains: usize,
    /// That came whole and exact, counted at each gateway.
    pub(super) blocks: u64,
    /// Chains that did not come whole in time, counted at each gateway.
    pub(super) lost: usize,
    pub(super) wrong: usize,
    /// Such as.
    pub(super) such_as: Vec<String>,
}

/// Reads every chain at every one of `sites`; one that does not come whole is read again
/// for a while.
pub(super) async fn all(
    sites: &[&Site],
    namespace: &Namespace,
    material: Material,
    chains: &[u64],
) -> Verified {
    let lost = &AtomicUsize::new(0);
    let asked = sites
        .iter()
        .flat_map(|site| chains.iter().map(move |chain| (*site, *chain)));
    let reads = stream::iter(asked).map(|(site, chain)| async move {
        let until = Instant::now() + patience(lost.load(Ordering::Relaxed));
        let end = until_whole(&site.gateway, namespace, material, chain, until).await;
        lost.fetch_add(usize::from(end.is_err()), Ordering::Relaxed);
        (site, chain, end)
    });
    let mut verified = Verified {
        gateways: sites.len(),
        chains: chains.len(),
        ..Verified::default()
    };
    let mut ends = reads.buffer_unordered(AT_ONCE);
    while let Some((site, chain, end)) = ends.next().await {
        match end {
            Ok(true) => verified.blocks += u64::from(BLOCKS),
            Ok(false) => verified.wrong += 1,
            Err(why) => {
                verified.lost += 1;
                if verified.such_as.len() < TOLD {
                    let told = format!("chain {chain} by {}: {why}", site.region);
                    verified.such_as.push(told);
                }
            }
        }
    }
    verified
}

/// How long a chain is waited for when so many are lost.
fn patience(lost: usize) -> Duration {
    if lost < LOST_WAITED_FOR {
        VERIFY_MAX
    } else {
        Duration::ZERO
    }
}

/// Whether a chain is exact; the error says why it did not come whole.
async fn until_whole(
    gateway: &Peer,
    namespace: &Namespace,
    material: Material,
    chain: u64,
    until: Instant,
) -> Result<bool, String> {
    loop {
        let why = match read(gateway, namespace, material, chain, false).await {
            Ok(read) if !read.exact => return Ok(false),
            Ok(read) if read.whole => return Ok(true),
            Ok(read) => format!("{} of {BLOCKS} blocks", read.blocks),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= until {
            return Err(why);
        }
        sleep(AGAIN).await;
    }
}

/// What is not to be read any more.
pub(super) struct Gone {
    pub(super) namespace: Namespace,
    pub(super) chains: Vec<u64>,
    /// A view at these positions does not show it.
    pub(super) after: Vec<FeedPosition>,
}

/// Reads what was deleted, again and again: it must never come.
#[derive(Default)]
pub(super) struct Ghosts {
    looks: AtomicU64,
    early: AtomicU64,
    known: AtomicBool,
    seen: Mutex<Vec<String>>,
}

impl Ghosts {
    /// The region that was cut off has heard of all deletes.
    pub(super) fn it_knows(&self) {
        self.known.store(true, Ordering::Release);
    }

    /// Gets that were answered.
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Blocks that the region served before it had heard.
    pub(super) fn early(&self) -> u64 {
        self.early.load(Ordering::Relaxed)
    }

    /// Where deleted blocks were served though they may not be, the first ones.
    pub(super) fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads all of it once at one gateway. `lost`: of the region that was cut off; until it has
    /// heard, only who asks for the deletes must see them.
    pub(super) async fn look(&self, site: &Site, lost: bool, gone: &[Gone], material: Material) {
        let known = !lost || self.known.load(Ordering::Acquire);
        for of in gone {
            for chain in &of.chains {
                for (after, must) in [(&of.after[..], true), (&[], known)] {
                    let asked = (&of.namespace, after);
                    let read = read_after(&site.gateway, asked, material, *chain, false).await;
                    if let Ok(read) = read {
                        self.note(&read, must, || {
                            let (name, region) = (&of.namespace.name, &site.region);
                            format!(
                                "{} blocks of chain {chain} of {name} by {region}",
                                read.blocks
                            )
                        });
                    }
                }
            }
        }
    }

    fn note(&self, read: &Read, must: bool, told: impl FnOnce() -> String) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        if read.blocks == 0 {
            return;
        }
        if !must {
            let blocks = u64::from(read.blocks);
            self.early.fetch_add(blocks, Ordering::Relaxed);
            return;
        }
        let seen = self.seen.lock();
        let mut seen = seen.unwrap_or_else(PoisonError::into_inner);
        if seen.len() < TOLD {
            seen.push(told());
        }
    }
}
