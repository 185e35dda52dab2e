//! A gateway or a node, through the engines' client.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use kvmesh_client::{
    Block,
    client::{ChainQuery, Client, GetOptions, GetOutcome, Opened, PutBlock, PutOptions, PutResult},
    tls::Role,
};
use kvmesh_directory::{Description, Part, namespace::AckLevel};

use super::work::{Run, Work};
use crate::args::TlsArgs;

const CALL_MAX: Duration = Duration::from_secs(30);

/// Whom to ask, and as whom.
#[derive(Clone)]
pub struct Target {
    /// A node that is read from, `host:port`; none: the gateway.
    pub node: Option<String>,
    /// What is put goes through it, `host:port`.
    pub gateway: String,
    /// Who asks.
    pub tls: TlsArgs,
    /// When a put is acknowledged.
    pub ack: AckLevel,
    /// Makes the namespace this benchmark's own.
    pub nonce: u64,
}

/// One connection.
pub struct Connection {
    read: Opened,
    write: Opened,
    ack: AckLevel,
}

impl Target {
    /// Connects, and opens the namespace.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let write = self.open(Role::Gateway, &self.gateway).await?;
        let read = match &self.node {
            Some(node) => self.open(Role::Node, node).await?,
            None => write.clone(),
        };
        Ok(Connection {
            read,
            write,
            ack: self.ack,
        })
    }

    /// Over channels, and so connections, of its own.
    async fn open(&self, role: Role, address: &str) -> anyhow::Result<Opened> {
        let channels = self.tls.channels(Some(role))?;
        let client = Client::connect(vec![address.to_owned()], channels)?;
        let name = format!("bench-{:016x}", self.nonce);
        let description = description(self.nonce);
        Ok(client.open(&description, &name, "", CALL_MAX).await?)
    }
}

impl Connection {
    pub(super) async fn get(&self, run: &Run) -> anyhow::Result<u64> {
        let got = self.read.get(&run.chain, GetOptions::default()).await?;
        let outcome = got.summary.outcome;
        let whole = outcome == GetOutcome::Complete && got.blocks.len() == run.blocks.len();
        ensure!(
            whole,
            "a get ended {outcome:?}: is the memory large enough for --working-set?"
        );
        Ok(got.blocks.iter().map(|it| it.block.meta.bytes).sum())
    }

    pub(super) async fn put(&self, work: &Work, number: u64) -> anyhow::Result<u64> {
        let block = |(depth, (hash, bytes)): (usize, (Bytes, Bytes))| PutBlock {
            hash,
            part: Part::default(),
            block: Block::of(&bytes, depth as u32),
        };
        let blocks = work.to_put(number).into_iter().enumerate().map(block);
        let blocks: Vec<PutBlock> = blocks.collect();
        self.put_all(&blocks, self.ack).await
    }

    async fn put_all(&self, blocks: &[PutBlock], ack: AckLevel) -> anyhow::Result<u64> {
        let options = PutOptions {
            ack: Some(ack),
            deadline: None,
        };
        for result in self.write.put(blocks, options).await? {
            ensure!(
                matches!(result, PutResult::Acked(_)),
                "not stored: {result:?}"
            );
        }
        Ok(blocks.iter().map(|it| it.block.meta.bytes).sum())
    }

    pub(super) async fn lookup(&self, run: &Run) -> anyhow::Result<u64> {
        let query = ChainQuery::from(run.chain.clone());
        let found = self.read.lookup(&[query], CALL_MAX).await?;
        let here = found.matches.first().map_or(0, |it| it.local_blocks);
        ensure!(
            here == run.chain.len(),
            "a lookup found {here} of {}",
            run.chain.len()
        );
        Ok(u64::from(here))
    }

    pub(super) async fn store(&self, run: &Run) -> anyhow::Result<()> {
        self.put_all(&run.blocks, AckLevel::Memory).await.map(drop)
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
