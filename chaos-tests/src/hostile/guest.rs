//! A client of the other region at a gateway that serves it: it may all of what is everywhere, and
//! for it there is no namespace that is not for its region.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use kvmesh_client::Client;
use tonic::Code;

use super::{
    AT_ONCE, BOUND, CALL_BOUND, REGIONS, Secret,
    rpc::{self, Answer, Call},
};
use crate::{mesh::Mesh, pki::Pki, poll};

/// Calls of `Cache` that are served, each in one of its forms.
const SERVED: [&str; 10] = [
    "Cache/Delete",
    "Cache/Get",
    "Cache/Lease",
    "Cache/Locate",
    "Cache/Lookup",
    "Cache/Open",
    "Cache/Prefetch",
    "Cache/Put",
    "Cache/Report",
    "Cache/Watch",
];

/// Tries all of it before the gateway is told to serve the client, and after.
pub(super) async fn run(
    mesh: &mut Mesh,
    pki: &Pki,
    resident: &Secret,
    control: &Secret,
) -> Result<()> {
    for secret in [resident, control] {
        let answers = try_cache(mesh, pki, secret).await?;
        let served = answers
            .iter()
            .find(|it| it.refused != Some(Code::PermissionDenied));
        ensure!(
            served.is_none(),
            "served unasked: {}",
            served.map_or_else(String::new, |it| it.call.to_string())
        );
    }
    mesh.serve_clients_of(0, &[REGIONS[1].0])?;
    let client = client(mesh, pki, REGIONS[1].0)?;
    poll::until("the client being served", BOUND, async || {
        let opened = client.open(&control.description, "", "", CALL_BOUND).await;
        Ok(opened.map(|_| ())?)
    })
    .await?;

    let answers = try_cache(mesh, pki, resident).await?;
    resident.unseen_in(&answers)?;
    let known = answers.iter().find(|it| {
        // Whoever has the description has it; empty calls fail for what they lack.
        let refused = it.refused;
        !matches!(
            refused,
            Some(Code::NotFound | Code::PermissionDenied | Code::InvalidArgument)
        )
    });
    ensure!(
        known.is_none(),
        "it was found: {}",
        known.map_or_else(String::new, |it| it.call.to_string())
    );
    // The delete among them did nothing.
    let home = self::client(mesh, pki, REGIONS[0].0)?;
    let opened = home.open(&resident.description, "", "", CALL_BOUND).await?;
    let chain = kvmesh_client::client::Chain::new(&resident.hashes)?;
    let got = opened.get(&chain, Default::default()).await?;
    ensure!(
        got.blocks.len() == resident.hashes.len(),
        "{:?}",
        got.summary
    );

    let answers = try_cache(mesh, pki, control).await?;
    let parts: Vec<&[u8]> = answers.iter().flat_map(Answer::parts).collect();
    ensure!(
        control.block_in(&parts),
        "bytes of what it may see are not served"
    );
    let served = answers.iter().filter(|it| it.refused.is_none());
    let served: BTreeSet<&str> = served.map(|it| it.call.method()).collect();
    ensure!(served == SERVED.into(), "only these are served: {served:?}");
    Ok(())
}

fn client(mesh: &Mesh, pki: &Pki, region: &str) -> Result<Client> {
    let channels = pki.channels(&format!("{region}-client-1"))?;
    Ok(Client::connect(
        vec![mesh.addresses(0).1.to_owned()],
        channels,
    )?)
}

/// Every call of `Cache` by a client of the second region at the first one's gateway; what
/// changes something comes last.
async fn try_cache(mesh: &Mesh, pki: &Pki, secret: &Secret) -> Result<Vec<Answer>> {
    let who = format!("{}-client-1", REGIONS[1].0);
    let address = mesh.addresses(0).1;
    let channel = pki.channels(&who)?.to(address)?;
    let make = |call: Call| call.by(&who, address).make(channel.clone());
    let calls = secret.calls()?.into_iter();
    let calls = calls.filter(|call| call.method().starts_with("Cache/"));
    let mut answers: Vec<Answer> = stream::iter(calls.map(make))
        .buffered(AT_ONCE)
        .collect()
        .await;
    for call in rpc::changing(&secret.description, &secret.chain()) {
        answers.push(make(call).await);
    }
    Ok(answers)
}
