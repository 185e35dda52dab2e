//! `meshctl lookup`: how much of a chain is where.

use crate::{
    args::{ChainArgs, Global},
    chain::Chain,
    output::{self, emit, ms},
    sizes::human,
};

pub(super) async fn run(global: &Global, args: &ChainArgs) -> anyhow::Result<()> {
    let chain = Chain::read(&args.chain)?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace).await?;
    super::check_width(&chain, &namespace)?;
    super::catch_up(&peer, namespace.id, &chain).await?;
    let found = peer.lookup(namespace.id, &chain, args.start, &[]).await?;
    emit(global.output, &found, || {
        let heads = ["where", "blocks", "bytes to bring", "estimate", "rtt"];
        let mut table = output::table(&heads, &[1, 2, 3, 4]);
        table.add_row(vec![
            "this region".to_owned(),
            format!("{} of {}", found.local_blocks, found.asked),
            "0 B".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
        ]);
        for run in &found.remote {
            table.add_row(vec![
                run.region.clone(),
                format!("{} of {}", run.blocks, found.asked),
                human(run.fetch_bytes),
                ms(run.estimated_fetch_ms),
                ms(run.rtt_ms),
            ]);
        }
        format!(
            "{} of {} blocks are in the mesh, {} of them in this region{}\n{table}",
            found.mesh_blocks,
            found.asked,
            found.local_blocks,
            match found.pending_blocks {
                0 => String::new(),
                pending => format!(", {pending} on their way"),
            }
        )
    })
}
