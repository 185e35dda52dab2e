//! `Delete`: leaves tombstones, and answers when no node serves the blocks any more.
//!
//! The leader does all of the work, see `leading`.

use futures::FutureExt;
use kvmesh_client::{Problem, ToWire, channel::Channel, convert};
use kvmesh_directory::{
    BlockKey, Command, FeedPosition, Namespace,
    command::Deletion,
    limits::{DELETE_NAMES_MAX, MESSAGE_BYTES_MAX},
};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use tokio::time::Instant;
use tonic::Status;

use super::{chain_of, namespace_of, range_of};
use crate::{
    Settings,
    consensus::ProposeError,
    node::Node,
    rpc::leading::{at_leader, to_leader},
};

/// Names of one call.
const NAMES_MAX: usize = 16 * DELETE_NAMES_MAX;

pub(super) async fn delete(
    node: &Node,
    request: wire::DeleteRequest,
    passed_on: bool,
) -> Result<wire::DeleteResponse, Problem> {
    let namespace = namespace_of(node, &request.namespace_id)?;
    let keys = keys_of(&request, &namespace)?;
    let deadline = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let here = || delete_here(node, &namespace, &keys, deadline).boxed();
    let there = |channel| delete_there(channel, request.clone()).boxed();
    at_leader(node, "the delete", passed_on, deadline, here, there).await
}

fn keys_of(request: &wire::DeleteRequest, namespace: &Namespace) -> Result<Vec<BlockKey>, Problem> {
    let hashes = chain_of(request.chain.as_ref(), namespace)?;
    let range = range_of(request.start, request.count, hashes.len())?;
    let parts = match request.parts.is_empty() {
        true => namespace.description.parts().collect(),
        false => convert::parts(&request.parts, &namespace.description)?,
    };
    if range.len() * parts.len() > NAMES_MAX {
        let why = format!("over {NAMES_MAX} blocks over all parts: split the call");
        return Err(Problem::invalid("count", why));
    }
    let of_hash = |hash: &kvmesh_directory::BlockHash| {
        let hash = *hash;
        parts.iter().map(move |part| BlockKey { hash, part: *part })
    };
    Ok(hashes[range].iter().flat_map(of_hash).collect())
}

async fn delete_here(
    node: &Node,
    namespace: &Namespace,
    keys: &[BlockKey],
    deadline: Instant,
) -> Result<wire::DeleteResponse, ProposeError> {
    let mut deleted = 0;
    let mut last: Option<FeedPosition> = None;
    for keys in keys.chunks(DELETE_NAMES_MAX) {
        let deletion = Deletion {
            namespace: namespace.id,
            keys: keys.to_vec(),
            hlc: node.stamp(),
        };
        let command = Command::Delete(deletion);
        let (position, outcome) = node.consensus.propose(command, deadline).await?;
        deleted += outcome.deleted;
        last = Some(position);
    }
    if let Some(position) = &last {
        node.consensus
            .applied_by_all(position.index, deadline)
            .await?;
    }
    Ok(wire::DeleteResponse {
        position: last.map(|position| position.to_wire()),
        deleted,
    })
}

async fn delete_there(
    channel: Channel,
    request: wire::DeleteRequest,
) -> Result<wire::DeleteResponse, Status> {
    let mut client = CacheClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let answer = client.delete(to_leader(request)).await?;
    Ok(answer.into_inner())
}
