//! `meshctl bench`: load on a mesh, and the same load on peers in turn.

pub mod bare;
pub mod load;
pub mod memcached;
pub mod mesh;
pub mod redis;
pub mod report;
pub mod target;
pub mod work;

use std::{sync::Arc, time::Duration};

use kvmesh_directory::limits::BLOCK_BYTES_MAX;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    load::Load,
    report::{Outcome, Report},
    target::{Peer, Target},
    work::Work,
};
use crate::{
    args::{BenchArgs, Global, Work as Kind},
    dev::mesh::{Mesh, Settings},
    exit,
    output::emit,
    progress,
    sizes::human,
};

/// Memory of a region of its own, at least.
const MEMORY_BYTES: u64 = 1 << 30;

/// Measures, prints the report, and says whether the bounds were kept.
///
/// # Errors
/// When a call failed, a bound was not kept, or something is not set up.
pub async fn run(global: &Global, args: BenchArgs) -> anyhow::Result<()> {
    check(&args)?;
    let report = match (&global.node, global.gateway.first()) {
        (None, None) => on_a_mesh_of_its_own(global, &args).await?,
        (node, Some(gateway)) => {
            let ends = Ends {
                gateway: gateway.clone(),
                node: node.clone(),
                direct: node.is_some(),
            };
            measure(global, &args, &ends).await?
        }
        (Some(_), None) => {
            let why = "--node is read from: name the --gateway through which blocks are put";
            return Err(exit::set_up(why.to_owned()));
        }
    };
    emit(global.output, &report, || report.table())?;
    keep_bounds(&args, &report)
}

fn check(args: &BenchArgs) -> anyhow::Result<()> {
    if !(1..=BLOCK_BYTES_MAX).contains(&args.bytes.0) {
        let most = human(BLOCK_BYTES_MAX);
        return Err(exit::set_up(format!("--bytes: 1 B to {most} are possible")));
    }
    let from_node = args.direct || args.against.contains(&Peer::Node);
    if from_node && (args.work == Kind::Put || args.puts > 0) {
        let why = "puts go through a gateway: leave --direct and --against node out";
        return Err(exit::set_up(why.to_owned()));
    }
    let no_lookup = |peer: &&Peer| matches!(peer, Peer::Tcp | Peer::Memcached(_));
    match args.against.iter().find(no_lookup) {
        Some(peer) if args.work == Kind::Lookup => {
            let why = format!("{peer} has no lookup: compare with redis");
            Err(exit::set_up(why))
        }
        _ => Ok(()),
    }
}

/// Whom our client asks.
struct Ends {
    gateway: String,
    node: Option<String>,
    /// The node is read from.
    direct: bool,
}

async fn on_a_mesh_of_its_own(global: &Global, args: &BenchArgs) -> anyhow::Result<Report> {
    let nodes = u64::from(args.nodes);
    let mesh = Mesh::start(Settings {
        regions: 1,
        nodes: usize::from(args.nodes),
        link_scale: 0.0,
        memory_bytes: nodes * MEMORY_BYTES.max(2 * args.working_set.0),
        data_dir: None,
        first_port: 0,
    })
    .await
    .map_err(|error| exit::set_up(format!("the region cannot be set up: {error:#}")))?;
    let region = &mesh.regions()[0];
    let ends = Ends {
        gateway: region.gateway.clone(),
        node: Some(region.nodes[0].address.clone()),
        direct: args.direct,
    };
    let measured = measure(global, args, &ends).await;
    mesh.stop().await;
    measured
}

async fn measure(global: &Global, args: &BenchArgs, ends: &Ends) -> anyhow::Result<Report> {
    let work = Arc::new(Work::new(args)?);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mesh = |node: Option<&String>| {
        Target::Mesh(mesh::Target {
            node: node.cloned(),
            gateway: ends.gateway.clone(),
            tls: global.tls.clone(),
            ack: args.ack.into(),
            nonce: work.nonce,
        })
    };
    let (ours, node) = match ends.direct {
        true => ("node", ends.node.as_ref()),
        false => ("gateway", None),
    };
    let mut targets = vec![(ours.to_owned(), mesh(node))];
    for peer in &args.against {
        let target = match peer {
            Peer::Tcp => Target::Bare(bare::Target::listen(&work, &tasks, stop.clone()).await?),
            Peer::Redis(address) => Target::Redis(redis::Target(address.clone())),
            Peer::Memcached(address) => Target::Memcached(memcached::Target(address.clone())),
            Peer::Node => match &ends.node {
                Some(node) => mesh(Some(node)),
                None => return Err(exit::set_up("--against node: name it by --node".to_owned())),
            },
        };
        targets.push((peer.to_string(), target));
    }
    let measured = rounds(args, &work, targets).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    measured
}

/// One after the other, round after round: what disturbs one disturbs the others as well.
async fn rounds(
    args: &BenchArgs,
    work: &Arc<Work>,
    targets: Vec<(String, Target)>,
) -> anyhow::Result<Report> {
    let bar = progress::count(u64::from(args.rounds) * targets.len() as u64, "rounds");
    let mut loads = Vec::new();
    for (name, target) in targets {
        let mut load = Load::prepare(&target, work, args.connections, args.rate).await?;
        load.round(Duration::from_secs_f64(args.warm_up)).await?;
        loads.push((name, load, Vec::new()));
    }
    for _ in 0..args.rounds {
        for (_, load, rounds) in &mut loads {
            rounds.push(load.round(Duration::from_secs_f64(args.seconds)).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let outcomes = loads
        .into_iter()
        .map(|(name, _, rounds)| Outcome::new(name, args.work, &rounds))
        .collect::<anyhow::Result<_>>()?;
    Ok(Report::new(args, outcomes))
}

fn keep_bounds(args: &BenchArgs, report: &Report) -> anyhow::Result<()> {
    for result in &report.results {
        if let (Some(least), Some(got)) = (args.min_ratio, result.ours_is) {
            let name = &result.name;
            anyhow::ensure!(got >= least, "ours is {got:.2} of {name}, under {least}");
        }
    }
    let p50_us = report.results.first().map(|ours| ours.latency_ms.p50 * 1e3);
    if let (Some(most), Some(got)) = (args.p50_max_us, p50_us) {
        anyhow::ensure!(
            got <= most,
            "half of our calls take {got:.0} us, over {most:.0}"
        );
    }
    Ok(())
}
