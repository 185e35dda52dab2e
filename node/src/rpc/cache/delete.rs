//! `Delete`: leaves tombstones, and answers when no node serves the blocks any more.
//!
//! Only the leader knows what the others have applied, so that it does all of the work;
//! another node passes the call on to it, once.

use kvmesh_client::{Problem, ToWire, convert};
use kvmesh_directory::{
    BlockKey, Command, FeedPosition, Namespace,
    command::Deletion,
    limits::{DELETE_NAMES_MAX, MESSAGE_BYTES_MAX},
};
use kvmesh_proto::v1::{self as wire, cache_client::CacheClient};
use tokio::time::{Duration, Instant, timeout_at};
use tonic::{Request, metadata::MetadataValue};

use super::{chain_of, namespace_of, range_of};
use crate::{Settings, consensus::ProposeError, node::Node};

/// Marks a call that another node has passed on.
pub(super) const PASSED_ON: &str = "kvmesh-passed-on";
/// Names of one call.
const NAMES_MAX: usize = 16 * DELETE_NAMES_MAX;
/// Pause while no leader is known.
const ELECTION_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn delete(
    node: &Node,
    request: wire::DeleteRequest,
    passed_on: bool,
) -> Result<wire::DeleteResponse, Problem> {
    let namespace = namespace_of(node, &request.namespace_id)?;
    let keys = keys_of(&request, &namespace)?;
    let deadline = Instant::now() + Settings::millis(node.settings.put_deadline_ms);
    loop {
        if node.consensus.leads() {
            match delete_here(node, &namespace, &keys, deadline).await {
                // It stopped to lead meanwhile. Deleting twice does no harm.
                Err(ProposeError::NotLeader) if !passed_on => {}
                other => return other.map_err(Problem::from),
            }
        } else if passed_on {
            return Err(ProposeError::NotLeader.into());
        } else if let Some(address) = node.consensus.leader_address() {
            match pass_on(node, &address, request.clone(), deadline).await {
                Err(status) if status.code() == tonic::Code::Unavailable => {}
                Err(status) => return Err(Problem::unavailable(status.message())),
                Ok(deleted) => return Ok(deleted),
            }
        }
        if timeout_at(deadline, tokio::time::sleep(ELECTION_PAUSE))
            .await
            .is_err()
        {
            return Err(Problem::OutOfTime("the delete"));
        }
    }
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

async fn pass_on(
    node: &Node,
    address: &str,
    request: wire::DeleteRequest,
    deadline: Instant,
) -> Result<wire::DeleteResponse, tonic::Status> {
    let channel = node.environment.channels.to(address);
    let channel = channel.map_err(|error| Problem::Internal(error.to_string()))?;
    let mut client = CacheClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut request = Request::new(request);
    request
        .metadata_mut()
        .insert(PASSED_ON, MetadataValue::from_static("1"));
    match timeout_at(deadline, client.delete(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Problem::OutOfTime("the delete").into()),
    }
}
