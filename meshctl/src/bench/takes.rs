//! What a node's process takes for what it does: processor time for each GB with more threads,
//! and memory for the bytes that it holds.

use std::{sync::Arc, time::Duration};

use kvmesh_client::client::Path;
use serde::Serialize;

use super::{child::Child, load::Load, mesh, target::Target, work::Work};
use crate::{
    args::{BenchArgs, TlsArgs, Work as Kind},
    output, progress,
    sizes::human,
};

/// Threads that are compared.
const WORKERS: [u32; 2] = [1, 2];
/// A node holds its own blocks twice over, and what is put meanwhile.
const MEMORY_BYTES: u64 = 1 << 30;
/// Of a full budget, so much more is put: it is full for sure, and stays so.
const OVERFILL: f64 = 1.25;
/// Between two looks at how far it is.
const FILL_ROUND: Duration = Duration::from_millis(500);
const HELD: &str = "kvmesh_node_memory_bytes";
const EVICTED: &str = "kvmesh_node_evictions_total";

/// What servers took with some number of threads.
#[derive(Debug, Serialize)]
pub struct Took {
    /// Threads for tasks.
    pub workers: u32,
    /// Of the median round.
    pub gb_per_s: f64,
    /// Processor seconds of gateway, node and region-sync for each GB, of the median round.
    pub cpu_s_per_gb: f64,
}

/// How that grows with threads.
#[derive(Debug, Serialize)]
pub struct Scale {
    /// `get` or `put`.
    pub work: &'static str,
    /// Of a block.
    pub bytes: u64,
    /// Connections.
    pub connections: u32,
    /// With one thread first.
    pub took: Vec<Took>,
    /// Processor time for a GB with two threads over that with one; median over rounds.
    pub ratio: f64,
}

/// What a full node takes.
#[derive(Debug, Serialize)]
pub struct Full {
    /// `memory_bytes`.
    pub budget_bytes: u64,
    /// Of a block.
    pub bytes: u64,
    /// Bytes that were put.
    pub put_bytes: u64,
    /// Bytes of the blocks that it holds.
    pub held_bytes: u64,
    /// Resident bytes of the process, gateway and region-sync included.
    pub resident_bytes: u64,
    /// Resident over held.
    pub ratio: f64,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn load(args: &BenchArgs, work: &Arc<Work>, child: &Child) -> anyhow::Result<Load> {
    let target = Target::Mesh(mesh::Target {
        path: match args.through_gateway {
            true => Path::Gateway,
            false => Path::Node,
        },
        gateway: child.gateway.clone(),
        tls: TlsArgs::default(),
        ack: args.ack.into(),
        nonce: work.nonce,
        local: None,
    });
    Load::prepare(&target, work, args.connections, args.rate).await
}

/// Does the work with one thread and with two in turn, round after round.
pub(super) async fn scale(args: &BenchArgs) -> anyhow::Result<Scale> {
    let work = Arc::new(Work::new(args)?);
    let memory = MEMORY_BYTES.max(3 * args.working_set.0);
    let mut children = Vec::new();
    for workers in WORKERS {
        let child = Child::start(memory, Some(workers)).await?;
        let mut load = load(args, &work, &child).await?;
        load.round(Duration::from_secs_f64(args.warm_up)).await?;
        children.push((child, load, Vec::new()));
    }
    let bar = progress::count(u64::from(args.rounds) * WORKERS.len() as u64, "rounds");
    for _ in 0..args.rounds {
        for (child, load, rounds) in &mut children {
            let before = child.cpu_s()?;
            let round = load.round(Duration::from_secs_f64(args.seconds)).await?;
            let (took, gb) = (child.cpu_s()? - before, round.amount as f64 / 1e9);
            rounds.push((gb / round.took.as_secs_f64(), took / gb));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let per_gb = |at: usize| children[at].2.iter().map(|(_, per_gb)| *per_gb);
    let ratio = median(per_gb(1).zip(per_gb(0)).map(|(two, one)| two / one));
    let took = WORKERS.iter().zip(&children).map(|(workers, it)| Took {
        workers: *workers,
        gb_per_s: median(it.2.iter().map(|(rate, _)| *rate)),
        cpu_s_per_gb: median(it.2.iter().map(|(_, per_gb)| *per_gb)),
    });
    Ok(Scale {
        work: match args.work {
            Kind::Put => "put",
            _ => "get",
        },
        bytes: args.bytes.0,
        connections: args.connections,
        took: took.collect(),
        ratio,
    })
}

/// Puts until a node of this budget is full and has evicted a while.
pub(super) async fn fill(args: &BenchArgs, budget: u64) -> anyhow::Result<Full> {
    let putting = BenchArgs {
        work: Kind::Put,
        ..args.clone()
    };
    let work = Arc::new(Work::new(&putting)?);
    let child = Child::start(budget, None).await?;
    let mut load = load(args, &work, &child).await?;
    let (enough, mut put) = ((budget as f64 * OVERFILL) as u64, 0);
    let bar = progress::count(enough, "bytes put");
    while put < enough {
        put += load.round(FILL_ROUND).await?.amount;
        bar.set_position(put.min(enough));
    }
    bar.finish_and_clear();
    let evicted = child.metric(EVICTED, "").await?;
    anyhow::ensure!(evicted > 0.0, "nothing was evicted: the node is not full");
    let resident_bytes = child.resident_bytes()?;
    let held_bytes = child.metric(HELD, "kind=\"used\"").await? as u64;
    anyhow::ensure!(
        held_bytes * 10 > budget * 9,
        "{} of {} are held: the node is not full",
        human(held_bytes),
        human(budget)
    );
    Ok(Full {
        budget_bytes: budget,
        bytes: args.bytes.0,
        put_bytes: put,
        held_bytes,
        resident_bytes,
        ratio: resident_bytes as f64 / held_bytes as f64,
    })
}

impl Scale {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = output::table(&["threads", "GB/s", "CPU s/GB"], &[0, 1, 2]);
        for took in &self.took {
            table.add_row(vec![
                took.workers.to_string(),
                format!("{:.2}", took.gb_per_s),
                format!("{:.3}", took.cpu_s_per_gb),
            ]);
        }
        let (work, size, ratio) = (self.work, human(self.bytes), self.ratio);
        let connections = self.connections;
        format!(
            "{work}: {size} a call, {connections} connections; \
             with two threads a GB takes {ratio:.2} of the processor time with one\n{table}"
        )
    }
}

impl Full {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let [budget, held, resident] =
            [self.budget_bytes, self.held_bytes, self.resident_bytes].map(human);
        let (size, ratio) = (human(self.bytes), self.ratio);
        format!(
            "budget {budget}, blocks of {size}: {held} held, {resident} resident, {ratio:.3} of it"
        )
    }
}
