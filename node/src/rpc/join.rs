//! Asks to become a member, on a node whose settings say where: through any member that they
//! list, until it is one. One that is refused for good ends.

use std::sync::Arc;

use kvmesh_client::{Problem, ToWire};
use kvmesh_proto::v1::{self as wire, topology_client::TopologyClient};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::{Settings, consensus::Ended, node::Node};

/// Pauses between two rounds over the members, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Runs until this node is a member, or `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    if node.settings.now().join.is_empty() {
        return;
    }
    let joining = async {
        let mut pause = PAUSES.0;
        let mut applied = node.directory.applied();
        while !is_member(&node) {
            match ask_any(&node).await {
                Asked::Accepted(epoch) => {
                    info!(
                        epoch,
                        "this node is a member: it follows the log from now on"
                    );
                    return;
                }
                Asked::Refused(why) => {
                    let me = node.me;
                    return node.consensus.give_up(Ended::Refused { node: me, why });
                }
                Asked::Later(why) => warn!(why, "this node has not joined yet"),
            }
            let listed = applied.wait_for(|_| is_member(&node));
            let _ = timeout(pause, listed).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    };
    stop.run_until_cancelled(joining).await;
}

fn is_member(node: &Node) -> bool {
    let known = |state: &kvmesh_directory::DirectoryState| state.node(node.me).is_some();
    node.directory.with(known)
}

enum Asked {
    Accepted(u64),
    /// Asking again as it is does not help.
    Refused(String),
    Later(String),
}

async fn ask_any(node: &Node) -> Asked {
    let mut last = String::new();
    for address in &node.settings.now().join {
        match ask(node, address).await {
            Ok(epoch) => return Asked::Accepted(epoch),
            Err(status) => {
                let why = format!("{address}: {}", status.message());
                if matches!(
                    status.code(),
                    Code::InvalidArgument | Code::PermissionDenied
                ) {
                    return Asked::Refused(why);
                }
                last = why;
            }
        }
    }
    Asked::Later(last)
}

async fn ask(node: &Node, address: &str) -> Result<u64, Status> {
    let channel = node.environment.channels.to(address);
    let channel = channel.map_err(|error| Problem::invalid("join", error))?;
    let request = wire::JoinRequest {
        member: Some(node.settings.now().own_member().to_wire()),
    };
    let until = Instant::now() + Settings::millis(node.settings.now().put_deadline_ms);
    let mut client = TopologyClient::new(channel);
    let answer = timeout_at(until, client.join(request)).await;
    let answer = answer.map_err(|_| Status::from(Problem::OutOfTime("the join")))??;
    Ok(answer.into_inner().ring_epoch)
}
