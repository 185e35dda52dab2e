//! `meshctl node`: a region's nodes.

use crate::{
    args::Global,
    output::{self, emit},
    sizes::human,
};

pub(super) async fn list(global: &Global) -> anyhow::Result<()> {
    let shown = super::peer(global)?.show().await?;
    emit(global.output, &shown.nodes, || {
        let heads = [
            "node", "state", "start", "address", "copies", "bytes", "role",
        ];
        let mut table = output::table(&heads, &[0, 2, 4, 5]);
        for node in &shown.nodes {
            let role = match node.voter {
                _ if node.node == shown.leader => "leader",
                true => "voter",
                false => "follower",
            };
            table.add_row(vec![
                node.node.to_string(),
                node.state.to_owned(),
                node.incarnation.to_string(),
                node.address.clone(),
                node.blocks.to_string(),
                human(node.bytes),
                role.to_owned(),
            ]);
        }
        table.to_string()
    })
}
