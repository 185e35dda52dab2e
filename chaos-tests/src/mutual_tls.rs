//! Two regions of real processes, all links under mutual TLS with certificates by
//! `meshctl pki`: clients put, get from afar, delete and miss, and whoever has not the right
//! certificate is refused with a reason.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Result, bail, ensure};
use kvmesh_client::{
    Client,
    channel::{Channels, TcpConnect},
    client::{GetOptions, GetOutcome, Opened, PutOptions, PutResult},
};
use kvmesh_directory::namespace::AckLevel;
use kvmesh_process::{SystemClock, WallClock};
use meshctl::pki::{Authority, Validity};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::{
    blocks::{self, Blocks, CHAIN_BLOCKS},
    mesh::Mesh,
    pki::Pki,
    poll,
    process::Process,
    rpc,
};

const REGIONS: [(&str, u64); 2] = [("us-east", 1), ("eu-west", 1)];
const BLOCKS: Blocks = Blocks { bytes: 20_000 };
const BOUND: Duration = Duration::from_secs(60);
const CALL_BOUND: Duration = Duration::from_secs(10);

/// Runs all of it, with certificates, settings and logs in this folder.
///
/// # Errors
/// When the mesh does not start, a call fails, or a stranger is let in or refused without words.
pub async fn run(folder: &Path) -> Result<()> {
    let pki = Pki::init(folder.join("pki")).await?;
    for (region, _) in REGIONS {
        pki.issue_region(region, "127.0.0.1").await?;
    }
    pki.issue("operator", None, "alice", "127.0.0.1").await?;
    let operator = pki.channels("operator-alice")?;
    let mesh = Mesh::start_with(folder, &REGIONS, Some(&pki.folder), operator).await?;
    let [near, far] = [open(&mesh, &pki, 0).await?, open(&mesh, &pki, 1).await?];
    blocks_go_and_come(&near, &far).await?;
    nobody_was_refused(&mesh)?;
    strangers_are_refused(&mesh, &pki).await
}

async fn open(mesh: &Mesh, pki: &Pki, region: usize) -> Result<Opened> {
    let (name, _) = REGIONS[region];
    let channels = pki.channels(&format!("{name}-client-1"))?;
    let client = Client::connect(vec![mesh.addresses(region).1.to_owned()], channels)?;
    let description = blocks::description();
    poll::until("opening the namespace", BOUND, async || {
        Ok(client.open(&description, "", "always", CALL_BOUND).await?)
    })
    .await
}

/// Put in one region, got in the other, deleted, and missed in both.
async fn blocks_go_and_come(near: &Opened, far: &Opened) -> Result<()> {
    let options = PutOptions {
        // A region of one node.
        ack: Some(AckLevel::Memory),
        ..PutOptions::default()
    };
    for result in near.put(&BLOCKS.to_put(0), options).await? {
        ensure!(matches!(result, PutResult::Acked(_)), "{result:?}");
    }
    let chain = BLOCKS.chain(0)?;
    let get = async |from: &Opened| {
        let options = GetOptions {
            deadline: Some(CALL_BOUND),
            ..GetOptions::default()
        };
        Ok::<_, anyhow::Error>(from.get(&chain, options).await?)
    };
    poll::until("a get from afar", BOUND, async || {
        let got = get(far).await?;
        ensure!(
            got.summary.outcome == GetOutcome::Complete,
            "{:?}",
            got.summary
        );
        BLOCKS.check(0, &got.blocks)?;
        let source = got.summary.sources[0].region.to_string();
        ensure!(source == REGIONS[0].0, "it came from {source}");
        Ok(())
    })
    .await?;
    near.delete(&chain, 0, CHAIN_BLOCKS, &[], CALL_BOUND)
        .await?;
    let got = get(near).await?;
    ensure!(got.blocks.is_empty(), "deleted, and {:?}", got.summary);
    poll::until("the delete in the other region", BOUND, async || {
        let got = get(far).await?;
        ensure!(got.blocks.is_empty(), "{:?}", got.summary);
        Ok(())
    })
    .await
}

/// What processes ask one another by themselves, they may.
fn nobody_was_refused(mesh: &Mesh) -> Result<()> {
    for region in &mesh.regions {
        let servers = [&region.gateway, &region.region_sync];
        for process in region.nodes.iter().chain(servers) {
            let refused = process.logged(&["a call was refused"]).is_ok();
            ensure!(!refused, "{} refused a call of the mesh", process.name());
        }
    }
    Ok(())
}

async fn strangers_are_refused(mesh: &Mesh, pki: &Pki) -> Result<()> {
    let (node, gateway) = mesh.addresses(0);
    // Of this mesh, and not of those who may.
    let client = pki.channels("us-east-client-1")?;
    let refused = rpc::init_region(&client, node).await.err();
    let said = refused
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(
        said.contains("PermissionDenied") || said.contains("permission"),
        "a client was not told that it may not: {said}"
    );

    let now_ms = SystemClock.millis();
    let (other, _) = Authority::new("kvmesh.local", Validity::days(now_ms, 1))?;
    let own = Authority::read(&pki.read("ca.pem")?, &pki.read("ca-key.pem")?)?;
    let who = "spiffe://kvmesh.local/region/us-east/client/2".parse()?;
    let past = Validity {
        not_before: 1_000_000,
        not_after: 2_000_000,
    };
    let expired = own.issue(&who, past, &[], &[])?;
    let foreign = other.issue(&who, Validity::days(now_ms, 1), &[], &[])?;
    let pair = |issued: &meshctl::pki::Issued| Identity::from_pem(&issued.certificate, &issued.key);
    let cases = [
        (None, "no certificate"),
        (Some(pair(&expired)), "has expired"),
        (Some(pair(&foreign)), "not signed by a CA that is trusted"),
    ];
    let door: &Process = &mesh.regions[0].gateway;
    for (identity, why) in cases {
        let ca = pki.read("ca.pem")?;
        // Refusals are logged once a second.
        poll::until(why, BOUND, async || {
            knock(gateway, &ca, identity.clone()).await?;
            door.logged(&["a caller was refused", why])
        })
        .await?;
    }
    let plain = Channels::new(Arc::new(TcpConnect));
    poll::until("a refusal of plaintext", BOUND, async || {
        if rpc::see(&plain, gateway).await.is_ok() {
            bail!("plaintext is answered");
        }
        door.logged(&["a caller was refused", "does not speak TLS"])
    })
    .await
}

/// Somebody of another make calls with this certificate; an error when that is answered.
async fn knock(address: &str, ca: &str, identity: Option<Identity>) -> Result<()> {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let config = match identity {
        Some(identity) => config.identity(identity),
        None => config,
    };
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?;
    let channel = endpoint.tls_config(config)?.connect_lazy();
    match tokio::time::timeout(CALL_BOUND, rpc::shows(channel)).await {
        Ok(Ok(())) => bail!("a stranger was answered"),
        Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => {
            bail!("a stranger got as far as {status}")
        }
        Ok(Err(_)) => Ok(()),
        Err(_) => bail!("a stranger was neither answered nor refused"),
    }
}
