//! Forming a region: once, explicitly, by whoever operates it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future;
use kvmesh_client::{ToWire, random};
use kvmesh_directory::{
    Command, FeedPosition, LogIncarnation, Member, RegionId,
    command::Refusal,
    limits::{FEATURE_LEVEL, NODES_MAX},
};
use kvmesh_proto::v1 as wire;
use openraft::error::{InitializeError, RaftError};
use tokio::time::{self, Instant};
use tonic::Code;

use super::{
    admission::Admission, applied_here, error::ProposeError, group::Group, network, position_at,
    raft::Peer,
};
use crate::directory::SharedDirectory;

/// Between looks for the first leader.
const LOOK_AFTER: Duration = Duration::from_millis(20);
/// Before a voter that did not answer is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long one voter may take to answer that it is ready.
const PREPARE_MAX: Duration = Duration::from_secs(5);

/// A node as it may become one of a region's first voters.
#[derive(Clone)]
pub(super) struct FirstVoter {
    pub(super) group: Group,
    pub(super) directory: SharedDirectory,
    pub(super) admission: Arc<Admission>,
    /// Which it is set to belong to.
    pub(super) region: RegionId,
}

impl FirstVoter {
    /// Notes durably that this node's store may vote, unless the region exists. May be
    /// repeated. Returns the store's number.
    pub(super) async fn prepare(
        &self,
        region: &RegionId,
        members: &[Member],
    ) -> Result<u64, ProposeError> {
        self.belongs(region)?;
        let node = self.group.node;
        let votes = |member: &Member| member.node == node && member.voter;
        if !members.iter().any(votes) {
            let why = format!("node {node} is not among the voters that are listed");
            return Err(ProposeError::Invalid(why));
        }
        let admitted = self.admission.admit(&self.group.raft).await;
        admitted.map_err(|error| {
            let why = format!("node {node} cannot write its raft store: {error}");
            ProposeError::Invalid(why)
        })?;
        Ok(self.admission.store())
    }

    fn belongs(&self, region: &RegionId) -> Result<(), ProposeError> {
        if *region != self.region {
            let why = format!("this node belongs to region {}", self.region);
            return Err(ProposeError::Invalid(why));
        }
        match self.directory.with(|state| state.region().cloned()) {
            Some(region) => Err(Refusal::Initialised(region).into()),
            None => Ok(()),
        }
    }

    /// Every voter prepares; those that do not are named.
    async fn prepare_all(
        &self,
        region: &RegionId,
        log_incarnation: LogIncarnation,
        members: &[Member],
        deadline: Instant,
    ) -> Result<(), ProposeError> {
        let deadline = deadline.min(Instant::now() + PREPARE_MAX);
        let voters = members.iter().filter(|member| member.voter);
        let asked = voters.map(|voter| async move {
            let asked = async {
                if voter.node == self.group.node {
                    return self.prepare(region, members).await;
                }
                self.ask(voter, region, log_incarnation, members).await
            };
            let answer = time::timeout_at(deadline, asked).await;
            let answer = answer.unwrap_or_else(|_| {
                Err(ProposeError::NotReady(
                    "it did not answer in time".to_owned(),
                ))
            });
            (voter, answer)
        });
        let mut failed = Vec::new();
        for (voter, answer) in future::join_all(asked).await {
            match answer {
                Ok(_) => {}
                Err(initialised @ ProposeError::Refused(_)) => return Err(initialised),
                Err(error) => {
                    failed.push(format!("node {} at {}: {error}", voter.node, voter.address));
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let why = format!(
            "every voter must be up when the region is formed: {}",
            failed.join("; ")
        );
        Err(ProposeError::NotReady(why))
    }

    /// Asks until there is an answer: it may have been started just now.
    async fn ask(
        &self,
        voter: &Member,
        region: &RegionId,
        log_incarnation: LogIncarnation,
        members: &[Member],
    ) -> Result<u64, ProposeError> {
        let invalid = |why: String| ProposeError::Invalid(why);
        let channel = self.group.channels.to(&voter.address);
        let channel = channel.map_err(|error| invalid(error.to_string()))?;
        let request = wire::PrepareRequest {
            region: region.to_wire(),
            log_incarnation: log_incarnation.0,
            members: members.iter().map(ToWire::to_wire).collect(),
        };
        let mut client = network::client(channel);
        loop {
            match client.prepare(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner().store),
                Err(status) if status.code() == Code::AlreadyExists => {
                    return Err(Refusal::Initialised(region.clone()).into());
                }
                Err(status) if status.code() == Code::InvalidArgument => {
                    return Err(invalid(status.message().to_owned()));
                }
                Err(_) => time::sleep(ASK_AGAIN_AFTER).await,
            }
        }
    }

    /// Has all voters prepare, forms the Raft group unless it is formed, and commits the
    /// region.
    pub(super) async fn init_region(
        &self,
        region: RegionId,
        members: Vec<Member>,
        deadline: Instant,
    ) -> Result<FeedPosition, ProposeError> {
        self.belongs(&region)?;
        let (group, directory) = (&self.group, &self.directory);
        let voters = voters(group, &members)?;
        begun_with(group, &voters)?;
        let log_incarnation = LogIncarnation(random::in_range(1..=u64::MAX));
        self.prepare_all(&region, log_incarnation, &members, deadline)
            .await?;
        form(group, voters).await?;
        led(group, deadline).await?;
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

/// Whether these are the voters of a group that an earlier call has formed, if one has.
fn begun_with(group: &Group, voters: &BTreeMap<u64, Peer>) -> Result<(), ProposeError> {
    let metrics = group.raft.metrics();
    let formed: Vec<u64> = metrics.borrow().membership_config.voter_ids().collect();
    if formed.is_empty() || formed.iter().eq(voters.keys()) {
        return Ok(());
    }
    let why = format!("the raft group was begun with the voters {formed:?}: list the same");
    Err(ProposeError::Invalid(why))
}

async fn form(group: &Group, voters: BTreeMap<u64, Peer>) -> Result<(), ProposeError> {
    if group.is_formed() {
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
