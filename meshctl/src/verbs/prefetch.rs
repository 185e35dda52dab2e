//! `meshctl prefetch`: brings what other regions hold of a chain into this region.

use anyhow::ensure;
use kvmesh_client::client::{PrefetchEnd, PrefetchProgress};
use kvmesh_directory::FeedPosition;
use serde::Serialize;

use crate::{
    args::{Global, PrefetchArgs},
    chain::ChainFile,
    exit,
    output::emit,
    progress,
    rpc::position_text,
    sizes::human,
};

#[derive(Serialize)]
struct Done {
    handle: String,
    end: &'static str,
    done_blocks: u32,
    total_blocks: u32,
    done_bytes: u64,
    total_bytes: u64,
    failed_blocks: u32,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
}

impl Done {
    fn of(progress: PrefetchProgress) -> Self {
        Self {
            end: match progress.end {
                None => "under_way",
                Some(PrefetchEnd::Complete) => "complete",
                Some(PrefetchEnd::Partial) => "partial",
                Some(PrefetchEnd::Cancelled) => "cancelled",
                Some(PrefetchEnd::OutOfTime) => "out_of_time",
            },
            handle: progress.handle,
            done_blocks: progress.done_blocks,
            total_blocks: progress.total_blocks,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            failed_blocks: progress.failed_blocks,
            position: progress.position,
        }
    }
}

pub(super) async fn run(global: &Global, args: &PrefetchArgs) -> anyhow::Result<()> {
    let file = ChainFile::read(&args.chain.chain)?;
    let region = args.region.as_deref().map(str::parse).transpose();
    let region = region.map_err(|error| exit::set_up(format!("--region: {error}")))?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.chain.namespace).await?;
    super::check_width(&file.chain, &namespace)?;
    super::catch_up(&peer, &namespace, &file).await?;
    let cache = peer.cache(&namespace, &[])?;
    let bar = progress::count(0, "blocks");
    let told = |progress: &PrefetchProgress| {
        bar.set_length(progress.total_blocks.into());
        bar.set_position(progress.done_blocks.into());
    };
    let ended = cache.prefetch(&file.chain, args.chain.start, region, told);
    let done = Done::of(ended.await?);
    bar.finish_and_clear();
    emit(global.output, &done, || {
        format!(
            "{}: {} of {} blocks ({}) were brought here",
            done.end,
            done.done_blocks,
            done.total_blocks,
            human(done.done_bytes)
        )
    })?;
    ensure!(done.end == "complete", "the prefetch ended {}", done.end);
    Ok(())
}
