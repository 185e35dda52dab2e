//! Forming a region: once, explicitly, by whoever operates it.

use std::{collections::BTreeMap, time::Duration};

use kvmesh_client::random;
use kvmesh_directory::{
    Command, FeedPosition, LogIncarnation, Member, RegionId,
    command::Refusal,
    limits::{FEATURE_LEVEL, NODES_MAX},
};
use openraft::error::{InitializeError, RaftError};
use tokio::time::{self, Instant};

use super::{applied_here, error::ProposeError, group::Group, position_at, raft::Peer};
use crate::directory::SharedDirectory;

/// Between looks for the first leader.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// Forms the Raft group unless it is formed, then commits the region.
pub(super) async fn init_region(
    group: &Group,
    directory: &SharedDirectory,
    region: RegionId,
    members: Vec<Member>,
    deadline: Instant,
) -> Result<FeedPosition, ProposeError> {
    if let Some(region) = directory.with(|state| state.region().cloned()) {
        return Err(Refusal::Initialised(region).into());
    }
    let voters = voters(group, &members)?;
    form(group, voters).await?;
    led(group, deadline).await?;
    let log_incarnation = LogIncarnation(random::in_range(1..=u64::MAX));
    let command = Command::InitRegion {
        region,
        log_incarnation,
        members,
        feature_level: FEATURE_LEVEL,
    };
    let (index, outcome) = group.propose(command, deadline).await?;
    applied_here(directory, index, deadline).await?;
    let position = position_at(directory, index).ok_or(ProposeError::NotInitialised)?;
    match outcome.refused {
        // A repeated proposal is refused by its own first commitment.
        Some(_) if position.log_incarnation == log_incarnation => Ok(position),
        Some(refusal) => Err(refusal.into()),
        None => Ok(position),
    }
}

fn voters(group: &Group, members: &[Member]) -> Result<BTreeMap<u64, Peer>, ProposeError> {
    if members.len() > NODES_MAX {
        let why = format!("a region has at most {NODES_MAX} members");
        return Err(ProposeError::Invalid(why));
    }
    let voters: BTreeMap<u64, Peer> = members
        .iter()
        .filter(|member| member.voter)
        .map(|member| {
            let address = member.address.clone();
            (member.node.0, Peer { address })
        })
        .collect();
    if !matches!(voters.len(), 1 | 3 | 5) {
        let why = format!(
            "{} members vote: let one (for trials), three or five vote",
            voters.len()
        );
        return Err(ProposeError::Invalid(why));
    }
    if !voters.contains_key(&group.node.0) {
        let why = format!("node {} does not vote: ask one that does", group.node);
        return Err(ProposeError::Invalid(why));
    }
    Ok(voters)
}

async fn form(group: &Group, voters: BTreeMap<u64, Peer>) -> Result<(), ProposeError> {
    if group.is_formed() {
        let metrics = group.raft.metrics();
        let formed = metrics.borrow().membership_config.voter_ids().count();
        if formed != voters.len() {
            let why = format!("the raft group was begun with {formed} voters: list the same");
            return Err(ProposeError::Invalid(why));
        }
        return Ok(());
    }
    match group.raft.initialize(voters).await {
        // Formed by a call beside this one, or by another member.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
            Err(ProposeError::Invalid(error.to_string()))
        }
        Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
    }
}

async fn led(group: &Group, deadline: Instant) -> Result<(), ProposeError> {
    while group.leader().is_none() {
        if Instant::now() >= deadline {
            return Err(ProposeError::NoLeader);
        }
        time::sleep(LOOK_AFTER).await;
    }
    Ok(())
}
