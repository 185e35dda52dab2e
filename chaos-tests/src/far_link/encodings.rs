//! What encodings save on a link: the same gets of bytes that do not shrink, of numbers that
//! travel without loss, and of numbers that may be rounded, by turns. Bytes are counted where
//! packets cross, and every byte that comes is verified.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kvmesh_client::{
    Block,
    client::{
        ChainQuery, Fetched, GetOptions, GetOutcome, Opened, PutBlock, PutOptions, PutResult,
    },
};
use kvmesh_directory::{Description, Part, namespace::AckLevel};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    BLOCK_BYTES, BOUND, CALL_BOUND, CHAIN_BLOCKS, GETS, REGIONS, Sites, hash, names,
    numbers::{self, Numbers},
};
use crate::{mesh::LOSSY, poll};

/// Rounds over all kinds of blocks.
const ROUNDS: u64 = 2;
/// Bytes of all blocks together: a namespace may have half of a node's memory.
const BYTES_MAX: u64 = 1 << 30;
/// The link is watched for so long while nobody gets anything.
const IDLE: Duration = Duration::from_secs(3);

/// What is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Random bytes of a dtype that is not encoded.
    Plain,
    Lossless,
    Rounded,
}

const KINDS: [Kind; 3] = [Kind::Plain, Kind::Lossless, Kind::Rounded];

/// What all gets of one kind came to.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    took: Duration,
    blocks: u64,
    /// Bytes over TCP to the region that gets, and from it.
    crossed: u64,
    back: u64,
}

struct Measure<'a> {
    sites: &'a Sites<'a>,
    numbers: Numbers,
    /// By kind: where blocks are put, and where they are got.
    opened: BTreeMap<Kind, [Opened; 2]>,
    bound: Duration,
}

/// Measures with so many chains of each kind in each round, over a link of `mbit`.
pub(super) async fn measure(sites: &Sites<'_>, chains: u64, mbit: u64) -> Result<Value> {
    let each = u64::from(CHAIN_BLOCKS) * BLOCK_BYTES as u64;
    let bytes = ROUNDS * chains * each;
    ensure!(
        bytes * KINDS.len() as u64 <= BYTES_MAX,
        "{chains} chains of each kind are more than a node keeps: take fewer"
    );
    let mut opened = BTreeMap::new();
    for kind in KINDS {
        let (description, template) = (kind.description(), kind.template());
        let [near, far] = [0, 1].map(|region| sites.open(region, &description, template));
        opened.insert(kind, [near.await?, far.await?]);
    }
    let measure = Measure {
        sites,
        numbers: Numbers::gaussian(BLOCK_BYTES),
        opened,
        // Of gets that share the link.
        bound: CALL_BOUND + Duration::from_secs(GETS as u64 * each * 8 / 1_000_000 / mbit.max(1)),
    };
    measure.all(chains).await
}

impl Measure<'_> {
    async fn all(&self, chains: u64) -> Result<Value> {
        let mut sums: BTreeMap<Kind, Sum> = BTreeMap::new();
        let mut idle = 0;
        for round in 0..ROUNDS {
            for kind in KINDS {
                let chains: Vec<u64> = (round * chains..(round + 1) * chains).collect();
                self.bring(kind, &chains).await?;
                idle = self.idle().await;
                let sum = self.get_all(kind, &chains).await?;
                sums.entry(kind).or_default().add(sum);
            }
        }
        let sum = |kind| sums.get(&kind).copied().unwrap_or_default();
        let [plain, lossless, rounded] = KINDS.map(sum);
        let faster = |than: Sum| plain.took.as_secs_f64() / than.took.as_secs_f64();
        Ok(json!({
            "plain": plain.told(),
            "lossless": lossless.told(),
            "rounded": rounded.told(),
            "idle_bytes_a_second": idle as f64 / IDLE.as_secs_f64(),
            "plain_bytes": plain.share(),
            "encoded_bytes": lossless.share(),
            "lossy_bytes": rounded.share(),
            "faster": faster(lossless),
            "lossy_faster": faster(rounded),
        }))
    }

    /// Puts chains, and waits until the other region has heard of them.
    async fn bring(&self, kind: Kind, chains: &[u64]) -> Result<()> {
        let [near, far] = &self.opened[&kind];
        for chain in chains {
            let options = PutOptions {
                // A region of one node.
                ack: Some(AckLevel::Memory),
                ..PutOptions::default()
            };
            for result in near.put(&self.to_put(kind, *chain), options).await? {
                ensure!(matches!(result, PutResult::Acked(_)), "{result:?}");
            }
        }
        for chain in chains {
            let query = ChainQuery::from(names(*chain, CHAIN_BLOCKS)?);
            poll::until("hearing of blocks elsewhere", BOUND, async || {
                let answer = far.lookup(std::slice::from_ref(&query), CALL_BOUND).await?;
                let heard = answer.matches.first().map_or(0, |it| it.mesh_blocks);
                ensure!(heard == CHAIN_BLOCKS, "{heard} of {CHAIN_BLOCKS}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Bytes that cross while nobody gets anything: what is counted besides.
    async fn idle(&self) -> u64 {
        let before = self.sites.wan.crossed(0);
        sleep(IDLE).await;
        self.sites.wan.crossed(0).since(before).payload
    }

    async fn get_all(&self, kind: Kind, chains: &[u64]) -> Result<Sum> {
        let wan = self.sites.wan;
        let before = [0, 1].map(|from| wan.crossed(from));
        let begun = Instant::now();
        let got: Vec<(u64, Fetched)> = stream::iter(chains)
            .map(|chain| self.get(kind, *chain))
            .buffer_unordered(GETS)
            .try_collect()
            .await?;
        let took = begun.elapsed();
        let [crossed, back] = [0, 1].map(|from| wan.crossed(from).since(before[from]).payload);
        for (chain, fetched) in &got {
            let checked = self.check(kind, *chain, fetched);
            checked.with_context(|| format!("chain {chain} of {kind:?}"))?;
        }
        Ok(Sum {
            took,
            blocks: (chains.len() as u64) * u64::from(CHAIN_BLOCKS) * BLOCK_BYTES as u64,
            crossed,
            back,
        })
    }

    async fn get(&self, kind: Kind, chain: u64) -> Result<(u64, Fetched)> {
        let options = GetOptions {
            deadline: Some(self.bound),
            ..GetOptions::default()
        };
        let names = names(chain, CHAIN_BLOCKS)?;
        let [_, far] = &self.opened[&kind];
        Ok((chain, far.get(&names, options).await?))
    }

    fn check(&self, kind: Kind, chain: u64, got: &Fetched) -> Result<()> {
        ensure!(
            got.summary.outcome == GetOutcome::Complete
                && got.blocks.len() == CHAIN_BLOCKS as usize,
            "{:?}",
            got.summary
        );
        for block in &got.blocks {
            ensure!(
                block.region.to_string() == REGIONS[0].0,
                "a block was there already"
            );
            let put = self.bytes(kind, hash(chain, block.index));
            match kind {
                Kind::Plain | Kind::Lossless => numbers::check_exact(&put, block)?,
                Kind::Rounded => numbers::check_rounded(&put, block)?,
            }
        }
        Ok(())
    }

    fn to_put(&self, kind: Kind, chain: u64) -> Vec<PutBlock> {
        let block = |index| {
            let hash = hash(chain, index);
            PutBlock {
                hash: Bytes::copy_from_slice(&hash),
                part: Part::default(),
                block: Block::of(&self.bytes(kind, hash), index),
            }
        };
        (0..CHAIN_BLOCKS).map(block).collect()
    }

    fn bytes(&self, kind: Kind, hash: [u8; 32]) -> Bytes {
        if kind != Kind::Plain {
            return self.numbers.block(hash);
        }
        let mut bytes = vec![0; BLOCK_BYTES];
        SmallRng::from_seed(hash).fill_bytes(&mut bytes);
        bytes.into()
    }
}

impl Kind {
    fn description(self) -> Description {
        let plain = super::description();
        match self {
            Self::Plain => plain,
            Self::Lossless | Self::Rounded => Description {
                model: format!("far-link-{self:?}"),
                dtype: "bf16".to_owned(),
                ..plain
            },
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Plain | Self::Lossless => "always",
            Self::Rounded => LOSSY,
        }
    }
}

impl Sum {
    fn add(&mut self, more: Self) {
        self.took += more.took;
        self.blocks += more.blocks;
        self.crossed += more.crossed;
        self.back += more.back;
    }

    /// What crossed of each byte of the blocks, with all else that did meanwhile.
    fn share(&self) -> f64 {
        self.crossed as f64 / self.blocks as f64
    }

    fn told(&self) -> Value {
        json!({
            "seconds": self.took.as_secs_f64(),
            "bytes_of_blocks": self.blocks,
            "bytes_crossed": self.crossed,
            "bytes_back": self.back,
            "mbit": super::mbit(self.blocks as usize, self.took),
        })
    }
}
