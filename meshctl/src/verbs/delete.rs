//! `meshctl delete`: makes blocks unreadable.

use kvmesh_directory::FeedPosition;
use serde::Serialize;

use crate::{
    args::{DeleteArgs, Global},
    chain::ChainFile,
    output::emit,
    rpc::position_text,
};

#[derive(Serialize)]
struct Done {
    deleted: u32,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
}

pub(super) async fn run(global: &Global, args: &DeleteArgs) -> anyhow::Result<()> {
    let chain = ChainFile::read(&args.chain.chain)?.chain;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.chain.namespace).await?;
    super::check_width(&chain, &namespace)?;
    let end = match args.count {
        0 => chain.len(),
        count => args.chain.start.saturating_add(count).min(chain.len()),
    };
    let what = format!(
        "deleting {} blocks of namespace {}, everywhere",
        end.saturating_sub(args.chain.start),
        namespace.name
    );
    super::aim(global, &peer, &what).await?;
    let cache = peer.cache(&namespace, &[])?;
    let deleted = cache.delete(&chain, args.chain.start, args.count).await?;
    let done = Done {
        deleted: deleted.names,
        position: Some(deleted.position),
    };
    emit(global.output, &done, || {
        format!(
            "deleted; {} blocks were present in this region, other regions follow",
            done.deleted
        )
    })
}
