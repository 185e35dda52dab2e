//! `meshctl node`: a region's nodes.

use std::time::Duration;

use kvmesh_client::tls::Role;
use kvmesh_directory::{Member, NodeId};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    args::{Global, JoinArgs, LeaveArgs},
    output::{self, emit},
    progress,
    rpc::{Peer, topology::Shown},
    sizes::human,
};

/// Between looks at how far blocks have moved.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Blocks that do not come to fewer for so long do not move.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn list(global: &Global) -> anyhow::Result<()> {
    let shown = super::peer(global)?.show().await?;
    emit(global.output, &shown.nodes, || {
        let heads = [
            "node", "state", "start", "address", "copies", "bytes", "role",
        ];
        let mut table = output::table(&heads, &[0, 2, 4, 5]);
        for node in &shown.nodes {
            let role = match node.voter {
                _ if node.node == shown.leader => "leader",
                true => "voter",
                false => "follower",
            };
            table.add_row(vec![
                node.node.to_string(),
                node.state.to_owned(),
                node.incarnation.to_string(),
                node.address.clone(),
                node.blocks.to_string(),
                human(node.bytes),
                role.to_owned(),
            ]);
        }
        format!("{table}{}", moving(&shown))
    })
}

/// A line for people; empty when nothing moves.
fn moving(shown: &Shown) -> String {
    let epoch = shown.ring_epoch;
    match (shown.moving, shown.move_blocks_left) {
        (false, _) => String::new(),
        (true, None) => format!("\nblocks move to ring epoch {epoch}"),
        (true, Some(blocks)) => {
            let bytes = human(shown.move_bytes_left);
            format!("\nblocks move to ring epoch {epoch}: {blocks} blocks, {bytes} left")
        }
    }
}

/// What joining or leaving came to.
#[derive(Serialize)]
struct Changed {
    node: u64,
    ring_epoch: u64,
    moving: bool,
}

pub(super) async fn join(global: &Global, join: &JoinArgs) -> anyhow::Result<()> {
    let peer = super::at(global, Some(Role::Node), global.node_address())?;
    let member = Member {
        node: NodeId(join.id),
        address: join.address.clone(),
        zone: join.zone.clone(),
        weight: join.weight,
        voter: join.voter,
    };
    let (ring_epoch, voter) = peer.join(&member).await?;
    let moving = peer.show().await?.moving;
    let changed = Changed {
        node: join.id,
        ring_epoch,
        moving,
    };
    emit(global.output, &changed, || {
        let role = if voter { "voter" } else { "follower" };
        format!(
            "node {} is a member ({role}) at ring epoch {ring_epoch}",
            join.id
        )
    })
}

pub(super) async fn leave(global: &Global, leave: &LeaveArgs) -> anyhow::Result<()> {
    let mut peer = super::at(global, Some(Role::Node), global.node_address())?;
    // Whoever leaves may not hear that it has left.
    let before = peer.show().await?;
    let other = before
        .nodes
        .iter()
        .find(|node| node.node != leave.id && matches!(node.state, "alive" | "joining"));
    let is_itself = |node: &&crate::rpc::topology::ShownNode| node.address == peer.address();
    if let (Some(other), true) = (
        other,
        before
            .nodes
            .iter()
            .filter(is_itself)
            .any(|node| node.node == leave.id),
    ) {
        peer = super::at(global, Some(Role::Node), &other.address)?;
    }
    let what = match leave.forget {
        true => format!("forgetting node {} and every copy on it", leave.id),
        false => format!("node {} leaves, its blocks move to the others", leave.id),
    };
    super::aim(global, &peer, &what).await?;
    let (ring_epoch, moving) = peer.leave(leave.id, leave.forget).await?;
    if moving && !leave.no_wait {
        wait(&peer, leave.id).await?;
    }
    let changed = Changed {
        node: leave.id,
        ring_epoch,
        moving: moving && leave.no_wait,
    };
    emit(global.output, &changed, || match changed.moving {
        true => format!(
            "node {} is off the ring at epoch {ring_epoch}; leave its process until \
             `meshctl node list` does not show it any more",
            leave.id
        ),
        false => format!(
            "node {} has left, at ring epoch {ring_epoch}: stop its process",
            leave.id
        ),
    })
}

/// Waits until blocks have moved, and says how many are left.
async fn wait(peer: &Peer, node: u64) -> anyhow::Result<()> {
    let (mut least, mut since, mut most) = (u64::MAX, Instant::now(), 0);
    let bar = progress::count(0, "blocks moved");
    loop {
        let shown = peer.show().await?;
        if !shown.moving {
            bar.finish_and_clear();
            return Ok(());
        }
        let left = shown.move_blocks_left.unwrap_or(u64::MAX);
        if left < least {
            (least, since) = (left, Instant::now());
        }
        if let Some(left) = shown.move_blocks_left {
            most = most.max(left);
            bar.set_length(most);
            bar.set_position(most - left);
        }
        anyhow::ensure!(
            since.elapsed() < PATIENCE,
            "blocks do not move any more: look at `meshctl node list` and at the nodes' memory; \
             a node whose copies may be lost can be removed with `meshctl node leave {node} --forget`"
        );
        sleep(LOOK_AFTER).await;
    }
}
