//! The steps of the tour, and the promises that each one checks.

use std::time::Duration;

use anyhow::Context;
use kvmesh_client::client::{Chain, FetchedBlock, GetOptions, GetOutcome, GetSummary, PutBlock};
use kvmesh_directory::{FeedPosition, Namespace};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    material::{BLOCK_BYTES, BLOCKS, description, made},
    promise::{Broken, promise, promise_that},
};
use crate::{
    dev::mesh::Mesh,
    replay::settle,
    rpc::{Peer, cache::Cache},
    sizes::human,
};

/// A machine that is busy with other things gets so many tries at the far hit, each with a
/// chain of its own: what is promised is the number of round trips.
const FAR_TRIES: usize = 5;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the chain is put, and where it is read, by their place among the regions.
const HOME: usize = 0;
const READER: usize = 1;

/// One row of the tour.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) row: usize,
    pub(super) action: String,
    pub(super) answered_by: String,
    /// Round trip between regions that the action had to take; none: it left no region.
    pub(super) rtt_ms: Option<f64>,
    pub(super) time_ms: f64,
    pub(super) bytes: u64,
    /// None: no block's bytes came.
    pub(super) verified: Option<bool>,
    pub(super) says: String,
}

/// What the steps share.
pub(super) struct Tour<'a> {
    mesh: &'a Mesh,
    home: Peer,
    reader: Peer,
    names: [String; 2],
    /// None: the home has not opened it yet.
    namespace: Option<Namespace>,
    chain: Chain,
    blocks: Vec<PutBlock>,
    /// What the next read must show.
    after: Vec<FeedPosition>,
    /// What it takes this machine, as busy as it is, to move the chain's bytes at home.
    put_took: Duration,
}

/// A verified get.
struct Read {
    summary: GetSummary,
    bytes: u64,
    /// Until the last block was whole.
    took: Duration,
}

impl<'a> Tour<'a> {
    pub(super) fn new(mesh: &'a Mesh) -> anyhow::Result<Self> {
        anyhow::ensure!(
            mesh.regions().len() > READER,
            crate::exit::SetUp("the tour needs two regions: raise --regions".to_owned())
        );
        let (chain, blocks) = made(0)?;
        Ok(Self {
            mesh,
            home: mesh.gateway(HOME, CALL_TIMEOUT)?,
            reader: mesh.gateway(READER, CALL_TIMEOUT)?,
            names: [HOME, READER].map(|at| mesh.regions()[at].id.to_string()),
            namespace: None,
            chain,
            blocks,
            after: Vec::new(),
            put_took: Duration::ZERO,
        })
    }

    /// Takes every step in turn.
    pub(super) async fn take(
        &mut self,
        mut row: impl FnMut(Row) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        row(self.put().await?)?;
        row(self.look_up().await?)?;
        row(self.get_from_afar().await?)?;
        row(self.get_again().await?)?;
        row(self.kill_a_node().await?)?;
        row(self.cut_off_home().await?)?;
        Ok(())
    }

    fn rtt_ms(&self) -> f64 {
        self.mesh.links().rtt(HOME, READER).as_secs_f64() * 1e3
    }

    async fn put(&mut self) -> anyhow::Result<Row> {
        let opened = self.home.open(&description(), "demo", "default").await?;
        let started = Instant::now();
        let acked = opened.put(&self.blocks).await?;
        let took = started.elapsed();
        self.put_took = took;
        let copies = acked.iter().map(|ack| ack.copies).min().unwrap_or(0);
        let wanted = opened.namespace().policy.replicas;
        let wanted = wanted.min(self.mesh.regions()[HOME].nodes.len() as u32);
        let what = "every block is acknowledged once all its copies are made";
        promise_that(what, copies >= wanted, format!("{wanted} copies"), &copies)?;
        self.after = opened.positions();
        self.namespace = Some(opened.namespace().clone());
        Ok(Row {
            row: 1,
            action: format!("put a chain in {}", self.names[0]),
            answered_by: self.names[0].clone(),
            rtt_ms: None,
            time_ms: millis(took),
            bytes: self.bytes(),
            verified: Some(true),
            says: format!(
                "{BLOCKS} blocks of {} went to their owners; each was acknowledged when {copies} \
                 nodes had it.",
                human(BLOCK_BYTES as u64)
            ),
        })
    }

    /// Until the reader's views have heard of the put: a WAN latency, mostly.
    async fn settle(&self) -> anyhow::Result<()> {
        let reader = std::slice::from_ref(&self.reader);
        settle::settle(reader, self.namespace()?, &self.chain, &self.after).await?;
        Ok(())
    }

    async fn look_up(&mut self) -> anyhow::Result<Row> {
        self.settle().await?;
        let started = Instant::now();
        let mut answer = self.reader(&[])?.lookup(&self.chain, 0).await?;
        let took = started.elapsed();
        let found = answer.matches.pop().unwrap_or_default();
        promise("nothing is local yet", 0, found.local_blocks)?;
        promise(
            "the mesh has the whole chain",
            BLOCKS as u32,
            found.mesh_blocks,
        )?;
        let runs = found
            .remote
            .iter()
            .map(|run| (run.region.as_str(), run.blocks, run.fetch_bytes));
        let runs: Vec<_> = runs.collect();
        let want = vec![(self.names[0].as_str(), BLOCKS as u32, self.bytes())];
        promise("the lookup says where it is", want, runs)?;
        let estimate = found.remote[0].estimated_fetch_ms;
        Ok(Row {
            row: 2,
            action: format!("look it up in {}", self.names[1]),
            answered_by: format!("{}, its own view", self.names[1]),
            rtt_ms: None,
            time_ms: millis(took),
            bytes: 0,
            verified: None,
            says: format!(
                "Its gateway knew without asking anybody: {BLOCKS} blocks, {}, are in {}; \
                 fetching them should take {estimate:.0} ms on a 1 Gbit/s link.",
                human(self.bytes()),
                self.names[0],
            ),
        })
    }

    async fn get_from_afar(&mut self) -> anyhow::Result<Row> {
        let rtt = self.rtt_ms();
        let work = (2.0 * millis(self.put_took)).max(100.0);
        let bounds = 0.9 * rtt..=(1.9 * rtt).max(rtt + work);
        let (mut read, mut tries) = (self.get(true).await?, 1);
        while millis(read.took) > *bounds.end() && tries < FAR_TRIES {
            self.renew(tries).await?;
            read = self.get(true).await?;
            tries += 1;
        }
        let tried = match tries {
            1 => String::new(),
            tries => format!(" It took {tries} tries: this machine is busy."),
        };
        self.promise_from("a far hit comes from where the lookup said", HOME, &read)?;
        let took = millis(read.took);
        let what = "a far hit takes about one WAN round trip";
        let want = format!("{:.0} to {:.0} ms", bounds.start(), bounds.end());
        promise_that(what, bounds.contains(&took), want, &took)?;
        promise("what was fetched is kept", 0, read.summary.fill_failures)?;
        self.after = read.summary.fill_position.into_iter().collect();
        Ok(Row {
            row: 3,
            action: format!("get it in {}", self.names[1]),
            answered_by: self.names[0].clone(),
            rtt_ms: Some(rtt),
            time_ms: took,
            bytes: read.bytes,
            verified: Some(true),
            says: match rtt {
                0.0 => "One call to the other region; without link delay it costs nearly nothing."
                    .to_owned(),
                rtt => format!(
                    "One call to the other region, {:.1} round trips long; the blocks are kept here \
                     from now on.{tried}",
                    took / rtt
                ),
            },
        })
    }

    /// Puts another chain, that the reader's region has not fetched yet.
    async fn renew(&mut self, number: usize) -> anyhow::Result<()> {
        (self.chain, self.blocks) = made(number)?;
        let home = self.home.cache(self.namespace()?, &[])?;
        home.put(&self.blocks).await?;
        self.after = home.positions();
        self.settle().await
    }

    async fn get_again(&mut self) -> anyhow::Result<Row> {
        let read = self.get(false).await?;
        self.promise_from("the second get is local", READER, &read)?;
        Ok(self.local_row(
            4,
            "get it again".to_owned(),
            self.names[1].clone(),
            &read,
            "Now its own nodes answered; nothing crossed a region's border.".to_owned(),
        ))
    }

    async fn kill_a_node(&mut self) -> anyhow::Result<Row> {
        let located = self.reader(&[])?.locate(&self.chain).await?;
        let held = |node: u64| {
            let is = |&holder: &usize| located.nodes[holder].node.0 == node;
            let blocks = located.blocks.iter();
            blocks.filter(|block| block.holders.iter().any(is)).count()
        };
        let nodes = &self.mesh.regions()[READER].nodes;
        let victim = (0..nodes.len())
            .max_by_key(|&at| held(nodes[at].node))
            .unwrap_or(0);
        let (node, lost) = (nodes[victim].node, held(nodes[victim].node));
        self.mesh.kill_node(READER, victim).await;
        let read = self.get(false).await?;
        self.promise_from("a replica answers for a lost node", READER, &read)?;
        Ok(self.local_row(
            5,
            format!("kill node {node} there, get it again"),
            format!("{}, replicas", self.names[1]),
            &read,
            format!(
                "Node {node} held copies of {lost} of the {BLOCKS} blocks; the other copies of \
                 these answered at once."
            ),
        ))
    }

    async fn cut_off_home(&mut self) -> anyhow::Result<Row> {
        self.mesh.links().cut(HOME);
        let read = self.get(false).await?;
        self.promise_from(
            "a region that is away takes only its own blocks along",
            READER,
            &read,
        )?;
        Ok(self.local_row(
            6,
            format!("take {} away, get it again", self.names[0]),
            self.names[1].clone(),
            &read,
            format!(
                "The region that made the chain cannot be reached; {} does not need it any more.",
                self.names[1]
            ),
        ))
    }

    fn local_row(&self, row: usize, action: String, by: String, read: &Read, says: String) -> Row {
        Row {
            row,
            action,
            answered_by: by,
            rtt_ms: None,
            time_ms: millis(read.took),
            bytes: read.bytes,
            verified: Some(true),
            says,
        }
    }

    /// Gets the whole chain in the reader's region; every byte is compared with what was put.
    async fn get(&self, await_fill: bool) -> anyhow::Result<Read> {
        let reader = self.reader(&self.after)?;
        let options = GetOptions {
            await_fill,
            ..GetOptions::default()
        };
        let started = Instant::now();
        let (mut bytes, mut took) = (0, Duration::ZERO);
        let on_block = |block: FetchedBlock| {
            took = started.elapsed();
            bytes += block.block.meta.bytes;
            let put = &self.blocks[block.index as usize].block;
            let same = block.block.pieces.concat() == put.pieces.concat();
            Ok(promise("every byte is as it was put", true, same)?)
        };
        let summary = reader.get(&self.chain, options, on_block).await?;
        promise(
            "the get brings the whole chain",
            GetOutcome::Complete,
            summary.outcome,
        )?;
        promise("all bytes come", self.bytes(), bytes)?;
        Ok(Read {
            summary,
            bytes,
            took,
        })
    }

    /// One region alone served a read.
    fn promise_from(&self, what: &str, region: usize, read: &Read) -> Result<(), Broken> {
        let seen = read.summary.sources.iter();
        let seen = seen.map(|source| (source.region.as_str(), source.blocks));
        let want = vec![(self.names[region].as_str(), BLOCKS as u32)];
        promise(what, want, seen.collect())
    }

    fn namespace(&self) -> anyhow::Result<&Namespace> {
        let namespace = self.namespace.as_ref();
        namespace.context("the namespace is opened by the first step")
    }

    /// The reader's gateway; reads show what a view at `after` shows.
    fn reader(&self, after: &[FeedPosition]) -> anyhow::Result<Cache> {
        Ok(self.reader.cache(self.namespace()?, after)?)
    }

    fn bytes(&self) -> u64 {
        (BLOCKS * BLOCK_BYTES) as u64
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
