//! A mesh, through the engines' client.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{bail, ensure};
use bytes::Bytes;
use kvmesh_client::{
    Block,
    client::{
        ChainQuery, Client, GetOptions, GetOutcome, Opened, Path, PutBlock, PutOptions, PutResult,
    },
};
use kvmesh_directory::{Description, Part, namespace::AckLevel};

use super::work::{Run, Work};
use crate::{args::TlsArgs, ways::Ways};

const CALL_MAX: Duration = Duration::from_secs(30);

/// Whom to ask, and as whom.
#[derive(Clone)]
pub struct Target {
    /// Which way blocks are to travel.
    pub path: Path,
    /// `host:port`.
    pub gateway: String,
    /// Who asks.
    pub tls: TlsArgs,
    /// When a put is acknowledged.
    pub ack: AckLevel,
    /// Makes the namespace this benchmark's own.
    pub nonce: u64,
    /// Where nodes on this host are, for blocks that are to be mapped.
    pub local: Option<PathBuf>,
}

/// One connection.
pub struct Connection {
    opened: Opened,
    path: Path,
    ack: AckLevel,
    went: Went,
}

/// Blocks that went each way.
#[derive(Debug, Default)]
struct Went {
    mapped: AtomicU64,
    node: AtomicU64,
    gateway: AtomicU64,
}

impl Target {
    /// Connects, over channels, and so connections, of its own, and opens the namespace.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let (gateways, channels) = (vec![self.gateway.clone()], self.tls.channels(None)?);
        let client = match self.path {
            Path::Node => Client::connect(gateways, channels)?,
            Path::Gateway => Client::connect_through(gateways, channels)?,
            Path::Mapped => {
                let place = self.local.clone().unwrap_or_default();
                Client::connect(gateways, channels)?.with_local(place)
            }
        };
        let name = format!("bench-{:016x}", self.nonce);
        let description = description(self.nonce);
        Ok(Connection {
            opened: client.open(&description, &name, "", CALL_MAX).await?,
            path: self.path,
            ack: self.ack,
            went: Went::default(),
        })
    }
}

impl Connection {
    pub(super) async fn get(&self, run: &Run) -> anyhow::Result<u64> {
        let got = self.opened.get(&run.chain, GetOptions::default()).await?;
        let outcome = got.summary.outcome;
        let whole = outcome == GetOutcome::Complete && got.blocks.len() == run.blocks.len();
        ensure!(
            whole,
            "a get ended {outcome:?}: is the memory large enough for --working-set?"
        );
        got.blocks.iter().try_for_each(|it| self.went(it.path))?;
        Ok(got.blocks.iter().map(|it| it.block.meta.bytes).sum())
    }

    /// What is measured is what is said to be: of a hundred blocks one may go another way, as
    /// it does when a node is late; of few blocks some may, since lateness comes in bursts.
    fn went(&self, path: Path) -> anyhow::Result<()> {
        self.went.by(path).fetch_add(1, Ordering::Relaxed);
        let Ways {
            mapped,
            node,
            gateway,
        } = self.ways();
        let all = mapped + node + gateway;
        let strays = all - self.went.by(self.path).load(Ordering::Relaxed);
        ensure!(
            strays * 100 <= all.max(500),
            "{strays} of {all} blocks went by {path:?} instead of {:?}: nodes that are not \
             reached are in the log; --through-gateway leaves them out",
            self.path
        );
        Ok(())
    }

    /// Which ways blocks went.
    pub(super) fn ways(&self) -> Ways {
        let count = |path| self.went.by(path).load(Ordering::Relaxed);
        Ways {
            mapped: count(Path::Mapped),
            node: count(Path::Node),
            gateway: count(Path::Gateway),
        }
    }

    pub(super) async fn put(&self, work: &Work, number: u64) -> anyhow::Result<u64> {
        let block = |(depth, (hash, bytes)): (usize, (Bytes, Bytes))| PutBlock {
            hash,
            part: Part::default(),
            block: Block::of(&bytes, depth as u32),
        };
        let blocks = work.to_put(number).into_iter().enumerate().map(block);
        let blocks: Vec<PutBlock> = blocks.collect();
        let paths = self.put_all(&blocks, self.ack).await?;
        paths.into_iter().try_for_each(|path| self.went(path))?;
        Ok(blocks.iter().map(|it| it.block.meta.bytes).sum())
    }

    /// The way that each went.
    async fn put_all(&self, blocks: &[PutBlock], ack: AckLevel) -> anyhow::Result<Vec<Path>> {
        let options = PutOptions {
            ack: Some(ack),
            deadline: None,
        };
        let results = self.opened.put(blocks, options).await?;
        let paths = results.into_iter().map(|result| match result {
            PutResult::Acked(acked) => Ok(acked.path),
            other => bail!("not stored: {other:?}"),
        });
        paths.collect()
    }

    pub(super) async fn lookup(&self, run: &Run) -> anyhow::Result<u64> {
        let query = ChainQuery::from(run.chain.clone());
        let found = self.opened.lookup(&[query], CALL_MAX).await?;
        let here = found.matches.first().map_or(0, |it| it.local_blocks);
        ensure!(
            here == run.chain.len(),
            "a lookup found {here} of {}",
            run.chain.len()
        );
        Ok(u64::from(here))
    }

    pub(super) async fn store(&self, run: &Run) -> anyhow::Result<()> {
        self.put_all(&run.blocks, AckLevel::Memory).await?;
        // The gateway sees them from now on, and says where they are.
        self.lookup(run).await.map(drop)
    }
}

impl Went {
    fn by(&self, path: Path) -> &AtomicU64 {
        match path {
            Path::Mapped => &self.mapped,
            Path::Node => &self.node,
            Path::Gateway => &self.gateway,
        }
    }
}

fn description(nonce: u64) -> Description {
    Description {
        model: "bench".to_owned(),
        dtype: "bytes".to_owned(),
        layout: "opaque".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: nonce.to_be_bytes().to_vec(),
        residency: Vec::new(),
    }
}
