//! Whoever is in another region tries every call of every service, with every certificate that its
//! region has, to see something of a namespace that may be in one region only.
//!
//! A second namespace, which may be everywhere, is asked for in the same ways: it must be seen, or
//! the test would see nothing. Then the first region's gateway is told to serve clients of the other one
//! (`guest`).

mod guest;
mod rpc;

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use kvmesh_client::{
    Client,
    client::{Opened, PutOptions, PutResult},
};
use kvmesh_directory::{BlockHash, BlockName, Description, Part, namespace::AckLevel};

use self::rpc::{Answer, Call};
use crate::{
    blocks::{self, Blocks},
    mesh::Mesh,
    pki::Pki,
    poll,
};

const REGIONS: [(&str, u64); 2] = [("us-east", 1), ("eu-west", 1)];
const BLOCKS: Blocks = Blocks { bytes: 20_000 };
/// What is put into the two namespaces: what is seen of one is not of the other.
const CHAINS: [u64; 2] = [7, 8];
const ROLES: [&str; 4] = ["client", "gateway", "node", "region-sync"];
const BOUND: Duration = Duration::from_secs(60);
/// All calls take half a minute.
const SEEN_BOUND: Duration = Duration::from_secs(240);
const CALL_BOUND: Duration = Duration::from_secs(10);
/// Calls that are under way at once.
const AT_ONCE: usize = 16;
/// As many bytes of a block as nobody guesses.
const WINDOW: usize = 16;

/// What nobody outside may see of a namespace, as bytes.
struct Secret {
    description: Description,
    blocks: Vec<Bytes>,
    hashes: Vec<[u8; 32]>,
    tags: Vec<u64>,
}

/// Runs all of it, with certificates, settings and logs in this folder; how many calls were made.
///
/// # Errors
/// When the mesh does not start, something of the namespace is seen, or nothing of the other one.
pub async fn run(folder: &Path) -> Result<usize> {
    let pki = Pki::init(folder.join("pki")).await?;
    for (region, _) in REGIONS {
        pki.issue_region(region, "127.0.0.1").await?;
    }
    pki.issue("operator", None, "alice", "127.0.0.1").await?;
    let operator = pki.channels("operator-alice")?;
    let mut mesh = Mesh::start_with(folder, &REGIONS, Some(&pki.folder), operator).await?;
    let resident = put(&mesh, &pki, CHAINS[0], vec![REGIONS[0].0.parse()?]).await?;
    let control = put(&mesh, &pki, CHAINS[1], Vec::new()).await?;
    // Once the other region has heard of the one, it would have heard of the other.
    let seen = poll::until(
        "the other namespace in the other region",
        SEEN_BOUND,
        async || {
            let answers = try_all(&mesh, &pki, &control).await?;
            let all: Vec<&[u8]> = answers.iter().flat_map(Answer::parts).collect();
            ensure!(control.block_in(&all), "its bytes are not seen");
            ensure!(control.hash_in(&all), "its hashes are not seen");
            Ok(answers.len())
        },
    );
    let seen = seen.await?;
    let answers = try_all(&mesh, &pki, &resident).await?;
    resident.unseen_in(&answers)?;
    ensure!(answers.len() == seen, "other calls were made");
    guest::run(&mut mesh, &pki, &resident, &control).await?;
    Ok(answers.len())
}

/// Puts a chain into a namespace of the first region, which may be in these regions.
async fn put(
    mesh: &Mesh,
    pki: &Pki,
    chain: u64,
    residency: Vec<kvmesh_directory::RegionId>,
) -> Result<Secret> {
    let description = Description {
        residency,
        ..blocks::description()
    };
    let channels = pki.channels("us-east-client-1")?;
    let client = Client::connect(vec![mesh.addresses(0).1.to_owned()], channels)?;
    let opened: Opened = poll::until("opening the namespace", BOUND, async || {
        Ok(client.open(&description, "", "always", CALL_BOUND).await?)
    })
    .await?;
    let options = PutOptions {
        // A region of one node.
        ack: Some(AckLevel::Memory),
        ..PutOptions::default()
    };
    let blocks = BLOCKS.to_put(chain);
    for result in opened.put(&blocks, options).await? {
        ensure!(matches!(result, PutResult::Acked(_)), "{result:?}");
    }
    let namespace = description.id();
    let hashes: Result<Vec<[u8; 32]>> = blocks
        .iter()
        .map(|it| Ok((&*it.hash).try_into()?))
        .collect();
    let hashes = hashes?;
    let tag = |hash: &[u8; 32]| {
        let (hash, part) = (BlockHash(*hash), Part::default());
        let name = BlockName {
            namespace,
            hash,
            part,
        };
        name.tag().0
    };
    Ok(Secret {
        description,
        blocks: blocks
            .iter()
            .flat_map(|it| it.block.pieces.clone())
            .collect(),
        tags: hashes.iter().map(tag).collect(),
        hashes,
    })
}

/// Every call, at every process of both regions, with every certificate of the second one.
async fn try_all(mesh: &Mesh, pki: &Pki, secret: &Secret) -> Result<Vec<Answer>> {
    let calls = secret.calls()?;
    let mut tries = Vec::new();
    for role in ROLES {
        let who = format!("{}-{role}-1", REGIONS[1].0);
        let channels = pki.channels(&who)?;
        for address in (0..REGIONS.len()).flat_map(|region| mesh.listeners(region)) {
            let channel = channels.to(address)?;
            let named = |call: &Call| call.by(&who, address);
            tries.extend(calls.iter().map(|call| named(call).make(channel.clone())));
        }
    }
    Ok(stream::iter(tries).buffered(AT_ONCE).collect().await)
}

impl Secret {
    /// The names of its blocks, in order.
    fn chain(&self) -> Bytes {
        self.hashes.concat().into()
    }

    fn calls(&self) -> Result<Vec<Call>> {
        let regions = [REGIONS[0].0, REGIONS[1].0];
        rpc::all(self.description.id(), &self.chain(), regions)
    }

    /// # Errors
    /// Names a call whose answer has something of it.
    fn unseen_in(&self, answers: &[Answer]) -> Result<()> {
        for answer in answers {
            let (parts, call) = (answer.parts().collect::<Vec<_>>(), &answer.call);
            ensure!(!self.block_in(&parts), "bytes are seen: {call}");
            ensure!(!self.hash_in(&parts), "a hash is seen: {call}");
            ensure!(!self.tag_in(&parts), "a tag is seen: {call}");
        }
        Ok(())
    }

    fn block_in(&self, answers: &[&[u8]]) -> bool {
        // Any of them, wherever the block was cut: a piece of it would have one whole.
        let windows = self
            .blocks
            .iter()
            .flat_map(|block| block.chunks_exact(WINDOW));
        let windows: Vec<&[u8]> = windows.step_by(61).collect();
        answers.iter().any(|answer| any_in(answer, &windows))
    }

    fn hash_in(&self, answers: &[&[u8]]) -> bool {
        let hashes: Vec<&[u8]> = self.hashes.iter().map(|hash| &hash[..]).collect();
        let hex = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let words: Vec<String> = self.hashes.iter().map(hex).collect();
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        answers
            .iter()
            .any(|answer| any_in(answer, &hashes) || any_in(answer, &words))
    }

    fn tag_in(&self, answers: &[&[u8]]) -> bool {
        let raw = self
            .tags
            .iter()
            .flat_map(|tag| [tag.to_le_bytes(), tag.to_be_bytes()]);
        let raw: Vec<[u8; 8]> = raw.collect();
        let tags: Vec<&[u8]> = raw.iter().map(|tag| &tag[..]).collect();
        answers.iter().any(|answer| any_in(answer, &tags))
    }
}

/// Whether any of these, all of one length, is somewhere in there.
fn any_in(answer: &[u8], wanted: &[&[u8]]) -> bool {
    let len = wanted.first().map_or(1, |it| it.len());
    let wanted: std::collections::BTreeSet<&[u8]> = wanted.iter().copied().collect();
    answer.windows(len).any(|window| wanted.contains(window))
}
