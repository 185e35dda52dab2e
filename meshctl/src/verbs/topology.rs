//! `meshctl topology`: the ring of a region.

use kvmesh_directory::FeedPosition;

use crate::{
    args::Global,
    output::{self, emit},
};

pub(super) async fn show(global: &Global) -> anyhow::Result<()> {
    let shown = super::peer(global)?.show().await?;
    emit(global.output, &shown, || {
        if !shown.initialised {
            return "the region is not initialised: run `meshctl region init`".to_owned();
        }
        let heads = ["node", "address", "zone", "weight", "votes", "share"];
        let mut table = output::table(&heads, &[0, 3, 5]);
        for node in &shown.nodes {
            table.add_row(vec![
                node.node.to_string(),
                node.address.clone(),
                node.zone.clone(),
                node.weight.to_string(),
                if node.voter { "yes" } else { "no" }.to_owned(),
                format!("{:.1} %", 100.0 * node.ownership),
            ]);
        }
        format!(
            "region {} · ring epoch {} · {} virtual nodes per weight · leader {} · position {} · feature level {}\n{table}",
            shown.region,
            shown.ring_epoch,
            shown.virtual_nodes,
            match shown.leader {
                0 => "unknown".to_owned(),
                leader => format!("node {leader}"),
            },
            index(shown.position.as_ref()),
            shown.feature_level,
        )
    })
}

/// The log index of a position.
pub(super) fn index(position: Option<&FeedPosition>) -> String {
    position.map_or_else(|| "-".to_owned(), |position| position.index.to_string())
}
