//! Two region-syncs of a region are active together: whichever is killed, no client's call fails,
//! and what another region has is known and fetched as before.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kvmesh_client::{
    channel::{Channels, TcpConnect},
    client::{GetOptions, GetOutcome, Opened, PutOptions, PutResult},
};
use kvmesh_directory::namespace::AckLevel;

use crate::{
    Mesh,
    blocks::{self, Blocks},
    poll,
};

/// The first one's is put into, the second one's has the two.
const REGIONS: [(&str, u64); 2] = [("us-east", 1), ("eu-west", 1)];
/// Which of the two runs, one after the other.
const COURSE: [[bool; 2]; 5] = [
    [true, true],
    [false, true],
    [true, true],
    [true, false],
    [false, true],
];
/// Chains that are put and then got from afar, at each of these.
const CHAINS: u64 = 4;
const BLOCKS: Blocks = Blocks { bytes: 10_000 };
const CALL_BOUND: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_secs(60);

/// Runs it, with settings, logs and Raft stores in this folder. Returns how many chains came from
/// the other region.
///
/// # Errors
/// When a call fails, a chain does not come, or it comes with other bytes.
pub async fn run(folder: &Path) -> Result<u64> {
    let channels = Channels::new(Arc::new(TcpConnect));
    let mut mesh = Mesh::start_with(folder, &REGIONS, None, channels).await?;
    mesh.add_region_sync(1, folder).await?;
    let [near, far] = [open(&mesh, 0).await?, open(&mesh, 1).await?];
    let mut chains = 0;
    for running in COURSE {
        for (sync, runs) in mesh.regions[1].region_syncs().zip(running) {
            match runs {
                true if sync.id().is_err() => sync.start().await?,
                false if sync.id().is_ok() => sync.kill()?,
                _ => {}
            }
        }
        for chain in chains..chains + CHAINS {
            comes_from_afar(&near, &far, chain)
                .await
                .with_context(|| format!("chain {chain} while {running:?} run"))?;
        }
        chains += CHAINS;
    }
    Ok(chains)
}

async fn open(mesh: &Mesh, region: usize) -> Result<Opened> {
    let client = mesh.client(region)?;
    let description = blocks::description();
    poll::until("opening the namespace", BOUND, async || {
        Ok(client.open(&description, "", "always", CALL_BOUND).await?)
    })
    .await
}

/// Puts a chain, and gets it in the other region until it is there. It may not be known at first;
/// that is a miss, and no failure.
async fn comes_from_afar(near: &Opened, far: &Opened, chain: u64) -> Result<()> {
    let options = PutOptions {
        ack: Some(AckLevel::Memory),
        ..PutOptions::default()
    };
    for result in near.put(&BLOCKS.to_put(chain), options).await? {
        ensure!(matches!(result, PutResult::Acked(_)), "{result:?}");
    }
    let mut failed = None;
    poll::until("a get from afar", BOUND, async || {
        let options = GetOptions {
            deadline: Some(CALL_BOUND),
            ..GetOptions::default()
        };
        let got = match far.get(&BLOCKS.chain(chain)?, options).await {
            Ok(got) => got,
            Err(error) => {
                failed.get_or_insert(error);
                return Ok(());
            }
        };
        let outcome = got.summary.outcome;
        ensure!(outcome == GetOutcome::Complete, "{:?}", got.summary);
        BLOCKS.check(chain, &got.blocks)
    })
    .await?;
    failed.map_or(Ok(()), |error| Err(error).context("a client's get failed"))
}
