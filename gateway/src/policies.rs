//! What an operator changes about a namespace, through any node of the region.

use kvmesh_client::Problem;
use kvmesh_directory::{FeedPosition, Hlc, Namespace, NamespaceId, Policy};
use tokio::time::Instant;

use crate::{
    asker::Asker,
    context::Gateway,
    manage::{on_some_node, shown_here},
    rpc::policy,
};

/// Nobody else may make these calls.
const OPERATOR: Asker = Asker::Near;

/// Changes a policy; says how the namespace then stands, and where views show it.
pub(crate) async fn set(
    gateway: &Gateway,
    namespace: NamespaceId,
    policy: &Policy,
    until: Instant,
) -> Result<(Namespace, FeedPosition), Problem> {
    gateway.views.fresh()?;
    let known = gateway.views.namespace(namespace, &OPERATOR)?;
    if let Some(why) = policy.impossible_regions(&known.description) {
        return Err(Problem::invalid("regions", why));
    }
    let answer = on_some_node(gateway, until, "SetPolicy", |channel, until| {
        policy::set(channel, namespace, policy, until)
    });
    let (set, at) = answer.await?;
    shown_here(gateway, &at, until).await;
    Ok((set, at))
}

/// Makes all blocks of a namespace unreadable; says from where on views do not show them.
pub(crate) async fn raise(
    gateway: &Gateway,
    namespace: NamespaceId,
    until: Instant,
) -> Result<(FeedPosition, Hlc), Problem> {
    gateway.views.fresh()?;
    gateway.views.namespace(namespace, &OPERATOR)?;
    let answer = on_some_node(gateway, until, "Raise", |channel, until| {
        policy::raise(channel, namespace, until)
    });
    let (at, generation) = answer.await?;
    shown_here(gateway, &at, until).await;
    Ok((at, generation))
}
