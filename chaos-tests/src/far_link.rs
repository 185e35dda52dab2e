//! Two regions of real processes with a link of delay, rate and loss between them: how long a
//! block takes to come over it, and how fast many do, beside a plain copy over TCP; what encodings
//! save on it; or who has the right of way on it.

mod classes;
mod encodings;
mod gets;
mod numbers;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kvmesh_client::{
    Block, Client,
    client::{Chain, Opened, PutBlock},
};
use kvmesh_directory::{Description, Part};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    blocks,
    mesh::{Mesh, Spot},
    pki::Pki,
    poll,
    wan::{Wan, copy, shape::Shape},
};

pub use crate::wan::copy::{from as copy_from, to as copy_to};

const REGIONS: [(&str, u64); 2] = [("us-east", 1), ("eu-west", 1)];
const BLOCK_BYTES: usize = 2 << 20;
/// Blocks of a chain of the bulk.
const CHAIN_BLOCKS: u32 = 16;
/// Gets of the bulk that are under way at once.
const GETS: usize = 4;
const BOUND: Duration = Duration::from_secs(60);
const CALL_BOUND: Duration = Duration::from_secs(30);

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Round trip over the link, milliseconds.
    pub rtt_ms: u64,
    /// Bandwidth of the link, Mbit/s.
    pub mbit: u64,
    /// Part of its packets that are lost, 0 to 1.
    pub loss: f64,
    /// Congestion control of both ends; none: the kernel's usual one.
    pub congestion: Option<String>,
    /// Congestion control that gateways name for connections between regions; none: they name none.
    pub named: Option<String>,
    /// Whether the kernel's buffers are set as the runbook says for such links.
    pub tuned: bool,
    /// Gets of one block each.
    pub singles: u32,
    /// Chains of 16 blocks of 2 MiB that are fetched together.
    pub chains: u32,
    /// Connections of the plain copy.
    pub copies: usize,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Gets of one block, and many together beside a plain copy, of bytes that are not encoded.
    Speed,
    /// Bytes that cross, and times, of the same gets with and without encodings.
    Encodings,
    /// Gets of one block, alone and while blocks are brought that nobody waits for.
    Classes,
}

/// Measures, with settings, logs and stores in this folder.
///
/// # Errors
/// Without root and TUN devices; when the mesh does not start, or a get fails or brings other
/// bytes than it should.
pub async fn run(plan: &Plan, what: What, folder: &Path) -> Result<Value> {
    let shape = Shape {
        delay: Duration::from_millis(plan.rtt_ms) / 2,
        bits: plan.mbit as f64 * 1e6,
        loss: plan.loss,
        queue: Duration::from_millis(50),
    };
    let wan = Wan::up(shape)?;
    if let Some(congestion) = &plan.congestion {
        wan.sysctl(&format!("net.ipv4.tcp_congestion_control={congestion}"))?;
    }
    if plan.tuned {
        wan.sysctl("net.ipv4.tcp_wmem='4096 16384 134217728'")?;
        wan.sysctl("net.ipv4.tcp_rmem='4096 131072 134217728'")?;
        wan.sysctl("net.ipv4.tcp_slow_start_after_idle=0")?;
    }
    let pki = Pki::init(folder.join("pki")).await?;
    for (at, (region, _)) in REGIONS.into_iter().enumerate() {
        pki.issue_region(region, &wan.end(at).address).await?;
    }
    pki.issue("operator", None, "alice", "127.0.0.1").await?;
    let spots = [0, 1].map(|at| Spot {
        network: Some(wan.end(at).name.clone()),
        ip: wan.end(at).address.clone(),
        congestion_control: plan.named.clone().unwrap_or_default(),
        bandwidth_bits: plan.mbit * 1_000_000,
    });
    let operator = pki.channels("operator-alice")?;
    let mesh = Mesh::start_at(folder, &REGIONS, spots.into(), Some(&pki.folder), operator).await?;
    let sites = Sites {
        wan: &wan,
        mesh: &mesh,
        pki: &pki,
    };
    let mut told = match what {
        What::Encodings => encodings::measure(&sites, plan.chains.into(), plan.mbit).await?,
        What::Classes => classes::measure(&sites, plan).await?,
        What::Speed => {
            let description = description();
            let open = |region| sites.open(region, &description, "always");
            let measure = Measure {
                plan,
                wan: &wan,
                near: open(0).await?,
                far: open(1).await?,
            };
            measure.all().await?
        }
    };
    if let Some(named) = &plan.named {
        told["connections"] = congestion(&wan, named)?;
    }
    told["plan"] = format!("{plan:?}").into();
    Ok(told)
}

/// How many connections each gateway has with the other region, by what the kernel says they use.
///
/// # Errors
/// When one has another congestion control than what gateways name.
fn congestion(wan: &Wan, named: &str) -> Result<Value> {
    let used = [wan.congestion(0)?, wan.congestion(1)?];
    for (region, used) in used.iter().enumerate() {
        let right = used.get(named).copied().unwrap_or(0);
        ensure!(
            right > 0 && used.len() == 1,
            "region {region}: {used:?} instead of {named}"
        );
    }
    Ok(json!(used))
}

/// Two regions, and the link between them.
struct Sites<'a> {
    wan: &'a Wan,
    mesh: &'a Mesh,
    pki: &'a Pki,
}

impl Sites<'_> {
    /// Opens a namespace in a region, as a client of it.
    async fn open(
        &self,
        region: usize,
        description: &Description,
        template: &str,
    ) -> Result<Opened> {
        let (name, _) = REGIONS[region];
        let channels = self.pki.channels(&format!("{name}-client-1"))?;
        let gateway = self.mesh.addresses(region).1.to_owned();
        let client = Client::connect(vec![gateway], channels)?;
        poll::until("opening the namespace", BOUND, async || {
            let opened = client.open(description, "", template, CALL_BOUND).await;
            opened.context("it is not open yet")
        })
        .await
    }
}

struct Measure<'a> {
    plan: &'a Plan,
    wan: &'a Wan,
    near: Opened,
    far: Opened,
}

impl Measure<'_> {
    async fn all(&self) -> Result<Value> {
        let (singles, chains) = (u64::from(self.plan.singles), u64::from(self.plan.chains));
        // The first one is for warming up.
        for chain in 0..=singles {
            gets::put(&self.near, chain, 1).await?;
        }
        let bulk = singles + 1..=singles + 2 * chains;
        for chain in bulk.clone() {
            gets::put(&self.near, chain, CHAIN_BLOCKS).await?;
        }
        poll::until("a get from afar", BOUND, async || {
            gets::get(&self.far, 0, 1).await
        })
        .await?;
        let took = gets::one_by_one(&self.far, 1..singles + 1).await?;
        let on_the_link = BLOCK_BYTES as f64 * 8.0 / (self.plan.mbit as f64 * 1e3);
        let allowed = self.plan.rtt_ms as f64 * 1.1 + on_the_link;
        let bulk: Vec<u64> = bulk.collect();
        let mut rates = Vec::new();
        for half in bulk.chunks(chains as usize) {
            rates.push(json!({
                "copy_mbit": self.copy().await?,
                "mesh_mbit": self.bulk(half).await?,
            }));
        }
        let mean = |what: &str| {
            let values = rates.iter().filter_map(|rate| rate[what].as_f64());
            values.sum::<f64>() / rates.len() as f64
        };
        let (copy, mesh) = (mean("copy_mbit"), mean("mesh_mbit"));
        Ok(json!({
            "single_ms": took.told(),
            "single_allowed_ms": allowed,
            "single_of_allowed": took.at(0.5) / allowed,
            "rounds": rates,
            "mesh_of_link": mesh / self.plan.mbit as f64,
            "mesh_of_copy": mesh / copy,
        }))
    }

    /// Mbit/s of many gets together.
    async fn bulk(&self, chains: &[u64]) -> Result<f64> {
        let before = Instant::now();
        let count = chains.len();
        stream::iter(chains)
            .map(|chain| gets::get(&self.far, *chain, CHAIN_BLOCKS))
            .buffer_unordered(GETS)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(mbit(
            count * CHAIN_BLOCKS as usize * BLOCK_BYTES,
            before.elapsed(),
        ))
    }

    /// Mbit/s of a plain copy of as many bytes.
    async fn copy(&self) -> Result<f64> {
        let bytes = self.plan.chains as usize * CHAIN_BLOCKS as usize * BLOCK_BYTES;
        // It warms up with as many; lost packets and other programs take their time as well.
        let least_s = bytes as f64 * 8e-6 / self.plan.mbit as f64;
        let bound = BOUND + Duration::from_secs_f64(6.0 * least_s);
        let took = copy::between(self.wan, self.plan.copies, bytes, bound).await?;
        Ok(mbit(bytes, took))
    }
}

fn mbit(bytes: usize, took: Duration) -> f64 {
    bytes as f64 * 8e-6 / took.as_secs_f64()
}

/// Not of 16-bit numbers: nothing is encoded on the way.
fn description() -> Description {
    Description {
        model: "far-link".to_owned(),
        dtype: "int8".to_owned(),
        ..blocks::description()
    }
}

fn hash(chain: u64, index: u32) -> [u8; 32] {
    let mut hash = [0; 32];
    SmallRng::seed_from_u64(chain << 16 | u64::from(index)).fill_bytes(&mut hash);
    hash
}

fn names(chain: u64, blocks: u32) -> Result<Chain> {
    Ok(Chain::new((0..blocks).map(|index| hash(chain, index)))?)
}

fn to_put(chain: u64, blocks: u32) -> Vec<PutBlock> {
    let block = |index| {
        let hash = hash(chain, index);
        let mut bytes = vec![0; BLOCK_BYTES];
        SmallRng::from_seed(hash).fill_bytes(&mut bytes);
        PutBlock {
            hash: Bytes::copy_from_slice(&hash),
            part: Part::default(),
            block: Block::of(&bytes.into(), index),
        }
    };
    (0..blocks).map(block).collect()
}
