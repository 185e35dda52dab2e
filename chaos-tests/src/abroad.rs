//! A client under mutual TLS whose own region is lost: a gateway of another region serves it, once
//! its settings name the client's region, and not before. Back home it reads what it put there.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kvmesh_client::{
    Client,
    client::{Fetched, GetOptions, GetOutcome, Opened, Path as Way, PutOptions, PutResult},
};
use kvmesh_directory::namespace::AckLevel;
use tokio::time::Instant;
use tonic::Code;

use crate::{
    blocks::{self, Blocks},
    mesh::Mesh,
    pki::Pki,
    poll,
};

/// The client's own, and the one that it goes to.
const REGIONS: [(&str, u64); 2] = [("us-east", 1), ("eu-west", 1)];
const BLOCKS: Blocks = Blocks { bytes: 20_000 };
const BOUND: Duration = Duration::from_secs(60);
const CALL_BOUND: Duration = Duration::from_secs(10);
/// From the loss of the region on, for a get and a put.
const SERVED_WITHIN: Duration = Duration::from_secs(2);

/// How long a get and a put took that began when the region was lost.
#[derive(Debug)]
pub struct Report {
    /// Until the get's last block.
    pub got: Duration,
    /// Until the last acknowledgement of the put, which began after the get.
    pub put: Duration,
}

/// Runs all of it, with certificates, settings and logs in this folder.
///
/// # Errors
/// When the mesh does not start, or the client is served where it is not to be, or not where it is.
pub async fn run(folder: &Path) -> Result<Report> {
    let pki = Pki::init(folder.join("pki")).await?;
    for (region, _) in REGIONS {
        pki.issue_region(region, "127.0.0.1").await?;
    }
    pki.issue("operator", None, "alice", "127.0.0.1").await?;
    let operator = pki.channels("operator-alice")?;
    let mut mesh = Mesh::start_with(folder, &REGIONS, Some(&pki.folder), operator).await?;
    let [home, away] = [0, 1].map(|at| mesh.addresses(at).1.to_owned());
    let traveller = open(&pki, REGIONS[0].0, &[&home, &away]).await?;
    put(&traveller, 0).await?;
    let host = open(&pki, REGIONS[1].0, &[&away]).await?;
    poll::until("a copy in the other region", BOUND, async || {
        let got = get(&host, 0).await?;
        complete(0, &got)?;
        ensure!(got.summary.fill_position.is_some(), "{:?}", got.summary);
        Ok(())
    })
    .await?;

    mesh.regions[0].kill()?;
    for _ in 0..2 {
        refused(
            get(&traveller, 0)
                .await
                .map(|got| format!("{:?}", got.summary)),
        )?;
        refused(put(&traveller, 1).await.map(|()| "a put".to_owned()))?;
    }
    mesh.serve_clients_of(1, &[REGIONS[0].0])?;
    poll::until("a get in the other region", BOUND, async || {
        served_by(REGIONS[1].0, 0, &get(&traveller, 0).await?)
    })
    .await?;
    put(&traveller, 1).await?;

    back_home(&mut mesh, &traveller, &home).await?;
    let begun = Instant::now();
    mesh.regions[0].kill()?;
    served_by(REGIONS[1].0, 1, &get(&traveller, 1).await?)?;
    let got = begun.elapsed();
    put(&traveller, 2).await?;
    let put = begun.elapsed();
    ensure!(
        put <= SERVED_WITHIN,
        "got elsewhere after {got:?}, put after {put:?}"
    );
    back_home(&mut mesh, &traveller, &home).await?;
    mesh.check()?;

    mesh.serve_clients_of(1, &[])?;
    let guest = open_at(&pki, REGIONS[0].0, &[&away])?;
    poll::until(
        "a refusal, now that it is not named any more",
        BOUND,
        async || {
            let description = blocks::description();
            let opened = guest.open(&description, "", "always", CALL_BOUND).await;
            refused(opened.map(|_| "an open".to_owned()).map_err(Into::into))
        },
    )
    .await?;
    Ok(Report { got, put })
}

fn open_at(pki: &Pki, region: &str, gateways: &[&str]) -> Result<Client> {
    let channels = pki.channels(&format!("{region}-client-1"))?;
    let gateways = gateways.iter().map(|&it| it.to_owned()).collect();
    Ok(Client::connect(gateways, channels)?)
}

async fn open(pki: &Pki, region: &str, gateways: &[&str]) -> Result<Opened> {
    let client = open_at(pki, region, gateways)?;
    let description = blocks::description();
    poll::until("opening the namespace", BOUND, async || {
        Ok(client.open(&description, "", "always", CALL_BOUND).await?)
    })
    .await
}

async fn get(from: &Opened, chain: u64) -> Result<Fetched> {
    let options = GetOptions {
        deadline: Some(CALL_BOUND),
        await_fill: true,
        ..GetOptions::default()
    };
    Ok(from.get(&BLOCKS.chain(chain)?, options).await?)
}

async fn put(to: &Opened, chain: u64) -> Result<()> {
    let options = PutOptions {
        // Regions of one node.
        ack: Some(AckLevel::Memory),
        deadline: Some(CALL_BOUND),
    };
    for result in to.put(&BLOCKS.to_put(chain), options).await? {
        ensure!(matches!(result, PutResult::Acked(_)), "{result:?}");
    }
    Ok(())
}

fn complete(chain: u64, got: &Fetched) -> Result<()> {
    let outcome = got.summary.outcome;
    ensure!(outcome == GetOutcome::Complete, "{:?}", got.summary);
    BLOCKS.check(chain, &got.blocks)
}

/// By a gateway of this region, and not by its nodes.
fn served_by(region: &str, chain: u64, got: &Fetched) -> Result<()> {
    complete(chain, got)?;
    let elsewhere = got.blocks.iter().find(|block| block.path != Way::Gateway);
    ensure!(
        elsewhere.is_none(),
        "one came by {:?}",
        elsewhere.map(|it| it.path)
    );
    let sources: Vec<String> = got
        .summary
        .sources
        .iter()
        .map(|it| it.region.to_string())
        .collect();
    ensure!(sources == [region], "it came from {sources:?}");
    Ok(())
}

/// It may not, and is told which setting would let it.
fn refused(answer: Result<String>) -> Result<()> {
    let error = match answer {
        Ok(served) => bail!("a client of a region that is not named was served: {served}"),
        Err(error) => error,
    };
    let call = error.downcast_ref::<kvmesh_client::client::CallError>();
    let call = call.with_context(|| format!("no call failed: {error:#}"))?;
    ensure!(call.code() == Some(Code::PermissionDenied), "{error:#}");
    ensure!(call.to_string().contains("clients_of"), "{error:#}");
    Ok(())
}

/// Starts the client's region, and waits until it asks there, and reads there what it put away.
async fn back_home(mesh: &mut Mesh, traveller: &Opened, home: &str) -> Result<()> {
    mesh.regions[0].start_again().await?;
    poll::until("the client at home again", BOUND, async || {
        let asked = traveller.client().gateway();
        ensure!(asked == home, "it still asks {asked}");
        complete(1, &get(traveller, 1).await?)
    })
    .await
}
