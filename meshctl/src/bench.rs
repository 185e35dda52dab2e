//! `meshctl bench`: load on a mesh, and the same load on peers in turn.

pub mod bare;
mod child;
pub mod etcd;
pub mod load;
pub mod memcached;
pub mod mesh;
pub mod redis;
pub mod report;
pub mod takes;
pub mod target;
pub mod work;

use std::{path::Path as FsPath, sync::Arc, time::Duration};

use anyhow::Context;
use kvmesh_client::{client::Path, tls::Role};
use kvmesh_directory::limits::BLOCK_BYTES_MAX;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    load::Load,
    report::{Outcome, Report},
    target::{Peer, Target},
    work::Work,
};
use crate::{
    args::{BenchArgs, Global, TlsArgs, Work as Kind},
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
    check(global, &args)?;
    if args.scale_up {
        let scale = takes::scale(&args).await?;
        emit(global.output, &scale, || scale.table())?;
        return at_most("two threads take", scale.ratio, args.cpu_ratio_max);
    }
    if let Some(budget) = args.fill {
        let full = takes::fill(&args, budget.0).await?;
        emit(global.output, &full, || full.table())?;
        return at_most(
            "resident of what is held is",
            full.ratio,
            args.resident_ratio_max,
        );
    }
    let report = match (&global.node, global.gateway.first()) {
        (None, None) => on_a_mesh_of_its_own(global, &args).await?,
        (None, Some(gateway)) => {
            let ours = Ours {
                gateway,
                local: args.local.as_ref().and_then(Option::as_deref),
                tls: global.tls.clone(),
                ends: None,
            };
            measure(&args, ours).await?
        }
        (Some(_), _) => {
            let why = "clients find the nodes by themselves: name a --gateway instead of --node";
            return Err(exit::set_up(why.to_owned()));
        }
    };
    emit(global.output, &report, || report.table())?;
    keep_bounds(&args, &report)
}

/// Where ours is, and who asks it.
struct Ours<'a> {
    gateway: &'a str,
    local: Option<&'a FsPath>,
    tls: TlsArgs,
    /// Of a bare copy over TLS.
    ends: Option<bare::Ends>,
}

fn at_most(what: &str, got: f64, most: Option<f64>) -> anyhow::Result<()> {
    match most {
        Some(most) if got > most => anyhow::bail!("{what} {got:.3}, over {most}"),
        _ => Ok(()),
    }
}

fn check_own(global: &Global, args: &BenchArgs) -> anyhow::Result<()> {
    let own = args.tls || args.scale_up || args.fill.is_some();
    if own && !global.gateway.is_empty() {
        let why = "--tls, --scale-up and --fill are about a region of its own: leave --gateway out";
        return Err(exit::set_up(why.to_owned()));
    }
    if args.scale_up && args.work == Kind::Lookup {
        let why = "--scale-up counts processor time for bytes: take --work get or put";
        return Err(exit::set_up(why.to_owned()));
    }
    if args.against.contains(&Peer::Tls) && !args.tls {
        let why = "--against tls is what --tls compares with: add it";
        return Err(exit::set_up(why.to_owned()));
    }
    let etcd = args.against.iter().find(|it| matches!(it, Peer::Etcd(_)));
    match etcd {
        Some(peer) if args.bytes.0 > etcd::VALUE_BYTES_MAX && args.work != Kind::Lookup => {
            let (most, size) = (etcd::VALUE_BYTES_MAX, human(args.bytes.0));
            let why =
                format!("{peer} takes values of {most} bytes at most, not {size}: lower --bytes");
            Err(exit::set_up(why))
        }
        _ => Ok(()),
    }
}

fn check(global: &Global, args: &BenchArgs) -> anyhow::Result<()> {
    check_own(global, args)?;
    if !(1..=BLOCK_BYTES_MAX).contains(&args.bytes.0) {
        let most = human(BLOCK_BYTES_MAX);
        return Err(exit::set_up(format!("--bytes: 1 B to {most} are possible")));
    }
    let twice = args.through_gateway && args.against.contains(&Peer::Gateway);
    if twice {
        let why = "--through-gateway is what --against gateway compares with: leave one out";
        return Err(exit::set_up(why.to_owned()));
    }
    let moves = args.work != Kind::Lookup && !args.through_gateway;
    if args.local.is_some() && !moves {
        let why = "--local is for gets and puts: lookups, and what goes through the gateway, \
                   go over gRPC";
        return Err(exit::set_up(why.to_owned()));
    }
    if args.gateway_maps && !global.gateway.is_empty() {
        let why = "--gateway-maps is for the region of its own: set local_sockets where the \
                   --gateway runs";
        return Err(exit::set_up(why.to_owned()));
    }
    if args.local == Some(None) && !global.gateway.is_empty() {
        let why = "--local: name the socket of the --gateway's node on this host";
        return Err(exit::set_up(why.to_owned()));
    }
    let no_lookup = |peer: &&Peer| {
        matches!(
            peer,
            Peer::Tcp | Peer::Tls | Peer::Gateway | Peer::Nodes | Peer::Memcached(_)
        )
    };
    match args.against.iter().find(no_lookup) {
        Some(peer) if args.work == Kind::Lookup => {
            let why = format!("{peer} has no lookup of its own: compare with redis or etcd");
            Err(exit::set_up(why))
        }
        _ => Ok(()),
    }
}

async fn on_a_mesh_of_its_own(global: &Global, args: &BenchArgs) -> anyhow::Result<Report> {
    let nodes = u64::from(args.nodes);
    let settings = Settings {
        regions: 1,
        nodes: usize::from(args.nodes),
        link_scale: 0.0,
        // Half of it can be mapped.
        memory_bytes: nodes * MEMORY_BYTES.max(3 * args.working_set.0),
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: args.gateway_maps,
    };
    let mesh = match args.tls {
        true => Mesh::start_secured(settings).await,
        false => Mesh::start(settings).await,
    };
    let mesh =
        mesh.map_err(|error| exit::set_up(format!("the region cannot be set up: {error:#}")))?;
    let measured = match ours(global, args, &mesh) {
        Ok(ours) => measure(args, ours).await,
        Err(error) => Err(error),
    };
    mesh.stop().await;
    measured
}

fn ours<'a>(global: &Global, args: &BenchArgs, mesh: &'a Mesh) -> anyhow::Result<Ours<'a>> {
    let region = &mesh.regions()[0];
    let (tls, ends) = match mesh.secured() {
        None => (global.tls.clone(), None),
        Some(secured) => {
            let client = secured.client(&region.id)?;
            let server = secured
                .of(&region.id, Role::Node, "1")
                .context("a node's certificate")?;
            let ends = bare::Ends {
                server,
                client: client.credentials()?.context("a client's certificate")?,
            };
            (client, Some(ends))
        }
    };
    Ok(Ours {
        gateway: &region.gateway,
        local: args.local.as_ref().map(|_| region.local.as_path()),
        tls,
        ends,
    })
}

async fn measure(args: &BenchArgs, ours: Ours<'_>) -> anyhow::Result<Report> {
    let work = Arc::new(Work::new(args)?);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mesh = |path: Path| {
        Target::Mesh(mesh::Target {
            path,
            gateway: ours.gateway.to_owned(),
            tls: ours.tls.clone(),
            ack: args.ack.into(),
            nonce: work.nonce,
            local: ours.local.map(FsPath::to_owned),
        })
    };
    let mut ends = ours.ends;
    let (name, path) = match (args.through_gateway, args.work) {
        _ if ours.local.is_some() => ("mapped", Path::Mapped),
        (false, Kind::Get | Kind::Put) => ("nodes", Path::Node),
        (true, _) | (_, Kind::Lookup) => ("gateway", Path::Gateway),
    };
    let mut targets = vec![(name.to_owned(), mesh(path))];
    for peer in &args.against {
        let target = match peer {
            Peer::Tcp => {
                Target::Bare(bare::Target::listen(&work, &tasks, stop.clone(), None).await?)
            }
            Peer::Tls => {
                let ends = ends.take().context("--against tls is for once")?;
                Target::Bare(bare::Target::listen(&work, &tasks, stop.clone(), Some(ends)).await?)
            }
            Peer::Redis(address) => Target::Redis(redis::Target(address.clone())),
            Peer::Memcached(address) => Target::Memcached(memcached::Target(address.clone())),
            Peer::Etcd(address) => Target::Etcd(etcd::Target(address.clone())),
            Peer::Gateway => mesh(Path::Gateway),
            Peer::Nodes => mesh(Path::Node),
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
        .map(|(name, load, rounds)| Outcome::new(name, args.work, load.ways(), &rounds))
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
