//! `meshctl namespace show`, `set` and `raise`: one namespace, its policy, its generation.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use kvmesh_directory::{FeedPosition, Hlc, Namespace};
use serde::Serialize;

use crate::{
    args::{Global, NamespaceArgs, NamespaceRaiseArgs, NamespaceSetArgs},
    exit,
    output::{self, emit},
    rpc::position_text,
};

#[derive(Serialize)]
struct Shown {
    id: String,
    name: String,
    model: String,
    dtype: String,
    layout: String,
    block_tokens: u32,
    hash_width: u32,
    short_hashes: bool,
    shards: u32,
    groups: u32,
    tenant: String,
    replicas: u32,
    ack: String,
    ttl_ms: u64,
    quota_permille: u32,
    fallback: String,
    replication: String,
    regions: Vec<String>,
    hot_after: u32,
    lossy: bool,
    prefetch_blocks: u32,
    prefill_rate: f64,
    /// Tokens.
    attention_growth: f64,
    dollars_per_gpu_hour: f64,
    /// Region that wrote the policy last.
    policy_region: String,
    /// When, in milliseconds since 1970.
    policy_written_ms: u64,
    /// Blocks put at or before it are unreadable: milliseconds since 1970; 0: never raised.
    generation_ms: u64,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
}

impl Shown {
    fn of(namespace: &Namespace, position: Option<FeedPosition>) -> Self {
        let (description, policy) = (&namespace.description, &namespace.policy);
        Self {
            id: namespace.id.to_string(),
            name: namespace.name.clone(),
            model: description.model.clone(),
            dtype: description.dtype.clone(),
            layout: description.layout.clone(),
            block_tokens: description.block_tokens,
            hash_width: description.hash_width,
            short_hashes: description.short_hashes,
            shards: description.shard_count,
            groups: description.group_count,
            tenant: description.tenant.clone(),
            replicas: policy.replicas,
            ack: format!("{:?}", policy.ack),
            ttl_ms: policy.ttl_ms,
            quota_permille: policy.quota_permille,
            fallback: format!("{:?}", policy.fallback),
            replication: format!("{:?}", policy.replication),
            regions: policy.regions.iter().map(ToString::to_string).collect(),
            hot_after: policy.hot_after,
            lossy: policy.lossy,
            prefetch_blocks: policy.prefetch_blocks,
            prefill_rate: policy.prefill_rate,
            attention_growth: policy.attention_growth,
            dollars_per_gpu_hour: policy.dollars_per_gpu_hour,
            policy_region: namespace.policy_region.to_string(),
            policy_written_ms: namespace.policy_hlc.millis(),
            generation_ms: namespace.generation.millis(),
            position,
        }
    }

    fn keep(&self) -> String {
        let mode = &self.replication;
        match self.regions.as_slice() {
            [] => mode.clone(),
            regions => format!("{mode} ({})", regions.join(", ")),
        }
    }

    fn table(&self) -> String {
        let mut table = output::table(&["what", "is"], &[]);
        let mut row = |what: &str, is: String| {
            table.add_row(vec![what.to_owned(), is]);
        };
        row("name", self.name.clone());
        row("id", self.id.clone());
        row(
            "model",
            format!("{}, {}, layout {}", self.model, self.dtype, self.layout),
        );
        row(
            "block",
            format!(
                "{} tokens, hash of {} bytes",
                self.block_tokens, self.hash_width
            ),
        );
        row(
            "parts",
            format!("{} shards x {} groups", self.shards, self.groups),
        );
        row("tenant", self.tenant.clone());
        row(
            "replicas",
            format!("{}, puts acknowledged {}", self.replicas, self.ack),
        );
        row(
            "ttl",
            match self.ttl_ms {
                0 => "none".to_owned(),
                ttl => format!("{} s", ttl / 1_000),
            },
        );
        row(
            "quota",
            format!("{} permille of each node's memory", self.quota_permille),
        );
        row(
            "other regions",
            format!("fetch {}, keep {}", self.fallback, self.keep()),
        );
        row(
            "between regions",
            match self.lossy {
                true => "may be rounded to 8 bits".to_owned(),
                false => "exact".to_owned(),
            },
        );
        row(
            "prefill rate",
            match self.prefill_rate {
                0.0 => "learnt from reports".to_owned(),
                rate => format!("{rate} tokens/s"),
            },
        );
        row(
            "attention",
            match self.attention_growth {
                0.0 => "does not count".to_owned(),
                tokens => format!("doubles the time at {tokens} tokens"),
            },
        );
        row(
            "GPU hour",
            match self.dollars_per_gpu_hour {
                0.0 => "price not known".to_owned(),
                dollars => format!("{dollars} dollars"),
            },
        );
        let written = format!("by {} at {} ms", self.policy_region, self.policy_written_ms);
        row("policy", written);
        row(
            "generation",
            match self.generation_ms {
                0 => "never raised".to_owned(),
                at => format!("raised at {at} ms"),
            },
        );
        let position = super::topology::index(self.position.as_ref());
        row("position", position);
        table.to_string()
    }
}

pub(super) async fn show(global: &Global, args: &NamespaceArgs) -> anyhow::Result<()> {
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.name).await?;
    let position = peer.namespaces_at().await?.1;
    let shown = Shown::of(&namespace, position);
    emit(global.output, &shown, || shown.table())
}

pub(super) async fn set(global: &Global, args: &NamespaceSetArgs) -> anyhow::Result<()> {
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace.name).await?;
    let policy = args.policy.over(&namespace.policy);
    let (namespace, position) = peer.set_policy(namespace.id, &policy).await?;
    let shown = Shown::of(&namespace, position);
    emit(global.output, &shown, || shown.table())
}

#[derive(Serialize)]
struct Raised {
    id: String,
    region: String,
    generation_ms: u64,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
}

pub(super) async fn raise(global: &Global, args: &NamespaceRaiseArgs) -> anyhow::Result<()> {
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace.name).await?;
    let what = format!(
        "all blocks of namespace {} ({}) become unreadable, here at once and in the other \
         regions as they hear of it; this cannot be undone",
        namespace.name, namespace.id
    );
    let region = super::aim(global, &peer, &what).await?;
    if !args.yes {
        confirm(&namespace.name)?;
    }
    let (position, generation): (_, Hlc) = peer.raise(namespace.id).await?;
    let raised = Raised {
        id: namespace.id.to_string(),
        region,
        generation_ms: generation.millis(),
        position,
    };
    emit(global.output, &raised, || {
        format!(
            "raised; no block of {} that was put before is read from now on",
            namespace.name
        )
    })
}

/// Asks on a terminal; elsewhere `--yes` must say it.
fn confirm(name: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        return Err(exit::set_up(
            "nothing was done: this is no terminal to ask at, add --yes if you mean it",
        ));
    }
    eprint!("type the namespace's name to go on: ");
    io::stderr().flush().context("standard error is closed")?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("nothing was typed")?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(exit::set_up("nothing was done: the name was not typed"))
}
