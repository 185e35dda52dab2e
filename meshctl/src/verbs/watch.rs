//! `meshctl watch`: one line for each block that appears in a namespace or vanishes from it.

use std::time::Duration;

use kvmesh_directory::{BlockName, FeedPosition};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{
    args::{Global, WatchArgs},
    chain::hex,
    output::{Format, line},
};

/// Without a limit: longer than anybody watches.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

#[derive(Serialize)]
struct Change {
    change: &'static str,
    hash: String,
    shard: u16,
    group: u16,
    /// Everything up to here was told, once the last line with it was.
    position: String,
}

impl Change {
    fn of(change: &'static str, name: &BlockName, width: usize, at: &FeedPosition) -> Self {
        Self {
            change,
            hash: hex(&name.hash.0[..width]),
            shard: name.part.shard,
            group: name.part.group,
            position: format!("{}@{}", at.region, at.index),
        }
    }
}

pub(super) async fn run(global: &Global, args: &WatchArgs) -> anyhow::Result<()> {
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace).await?;
    // Longer hashes are known by their canonical form.
    let width = (namespace.description.hash_width as usize).min(32);
    let cache = peer.cache(&namespace, &[])?;
    let mut watch = cache.watch(None).await?;
    let limit = match args.seconds {
        0 => FOR_EVER,
        seconds => Duration::from_secs(seconds),
    };
    let until = Instant::now() + limit;
    while let Ok(watched) = timeout_at(until, watch.next()).await {
        let watched = watched?;
        let said = [
            ("appeared", &watched.appeared),
            ("vanished", &watched.vanished),
        ];
        for (change, name) in said
            .iter()
            .flat_map(|(it, names)| names.iter().map(move |name| (*it, name)))
        {
            let change = Change::of(change, name, width, &watched.position);
            let text = match global.output {
                Format::Json => serde_json::to_string(&change)?,
                Format::Table => format!("{} {}", change.change, change.hash),
            };
            line(&text)?;
        }
    }
    Ok(())
}
