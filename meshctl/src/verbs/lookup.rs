//! `meshctl lookup`: how much of a chain is where.

use kvmesh_client::client::{self, LookupAnswer};
use kvmesh_directory::FeedPosition;
use serde::Serialize;

use crate::{
    args::{Global, LookupArgs},
    chain::ChainFile,
    output::{self, emit, ms},
    rpc::position_text,
    sizes::human,
};

#[derive(Serialize)]
struct Found {
    /// Blocks of the chain from the asked start on.
    asked: u32,
    local_blocks: u32,
    local_bytes: u64,
    pending_blocks: u32,
    mesh_blocks: u32,
    remote: Vec<RemoteRun>,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
    age_ms: u64,
    view_behind: bool,
    leased_blocks: u32,
    /// Hexadecimal; none: nothing is held.
    lease: Option<String>,
}

#[derive(Serialize)]
struct RemoteRun {
    region: String,
    blocks: u32,
    fetch_bytes: u64,
    estimated_fetch_ms: f64,
    rtt_ms: f64,
    estimated_recompute_ms: Option<f64>,
    advice: Option<String>,
    estimated_fetch_p95_ms: f64,
    /// Blocks before it are computed, those from it on fetched; counted from the start.
    split_at: Option<u32>,
    estimated_split_ms: Option<f64>,
    fetch_dollars: Option<f64>,
    recompute_dollars: Option<f64>,
}

impl Found {
    fn of(asked: u32, mut answer: LookupAnswer) -> Self {
        let matched = answer.matches.pop().unwrap_or_default();
        Self {
            asked,
            local_blocks: matched.local_blocks,
            local_bytes: matched.local_bytes,
            pending_blocks: matched.pending_blocks,
            mesh_blocks: matched.mesh_blocks,
            remote: matched.remote.into_iter().map(RemoteRun::of).collect(),
            position: answer.position,
            age_ms: u64::try_from(answer.age.as_millis()).unwrap_or(u64::MAX),
            view_behind: answer.view_behind,
            leased_blocks: matched.leased_blocks,
            lease: None,
        }
    }
}

impl RemoteRun {
    fn of(run: client::RemoteRun) -> Self {
        Self {
            region: run.region.to_string(),
            blocks: run.blocks,
            fetch_bytes: run.fetch_bytes,
            estimated_fetch_ms: run.estimated_fetch_ms,
            rtt_ms: run.rtt_ms,
            estimated_recompute_ms: run.estimated_recompute_ms,
            advice: run
                .advice
                .map(|advice| format!("{advice:?}").to_lowercase()),
            estimated_fetch_p95_ms: run.estimated_fetch_p95_ms,
            split_at: run.split_at,
            estimated_split_ms: run.estimated_split_ms,
            fetch_dollars: run.fetch_dollars,
            recompute_dollars: run.recompute_dollars,
        }
    }
}

impl RemoteRun {
    fn advised(&self) -> String {
        let advice = self.advice.as_deref().unwrap_or("-");
        match self.split_at {
            Some(at) => format!("{advice}, split at {at}"),
            None => advice.to_owned(),
        }
    }
}

pub(super) async fn run(global: &Global, args: &LookupArgs) -> anyhow::Result<()> {
    let (hold, args) = (args.hold, &args.chain);
    let file = ChainFile::read(&args.chain)?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace).await?;
    super::check_width(&file.chain, &namespace)?;
    super::catch_up(&peer, &namespace, &file).await?;
    let cache = peer.cache(&namespace, &[])?;
    let (answer, lease) = match hold {
        None => (cache.lookup(&file.chain, args.start).await?, None),
        Some(hold) => cache.lookup_held(&file.chain, args.start, hold).await?,
    };
    let mut found = Found::of(file.chain.len().saturating_sub(args.start), answer);
    found.lease = lease.map(|name| name.iter().map(|byte| format!("{byte:02x}")).collect());
    emit(global.output, &found, || {
        let heads = [
            "where",
            "blocks",
            "bytes to bring",
            "estimate",
            "rtt",
            "advice",
        ];
        let mut table = output::table(&heads, &[1, 2, 3, 4]);
        table.add_row(vec![
            "this region".to_owned(),
            format!("{} of {}", found.local_blocks, found.asked),
            "0 B".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
        ]);
        for run in &found.remote {
            table.add_row(vec![
                run.region.clone(),
                format!("{} of {}", run.blocks, found.asked),
                human(run.fetch_bytes),
                format!(
                    "{} to {}",
                    ms(run.estimated_fetch_ms),
                    ms(run.estimated_fetch_p95_ms)
                ),
                ms(run.rtt_ms),
                run.advised(),
            ]);
        }
        format!(
            "{} of {} blocks are in the mesh, {} of them in this region{}{}\n{table}",
            found.mesh_blocks,
            found.asked,
            found.local_blocks,
            match found.pending_blocks {
                0 => String::new(),
                pending => format!(", {pending} on their way"),
            },
            match (&found.lease, hold) {
                (Some(lease), _) => format!("; {} are held by lease {lease}", found.leased_blocks),
                (None, Some(_)) => "; none are held".to_owned(),
                (None, None) => String::new(),
            }
        )
    })
}
