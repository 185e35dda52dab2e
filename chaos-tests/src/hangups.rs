//! A node and a region-sync that are told by SIGHUP to read their settings again: they take up
//! what may change while they run, or nothing.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{mesh::ports, poll, process::Process, programs, scrape};

const BOUND: Duration = Duration::from_secs(30);
const RELOADS: &str = "kvmesh_settings_reloads_total";

/// Runs all of it, with settings and logs in this folder.
///
/// # Errors
/// When a process does not start, or does not do as it should; says what.
pub async fn run(folder: &Path) -> Result<()> {
    let programs = programs::folder()?;
    let free = ports::free(5)?;
    let [listen, metrics, sync, sync_metrics, nobody] = &free[..] else {
        anyhow::bail!("{} ports", free.len());
    };
    let node = kvmesh_node::Settings {
        region: "us-east".to_owned(),
        node: 1,
        listen: listen.parse()?,
        metrics_listen: metrics.parse()?,
        memory_bytes: 64 << 20,
        raft_dir: folder.join("raft"),
        raft_reserve: 0,
        ..kvmesh_node::Settings::default()
    };
    let process = |name: &str, program: &str, settings: String| {
        Process::new(name.to_owned(), programs.join(program), folder, &settings)
    };
    let mut running = process("node", "kvmesh-node", toml::to_string(&node)?)?;
    let changed = kvmesh_node::Settings {
        put_deadline_ms: 29_999,
        memory_bytes: 32 << 20,
        ..node.clone()
    };
    let again = kvmesh_node::Settings {
        put_deadline_ms: 29_998,
        ..changed.clone()
    };
    let (mut fixed, mut grown, mut wrong) = (changed.clone(), changed.clone(), changed.clone());
    (fixed.zone, grown.memory_bytes, wrong.owner_rate) = ("z".to_owned(), 128 << 20, 0);
    let text = |settings: &kvmesh_node::Settings| toml::to_string(settings);
    let good = [
        (text(&changed)?, "put_deadline_ms 30000 -> 29999"),
        (text(&again)?, "\"put_deadline_ms 29999 -> 29998\""),
    ];
    let bad = [
        (text(&fixed)?, "zone"),
        (text(&grown)?, "memory_bytes"),
        (text(&wrong)?, "owner_rate"),
    ];
    check(&mut running, metrics, good, &bad)
        .await
        .context("node")?;

    let region_sync = kvmesh_region_sync::Settings {
        region: "us-east".to_owned(),
        listen: sync.parse()?,
        metrics_listen: sync_metrics.parse()?,
        nodes: vec![nobody.clone()],
        ..kvmesh_region_sync::Settings::default()
    };
    let settings = toml::to_string(&region_sync)?;
    let mut running = process("region-sync", "kvmesh-region-sync", settings)?;
    let before = region_sync.offline_failures;
    let changed = kvmesh_region_sync::Settings {
        offline_failures: before + 4,
        ..region_sync.clone()
    };
    let again = kvmesh_region_sync::Settings {
        offline_failures: before + 5,
        ..changed.clone()
    };
    let (mut fixed, mut wrong) = (changed.clone(), changed.clone());
    (fixed.nodes, wrong.offline_failures) = (vec![listen.clone()], 0);
    let said = [
        format!("offline_failures {before} -> {}", before + 4),
        format!("\"offline_failures {} -> {}\"", before + 4, before + 5),
    ];
    let text = |settings: &kvmesh_region_sync::Settings| toml::to_string(settings);
    let good = [(text(&changed)?, &*said[0]), (text(&again)?, &*said[1])];
    let bad = [
        (text(&fixed)?, "nodes"),
        (text(&wrong)?, "offline_failures is 0"),
    ];
    check(&mut running, sync_metrics, good, &bad)
        .await
        .context("region-sync")
}

/// A change that is taken up, those that are not, and another one, which finds that those left
/// nothing behind.
async fn check(
    process: &mut Process,
    metrics: &str,
    [first, last]: [(String, &str); 2],
    bad: &[(String, &str)],
) -> Result<()> {
    process.start().await?;
    told(process, &first.0, &["settings reloaded", first.1]).await?;
    for (settings, why) in bad {
        told(process, settings, &["settings not reloaded", why]).await?;
    }
    told(process, &last.0, &["settings reloaded", last.1]).await?;
    let mut counted = scrape::metric(metrics, RELOADS).await?;
    counted.sort_by(f64::total_cmp);
    let want = [2.0, bad.len() as f64];
    ensure!(
        counted == want,
        "{RELOADS} is {counted:?} instead of {want:?}"
    );
    process.terminate(BOUND).await
}

async fn told(process: &mut Process, settings: &str, words: &[&str]) -> Result<()> {
    process.hang_up(settings)?;
    poll::until("its word on that", BOUND, async || process.logged(words)).await
}
