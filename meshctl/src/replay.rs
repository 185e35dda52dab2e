//! `meshctl replay`: the requests of a block-hash trace through real gateways over gRPC.
//!
//! In settled pace the counts can be foretold, and a replay that sees others has failed.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use kvmesh_client::{
    channel::{Channels, TcpConnect},
    client::Chain,
    tls::Role,
};
use kvmesh_directory::{Description, Namespace, limits::BLOCK_BYTES_MAX};
use kvmesh_process::telemetry;
use tokio::time::Instant;

use self::{
    assign::Assignment,
    bound::Split,
    drive::{Driver, Seen},
    ideal::Ideal,
    report::{AssignmentReport, Blocks, Latency, Puts, Report},
    trace::Trace,
};
use crate::{
    args::{Global, Pace, ReplayArgs},
    dev::mesh::{Mesh, Settings},
    exit,
    output::emit,
    progress,
    rpc::Peer,
    sizes::human,
};

pub mod assign;
pub mod bound;
pub mod content;
pub mod drive;
pub mod ideal;
pub mod latency;
mod pace;
pub mod report;
pub mod settle;
pub mod trace;

/// Deadline of every call: overrides the gateway's own bounds.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Policy template of the replay's namespace: fallback `always`, no TTL.
const TEMPLATE: &str = "always";
/// Copies of a block in a region by that template.
const REPLICAS: u64 = 2;

/// Replays, prints the report, and says whether every promise held.
///
/// # Errors
/// When a promise broke, a gateway refused, or something is not set up.
pub async fn run(global: &Global, args: ReplayArgs) -> anyhow::Result<()> {
    if !(1..=BLOCK_BYTES_MAX).contains(&args.bytes_per_block.0) {
        return Err(exit::set_up(format!(
            "--bytes-per-block: 1 B to {} are possible",
            human(BLOCK_BYTES_MAX)
        )));
    }
    let trace = Trace::read(&args.trace, args.requests)?;
    let report = if global.gateway.is_empty() {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        telemetry::metrics(anywhere)
            .await
            .map_err(|error| exit::set_up(error.to_string()))?;
        let mesh = Mesh::start(mesh_settings(&args, &trace))
            .await
            .map_err(|error| exit::set_up(format!("the mesh cannot be set up: {error:#}")))?;
        let addresses = mesh.regions().iter().map(|region| region.gateway.clone());
        let gateways = gateways(addresses, &Channels::new(Arc::new(TcpConnect)));
        let replayed = match gateways {
            Ok(gateways) => replay(&args, &trace, gateways).await,
            Err(error) => Err(error),
        };
        let crossed = mesh.links().crossed();
        mesh.stop().await;
        replayed.map(|mut report| {
            report.link_scale = Some(args.mesh.link_scale);
            report.crossed = Some(crossed);
            report
        })
    } else {
        if args.wan_bytes_max.is_some() {
            return Err(exit::set_up(
                "--wan-bytes-max reads the metrics of a mesh of its own: name no --gateway",
            ));
        }
        let channels = global.tls.channels(Some(Role::Gateway))?;
        let gateways = gateways(global.gateway.iter().cloned(), &channels)?;
        replay(&args, &trace, gateways).await
    }?;
    emit(global.output, &report, || report.table())?;
    anyhow::ensure!(report.ok, "{}", report.broken.join("; "));
    Ok(())
}

/// A mesh that evicts nothing: room for every block in every region, and as much again
/// because no ring is perfectly balanced.
fn mesh_settings(args: &ReplayArgs, trace: &Trace) -> Settings {
    let mut settings = Settings::from(&args.mesh);
    let one_copy = trace.ids.len() as u64 * args.bytes_per_block.0;
    let room = one_copy * REPLICAS * settings.regions as u64 * 2;
    settings.memory_bytes = settings.memory_bytes.max(room);
    settings
}

async fn replay(args: &ReplayArgs, trace: &Trace, gateways: Vec<Peer>) -> anyhow::Result<Report> {
    let regions = regions(&gateways).await?;
    let assignment = Assignment::new(trace, regions.len(), args.sticky, args.seed);
    if let Some(path) = &args.assignment_out {
        assignment.write(path, &regions)?;
    }
    let assigned = regions.len();
    let expected = bound::expected(trace, &assignment.region, assigned);
    let driver = Driver {
        namespace: open(&gateways).await?,
        gateways,
        regions,
        trace,
        hashes: trace.ids.iter().map(|id| content::hash(id)).collect(),
        block_bytes: args.bytes_per_block.0 as usize,
        pace: args.pace,
        seen: Mutex::new(Seen::new(assigned, trace.ids.len())?),
    };
    let mut want = Split::default();
    expected.iter().for_each(|it| want.add(it.split));
    let bar = progress::count(trace.requests.len() as u64, "requests");
    let started = Instant::now();
    let (clients, speed) = (usize::from(args.clients), args.speed);
    pace::send(&driver, &assignment.region, &expected, clients, speed, &bar).await?;
    bar.finish_and_clear();
    report(args, &driver, &assignment, want, started.elapsed())
}

fn gateways(
    addresses: impl Iterator<Item = String>,
    channels: &Channels,
) -> anyhow::Result<Vec<Peer>> {
    addresses
        .map(|address| Peer::new(channels, &address, CALL_DEADLINE))
        .collect()
}

/// Which region each gateway is the door of; no two of one.
async fn regions(gateways: &[Peer]) -> anyhow::Result<Vec<String>> {
    let mut regions: Vec<String> = Vec::new();
    for gateway in gateways {
        let region = gateway.show().await?.region;
        if regions.contains(&region) {
            return Err(exit::set_up(format!(
                "{} is a second gateway of {region}: name one per region",
                gateway.address()
            )));
        }
        regions.push(region);
    }
    Ok(regions)
}

/// Makes a namespace of this run alone known everywhere.
async fn open(gateways: &[Peer]) -> anyhow::Result<Namespace> {
    let run: u64 = kvmesh_client::random::word();
    let description = Description {
        model: "replay".to_owned(),
        dtype: "bytes".to_owned(),
        layout: "opaque".to_owned(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: run.to_be_bytes().to_vec(),
        residency: Vec::new(),
    };
    let name = format!("replay-{run:016x}");
    let (mut positions, mut namespace) = (Vec::new(), None);
    for gateway in gateways {
        let opened = gateway.open(&description, &name, TEMPLATE).await?;
        positions.extend(opened.positions());
        namespace = Some(opened.namespace().clone());
    }
    let namespace = namespace.context("there is no gateway: name one per region")?;
    // One block that nobody has: what counts is that all views know the namespace.
    let probe = Chain::new([[0; 32]])?;
    settle::settle(gateways, &namespace, &probe, &positions).await?;
    Ok(namespace)
}

fn report(
    args: &ReplayArgs,
    driver: &Driver<'_>,
    assignment: &Assignment,
    want: Split,
    wall: Duration,
) -> anyhow::Result<Report> {
    let seen = &driver.seen();
    let mut broken = Vec::new();
    if seen.wrong_blocks > 0 {
        broken.push(format!("{} blocks had a wrong byte", seen.wrong_blocks));
    }
    if args.pace == Pace::Settled {
        broken.extend(unsettled(seen, want));
    }
    let page = telemetry::render();
    let ideal = Ideal::new(
        seen,
        &driver.regions,
        args.bytes_per_block.0,
        page.as_deref(),
    )?;
    broken.extend(ideal.missed(args.remote_hits_min, args.wan_bytes_max));
    let blocks = Blocks::new(seen, want);
    let hits = blocks.local_hits + blocks.remote_hits;
    if let Some(expected) = args.expect_hits.filter(|expected| *expected != hits) {
        broken.push(format!("expected {expected} hits, seen {hits}"));
    }
    let mut by_region: BTreeMap<String, usize> = BTreeMap::new();
    for &region in &assignment.region {
        *by_region.entry(driver.regions[region].clone()).or_default() += 1;
    }
    let name = args.trace.file_name().unwrap_or_default();
    Ok(Report {
        ok: broken.is_empty(),
        broken,
        trace: name.to_string_lossy().into_owned(),
        requests: assignment.region.len(),
        bytes_per_block: args.bytes_per_block.0,
        pace: match args.pace {
            Pace::Settled => "settled",
            Pace::Fast => "fast",
            Pace::Trace => "trace",
        },
        link_scale: None,
        assignment: AssignmentReport {
            method: assign::METHOD,
            sticky: args.sticky,
            seed: args.seed,
            away: assignment.away(),
            by_region,
        },
        blocks,
        puts: Puts {
            blocks: seen.put_blocks,
            existed: seen.put_existed,
            fill_failures: seen.fill_failures,
        },
        links: report::links(seen),
        crossed: None,
        ideal,
        latency_ms: Latency::new(seen),
        wall_s: wall.as_secs_f64(),
    })
}

/// What settled views promise and was not seen.
fn unsettled(seen: &Seen, want: Split) -> Option<String> {
    let same = seen.split == want && seen.surprises == 0;
    (!same || seen.fill_failures > 0).then(|| {
        format!(
            "expected {want:?}, seen {:?}; {} blocks were not kept; {}",
            seen.split,
            seen.fill_failures,
            seen.first_surprise
                .as_deref()
                .unwrap_or("no request stands out")
        )
    })
}
