//! Calls that only the leader can answer, because only it knows what the others have applied.
//! Another node passes such a call on to it, once.

use std::time::Duration;

use futures::future::BoxFuture;
use kvmesh_client::{Problem, channel::Channel};
use tokio::time::{Instant, timeout_at};
use tonic::{
    Request, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{consensus::ProposeError, node::Node};

/// Marks a call that another node has passed on.
const PASSED_ON: &str = "kvmesh-passed-on";
/// Pause while no leader is known.
const ELECTION_PAUSE: Duration = Duration::from_millis(100);

/// Whether another node has passed the call on.
pub(super) fn passed_on(metadata: &MetadataMap) -> bool {
    metadata.contains_key(PASSED_ON)
}

/// A call on its way to the leader.
pub(super) fn to_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let mark = MetadataValue::from_static("1");
    request.metadata_mut().insert(PASSED_ON, mark);
    request
}

/// Answers here while this node leads, else at the leader's address, until `deadline`. Both
/// may happen more than once: repeating them does no harm.
pub(super) async fn at_leader<'a, T>(
    node: &Node,
    what: &'static str,
    passed_on: bool,
    deadline: Instant,
    here: impl Fn() -> BoxFuture<'a, Result<T, ProposeError>>,
    there: impl Fn(Channel) -> BoxFuture<'a, Result<T, Status>>,
) -> Result<T, Problem> {
    loop {
        if node.consensus.leads() {
            match here().await {
                // It stopped to lead meanwhile.
                Err(ProposeError::NotLeader) if !passed_on => {}
                other => return other.map_err(Problem::from),
            }
        } else if passed_on {
            return Err(ProposeError::NotLeader.into());
        } else if let Some(address) = node.consensus.leader_address() {
            let channel = node.environment.channels.to(&address);
            let channel = channel.map_err(|error| Problem::Internal(error.to_string()))?;
            match timeout_at(deadline, there(channel)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {}
                Ok(Err(status)) => {
                    let known = Problem::from_status(&status);
                    return Err(known.unwrap_or_else(|| Problem::unavailable(status.message())));
                }
                Err(_) => return Err(Problem::OutOfTime(what)),
            }
        }
        let pause = tokio::time::sleep(ELECTION_PAUSE);
        if timeout_at(deadline, pause).await.is_err() {
            return Err(Problem::OutOfTime(what));
        }
    }
}
