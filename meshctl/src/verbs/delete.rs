//! `meshctl delete`: makes blocks unreadable.

use crate::{
    args::{DeleteArgs, Global},
    chain::Chain,
    output::emit,
};

pub(super) async fn run(global: &Global, args: &DeleteArgs) -> anyhow::Result<()> {
    let chain = Chain::read(&args.chain.chain)?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.chain.namespace).await?;
    super::check_width(&chain, &namespace)?;
    let done = peer
        .delete(namespace.id, &chain, args.chain.start, args.count)
        .await?;
    emit(global.output, &done, || {
        format!(
            "deleted; {} blocks were present in this region, other regions follow",
            done.deleted
        )
    })
}
