//! `meshctl region`: initialise one, upgrade it, list all.

use kvmesh_client::tls::Role;
use serde::Serialize;

use crate::{
    args::Global,
    output::{self, emit, ms},
    rpc::topology::RegionStatus,
    sizes::human,
};

pub(super) async fn init(global: &Global) -> anyhow::Result<()> {
    let peer = super::at(global, Some(Role::Node), global.node_address())?;
    let what = "initialising the region with the members that the node's settings list";
    super::aim(global, &peer, what).await?;
    let done = peer.init_region().await?;
    emit(global.output, &done, || {
        let mut table = output::table(&["node", "address"], &[0]);
        for (node, address) in &done.members {
            table.add_row(vec![node.to_string(), address.clone()]);
        }
        format!(
            "region {} is initialised at ring epoch {} with {} members\n{table}",
            done.region,
            done.ring_epoch,
            done.members.len()
        )
    })
}

/// What an upgrade came to.
#[derive(Serialize)]
struct Upgraded {
    from: u32,
    to: u32,
}

pub(super) async fn upgrade(global: &Global) -> anyhow::Result<()> {
    let peer = super::at(global, Some(Role::Node), global.node_address())?;
    let what = "raising the region's feature level for good";
    super::aim(global, &peer, what).await?;
    let (from, to) = peer.upgrade().await?;
    emit(global.output, &Upgraded { from, to }, || match from == to {
        true => format!("the region is at feature level {to} already"),
        false => format!("the region was at feature level {from}, and is at {to} now"),
    })
}

pub(super) async fn list(global: &Global) -> anyhow::Result<()> {
    let regions = super::peer(global)?.regions().await?;
    emit(global.output, &regions, || {
        let heads = [
            "region",
            "state",
            "rtt",
            "bandwidth",
            "blocks",
            "position",
            "lag",
            "heard",
        ];
        let mut table = output::table(&heads, &[2, 3, 4, 5, 6, 7]);
        for region in &regions {
            let state = match (region.local, region.state, region.reachable) {
                (true, _, _) => "local",
                (false, Some(state), _) => state,
                // A gateway of an earlier version says no more.
                (false, None, true) => "online",
                (false, None, false) => "offline",
            };
            let rtt = match region.rtt_ms {
                _ if region.local => "-".to_owned(),
                0.0 => "unknown".to_owned(),
                rtt => ms(rtt),
            };
            table.add_row(vec![
                region.region.clone(),
                state.to_owned(),
                rtt,
                bandwidth(region),
                region.blocks.to_string(),
                super::topology::index(region.position.as_ref()),
                region.lag_entries.to_string(),
                format!("{} ms ago", region.age_ms),
            ]);
        }
        table.to_string()
    })
}

/// What a fetch is expected to see, and by whose word.
fn bandwidth(region: &RegionStatus) -> String {
    if region.bandwidth <= 0.0 {
        return "-".to_owned();
    }
    let bandwidth = human(region.bandwidth as u64);
    match region.bandwidth_age_ms {
        Some(_) => format!("{bandwidth}/s"),
        None => format!("{bandwidth}/s, as set"),
    }
}
