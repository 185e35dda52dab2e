//! `meshctl stats`: counts of a region or a node.

use crate::{
    args::Global,
    output::{self, emit},
    sizes::human,
};

pub(super) async fn run(global: &Global) -> anyhow::Result<()> {
    let stats = super::peer(global)?.stats().await?;
    emit(global.output, &stats, || {
        let mut table = output::table(&["count", "value"], &[1]);
        let mut row = |what: &str, value: String| {
            table.add_row(vec![what.to_owned(), value]);
        };
        row("blocks", stats.blocks.to_string());
        row("copies", stats.copies.to_string());
        row("bytes of one copy each", human(stats.bytes));
        row(
            "blocks with copies missing",
            stats.under_replicated.to_string(),
        );
        row("deleted names remembered", stats.tombstones.to_string());
        row("namespaces", stats.namespaces.to_string());
        if stats.memory_max > 0 {
            let (used, max) = (human(stats.memory_used), human(stats.memory_max));
            row("block memory", format!("{used} of {max}"));
        }
        format!(
            "region {} · as a {} sees it · position {}\n{table}",
            stats.region,
            stats.role,
            super::topology::index(stats.position.as_ref())
        )
    })
}
