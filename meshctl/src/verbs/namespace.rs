//! `meshctl namespace`: make one known, list all.

use kvmesh_directory::{Description, Namespace};
use serde::Serialize;

use crate::{
    args::{Global, NamespaceOpenArgs},
    exit,
    output::{self, emit},
};

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    model: String,
    dtype: String,
    layout: String,
    block_tokens: u32,
    hash_width: u32,
    shards: u32,
    groups: u32,
    tenant: String,
    replicas: u32,
    ttl_ms: u64,
    fallback: String,
}

impl Row {
    fn of(namespace: &Namespace) -> Self {
        let description = &namespace.description;
        Self {
            id: namespace.id.to_string(),
            name: namespace.name.clone(),
            model: description.model.clone(),
            dtype: description.dtype.clone(),
            layout: description.layout.clone(),
            block_tokens: description.block_tokens,
            hash_width: description.hash_width,
            shards: description.shard_count,
            groups: description.group_count,
            tenant: description.tenant.clone(),
            replicas: namespace.policy.replicas,
            ttl_ms: namespace.policy.ttl_ms,
            fallback: format!("{:?}", namespace.policy.fallback),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let heads = [
        "name", "id", "model", "tokens", "replicas", "ttl", "fallback",
    ];
    let mut table = output::table(&heads, &[3, 4, 5]);
    for row in rows {
        table.add_row(vec![
            row.name.clone(),
            row.id.clone(),
            row.model.clone(),
            row.block_tokens.to_string(),
            row.replicas.to_string(),
            match row.ttl_ms {
                0 => "none".to_owned(),
                ttl => format!("{} s", ttl / 1_000),
            },
            row.fallback.clone(),
        ]);
    }
    table.to_string()
}

pub(super) async fn open(global: &Global, open: NamespaceOpenArgs) -> anyhow::Result<()> {
    let mut residency = open.residency;
    residency.sort_unstable();
    residency.dedup();
    let description = Description {
        model: open.model,
        dtype: open.dtype,
        layout: open.layout,
        block_tokens: open.block_tokens,
        hash_width: open.hash_width,
        short_hashes: open.short_hashes,
        shard_count: open.shards,
        group_count: open.groups,
        tenant: open.tenant,
        salt: open.salt.into_bytes(),
        residency,
    };
    description
        .check()
        .map_err(|error| exit::set_up(error.to_string()))?;
    let opened = super::peer(global)?
        .open(&description, &open.name, &open.template)
        .await?;
    let row = Row::of(opened.namespace());
    emit(global.output, &row, || table(std::slice::from_ref(&row)))
}

pub(super) async fn list(global: &Global) -> anyhow::Result<()> {
    let namespaces = super::peer(global)?.namespaces().await?;
    let rows: Vec<Row> = namespaces.iter().map(Row::of).collect();
    emit(global.output, &rows, || table(&rows))
}
