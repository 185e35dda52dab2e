//! `meshctl drill run region-loss` on a mesh of real processes: those of one region are stopped
//! where they stand, as a region is that nobody hears of any more, and go on later. All links are
//! under mutual TLS: each region's clients have its certificate, and its gateways serve those of the
//! others (`clients_of`).

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

use crate::{mesh::Mesh, operator::Operator, pki::Pki, poll};

/// Both take puts that want two copies.
const REGIONS: [(&str, u64); 2] = [("us-east", 3), ("eu-west", 3)];
/// The one that is lost.
const LOST: usize = 0;
/// From the start of the mesh until its regions know one another.
const READY_BOUND: Duration = Duration::from_secs(60);
/// A drill takes about a minute, and as long as the region stays away, and a tenth of it twice.
const BOUND: Duration = Duration::from_secs(600);

/// What the drill's flags are, beyond those that say where the mesh is.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Chains that are put before.
    pub chains: u32,
    /// Clients of each region.
    pub clients: u16,
    /// Seconds that the region stays away at least.
    pub hold: u32,
    /// Within so many seconds clients are to be served elsewhere.
    pub redirect_max: f64,
}

/// Runs the drill, with settings, logs and Raft stores of the mesh in this folder, and returns its
/// report.
///
/// # Errors
/// When the mesh does not start, or a promise is broken.
pub async fn run(plan: Plan, folder: &Path) -> Result<Value> {
    let pki = Pki::init(folder.join("pki")).await?;
    for (region, nodes) in REGIONS {
        pki.issue_nodes(region, nodes, "127.0.0.1").await?;
    }
    pki.issue("operator", None, "alice", "127.0.0.1").await?;
    let channels = pki.channels("operator-alice")?;
    let mut mesh = Mesh::start_with(folder, &REGIONS, Some(&pki.folder), channels).await?;
    for at in 0..REGIONS.len() {
        let others = REGIONS.iter().enumerate().filter(|(other, _)| *other != at);
        let others: Vec<&str> = others.map(|(_, (name, _))| *name).collect();
        mesh.serve_clients_of(at, &others)?;
    }
    let gateways: Vec<&str> = (0..REGIONS.len()).map(|at| mesh.addresses(at).1).collect();
    let gateways = gateways.join(",");
    let operator = pki.operator("operator-alice");
    let addresses = (0..REGIONS.len()).map(|at| mesh.addresses(at).1);
    for gateway in addresses {
        ready(&operator, gateway).await?;
    }
    let ids = mesh.regions[LOST].ids()?;
    let [stop, go_on] = ["STOP", "CONT"].map(|signal| format!("kill -{signal} {ids}"));
    let (chains, clients) = (plan.chains.to_string(), plan.clients.to_string());
    let (hold, redirect_max) = (plan.hold.to_string(), plan.redirect_max.to_string());
    let syncs: Vec<&str> = (0..REGIONS.len()).map(|at| mesh.region_sync(at)).collect();
    let syncs = syncs.join(",");
    let of_clients = |end: &str| pki.folder.join(format!("{{region}}-client-1{end}"));
    let mut drill = Command::new(&operator.program);
    drill
        .args(&operator.tls)
        .args(["drill", "run", "region-loss", "-o", "json"])
        .args(["--region", REGIONS[LOST].0, "--gateway", &gateways])
        .args(["--fence", &stop, "--mend", &go_on])
        .arg("--client-cert")
        .arg(of_clients(".pem"))
        .arg("--client-key")
        .arg(of_clients("-key.pem"))
        .args(["--region-syncs", &syncs, "--hold", &hold])
        .args(["--chains", &chains, "--clients", &clients])
        .args(["--redirect-max", &redirect_max])
        // Not those of whoever runs it.
        .env("KVMESH_CONTEXTS", "/dev/null")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let bound = BOUND + Duration::from_secs(2 * u64::from(plan.hold));
    let ran = timeout(bound, drill.output()).await;
    let ran = ran.context("the drill does not end")??;
    let [said, told] = [&ran.stdout, &ran.stderr].map(|raw| String::from_utf8_lossy(raw));
    eprint!("{told}");
    ensure!(ran.status.success(), "{}: {told}\n{said}", ran.status);
    mesh.check()?;
    serde_json::from_str(&said).context("the report is no JSON")
}

/// Waits until a gateway asks every other region.
async fn ready(operator: &Operator, gateway: &str) -> Result<()> {
    let what = format!("{gateway} asking every region");
    poll::until(&what, READY_BOUND, async || {
        let asked = ["region", "list", "--gateway", gateway];
        let regions = operator.json(&asked).await?;
        let regions = regions.as_array().context("no list of regions")?;
        let online = regions.iter().filter(|region| region["state"] == "online");
        ensure!(online.count() + 1 == REGIONS.len(), "{regions:?}");
        Ok(())
    })
    .await
}
