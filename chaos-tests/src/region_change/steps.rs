//! What is done to the region, in order.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};

use super::goes_on;
use crate::{
    load::Load,
    poll,
    site::{Comes, Site},
};

/// A process that is told to end finishes what it has in flight.
const END_BOUND: Duration = Duration::from_secs(60);
/// A node begins after its start.
const BEGIN_BOUND: Duration = Duration::from_secs(60);
/// Exit code of a program that cannot go on.
const CANNOT_GO_ON: i32 = 70;

/// One change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// SIGTERM, then started again.
    Restart(u64),
    /// The same with a gateway.
    RestartGateway(usize),
    /// A process wants a number that another node has, and ends.
    Impostor {
        /// The number.
        number: u64,
        /// It asks through this node.
        through: u64,
    },
    /// A node asks to join.
    Join {
        /// Its number.
        number: u64,
        /// It asks through this node.
        through: u64,
    },
    /// An operator makes a node that waits a member.
    JoinByHand(u64),
    /// A node leaves, with its blocks moved.
    Leave(u64),
    /// A node is killed and forgotten. Started again it ends.
    Forget(u64),
    /// A node's store is lost: it does not come back, and another number takes its place.
    Replace {
        /// Whose store is lost.
        old: u64,
        /// Who takes its place.
        new: u64,
    },
    /// A node is killed and started again.
    Kill(u64),
}

/// All of them; `every`: each node is restarted and not only one.
pub(super) fn all(every: bool) -> Vec<Step> {
    let mut restarted: Vec<Step> = match every {
        true => (1..=5).map(Step::Restart).collect(),
        false => vec![Step::Restart(1)],
    };
    restarted.extend([Step::RestartGateway(0), Step::RestartGateway(1)]);
    let changes = [
        Step::Impostor {
            number: 4,
            through: 5,
        },
        Step::Join {
            number: 6,
            through: 5,
        },
        Step::JoinByHand(7),
        // A voter, whose place another node takes.
        Step::Leave(2),
        Step::Forget(5),
        Step::Replace { old: 3, new: 8 },
        // Now the quorum needs those that have come to vote.
        Step::Kill(1),
    ];
    restarted.extend(changes);
    restarted
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart(node) => write!(f, "restart of node {node}"),
            Self::RestartGateway(gateway) => write!(f, "restart of gateway {}", gateway + 1),
            Self::Impostor { number, through } => {
                write!(
                    f,
                    "join as {number} through node {through}, which is refused"
                )
            }
            Self::Join { number, through } => {
                write!(f, "join of node {number} through node {through}")
            }
            Self::JoinByHand(node) => write!(f, "join of node {node} by hand"),
            Self::Leave(node) => write!(f, "leave of node {node}"),
            Self::Forget(node) => write!(f, "kill of node {node}, which is forgotten"),
            Self::Replace { old, new } => {
                write!(
                    f,
                    "loss of the store of node {old}, and node {new} in its place"
                )
            }
            Self::Kill(node) => write!(f, "kill of node {node}"),
        }
    }
}

impl Step {
    pub(super) async fn make(self, site: &mut Site, load: &Load) -> Result<()> {
        match self {
            Self::Restart(node) => restart(site, node).await,
            Self::RestartGateway(gateway) => restart_gateway(site, gateway).await,
            Self::Impostor { number, through } => impostor(site, number, through).await,
            Self::Join { number, through } => {
                let through = site.address(through)?;
                site.add(number, Comes::Asks(vec![through]))?;
                site.node(number)?.process.start().await?;
                joined(site, number).await
            }
            Self::JoinByHand(node) => join_by_hand(site, node).await,
            Self::Leave(node) => leave(site, node).await,
            Self::Forget(node) => forget(site, node).await,
            Self::Replace { old, new } => replace(site, old, new).await,
            Self::Kill(node) => kill(site, load, node).await,
        }
    }
}

async fn restart(site: &mut Site, node: u64) -> Result<()> {
    let before = incarnation(site, node).await?;
    site.node(node)?.process.terminate(END_BOUND).await?;
    site.node(node)?.process.start().await?;
    begun(site, node, before).await
}

async fn restart_gateway(site: &mut Site, gateway: usize) -> Result<()> {
    site.gateways[gateway].terminate(END_BOUND).await?;
    site.gateways[gateway].start().await?;
    poll::until("a gateway that serves", BEGIN_BOUND, async || {
        site.gateway_serves(gateway).await
    })
    .await
}

/// Whoever asks for what cannot be ends, and says why.
async fn impostor(site: &mut Site, number: u64, through: u64) -> Result<()> {
    let mut process = site.impostor(number, site.address(through)?)?;
    process.spawn()?;
    let (code, words) = process.ended(END_BOUND).await?;
    let why = format!(
        "number {number} belongs to the member at {}",
        site.address(number)?
    );
    ensure!(
        code == CANNOT_GO_ON && words.contains(&why),
        "it ended with {code}, and said {words}"
    );
    Ok(())
}

async fn join_by_hand(site: &mut Site, node: u64) -> Result<()> {
    site.add(node, Comes::Waits)?;
    site.node(node)?.process.start().await?;
    let (own, at) = (site.address(node)?, site.address(site.other(node)?)?);
    let (id, zone) = (node.to_string(), format!("zone-{node}"));
    let said = site
        .operator
        .json(&[
            "node",
            "join",
            "--node",
            &at,
            "--id",
            &id,
            "--address",
            &own,
            "--zone",
            &zone,
        ])
        .await?;
    ensure!(said["node"] == node, "meshctl node join printed {said}");
    joined(site, node).await
}

/// It has begun, and blocks have moved to it.
async fn joined(site: &Site, node: u64) -> Result<()> {
    begun(site, node, 0).await?;
    let what = format!("blocks at node {node}");
    poll::until(&what, BEGIN_BOUND, async || {
        let at = site.address(site.other(node)?)?;
        let listed = site.operator.json(&["node", "list", "--node", &at]).await?;
        let nodes = listed.as_array().context("no list of nodes")?;
        let known = nodes.iter().find(|it| it["node"] == node);
        let known = known.context("it is not listed")?;
        ensure!(
            known["blocks"].as_u64() > Some(0) && known["state"] == "alive",
            "it is listed as {known}"
        );
        Ok(())
    })
    .await
}

/// An operator takes a node out; it ends by itself, well.
async fn leave(site: &mut Site, node: u64) -> Result<()> {
    let (id, at) = (node.to_string(), site.address(node)?);
    // Asked at the node that leaves: meshctl goes on at another one.
    let leave = ["node", "leave", &id, "--node", &at];
    let said = site.operator.json(&leave).await?;
    ensure!(
        said["node"] == node && said["moving"] == false,
        "meshctl node leave printed {said}"
    );
    let (code, words) = site.node(node)?.process.ended(END_BOUND).await?;
    ensure!(
        code == 0 && words.contains("has left the region"),
        "node {node} ended with {code}: {words}"
    );
    site.nodes.remove(&node);
    Ok(())
}

async fn forget(site: &mut Site, node: u64) -> Result<()> {
    site.node(node)?.process.kill()?;
    forgotten(site, node).await?;
    // It has kept its store, and does not know yet.
    site.node(node)?.process.spawn()?;
    let (code, words) = site.node(node)?.process.ended(END_BOUND).await?;
    ensure!(
        code == CANNOT_GO_ON && words.contains("is no member of the region any more"),
        "node {node} ended with {code}: {words}"
    );
    site.nodes.remove(&node);
    Ok(())
}

async fn forgotten(site: &Site, node: u64) -> Result<()> {
    let (id, at) = (node.to_string(), site.address(site.other(node)?)?);
    let leave = ["node", "leave", &id, "--forget", "--node", &at];
    let said = site.operator.json(&leave).await?;
    ensure!(said["node"] == node, "meshctl node leave printed {said}");
    Ok(())
}

async fn replace(site: &mut Site, old: u64, new: u64) -> Result<()> {
    site.node(old)?.process.terminate(END_BOUND).await?;
    site.wipe(old)?;
    site.node(old)?.process.spawn()?;
    let (code, words) = site.node(old)?.process.ended(END_BOUND).await?;
    let why = format!("the Raft store of node {old} is not the one it had");
    ensure!(
        code == CANNOT_GO_ON && words.contains(&why),
        "node {old} ended with {code}: {words}"
    );
    forgotten(site, old).await?;
    site.nodes.remove(&old);
    // What only the lost node and another one held has to be made again before blocks move.
    site.whole("forgetting a node", super::WHOLE_BOUND).await?;
    let through = site.address(site.other(new)?)?;
    site.add(new, Comes::Asks(vec![through]))?;
    site.node(new)?.process.start().await?;
    joined(site, new).await
}

async fn kill(site: &mut Site, load: &Load, node: u64) -> Result<()> {
    let before = incarnation(site, node).await?;
    site.node(node)?.process.kill()?;
    goes_on(load, &format!("the kill of node {node}")).await?;
    site.node(node)?.process.start().await?;
    begun(site, node, before).await
}

async fn incarnation(site: &Site, node: u64) -> Result<u64> {
    let seen = site.see(site.other(node)?).await?;
    let known = seen.nodes.iter().find(|known| known.0 == node);
    Ok(known.context("the node is no member")?.1)
}

/// It lives, with a later incarnation than this.
async fn begun(site: &Site, node: u64, before: u64) -> Result<()> {
    let what = format!("the begin of node {node}");
    poll::until(&what, BEGIN_BOUND, async || {
        let seen = site.see(site.other(node)?).await?;
        let known = seen.nodes.iter().find(|known| known.0 == node);
        let &(_, now, alive) = known.context("it is no member")?;
        ensure!(now > before && alive, "it has not begun");
        Ok(())
    })
    .await
}
