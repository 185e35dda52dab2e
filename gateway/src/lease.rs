//! Leases of this region's blocks: who is asked for which block, and what a lease is called.
//!
//! A lease is taken at one holder of each block, in one call per node; what that holder does
//! not lease is asked of the next. The name that a client gets carries the nodes, so that any
//! gateway of the region can renew and release it: a gateway remembers none. Whoever does not
//! know the name cannot guess it, and under another namespace it is as if it never was.
//!
//! Not here: what a node may lease (it says so), nor the wire (`rpc::lease`, `rpc::hold`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use kvmesh_client::{Problem, lease::LeaseId};
use kvmesh_directory::{
    BlockKey, BlockName, DirectoryState, NamespaceId, NodeId,
    limits::{LEASE_BLOCKS_MAX, NODES_MAX, REPLICAS_MAX},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    context::Gateway,
    read::holders_in_turn,
    request::Query,
    rpc::hold::{self, Done, Failure, Wish},
};

/// Format of the names of leases.
const FORMAT: u8 = 1;
const ID_BYTES: usize = 16;
const NODE_BYTES: usize = 8;

/// A lease as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    id: LeaseId,
    /// Those that may have it, at least one.
    nodes: BTreeSet<NodeId>,
}

impl Token {
    /// The name, opaque to clients: format, id, nodes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut raw = BytesMut::with_capacity(1 + ID_BYTES + NODE_BYTES * self.nodes.len());
        raw.put_u8(FORMAT);
        raw.put_slice(&self.id.0);
        for node in &self.nodes {
            raw.put_u64(node.0);
        }
        raw.freeze()
    }

    /// Reads a name.
    pub(crate) fn decode(raw: &[u8]) -> Result<Self, &'static str> {
        let why = "it is not a lease that a gateway named";
        let (format, rest) = raw.split_first().ok_or(why)?;
        let (id, nodes) = rest.split_first_chunk::<ID_BYTES>().ok_or(why)?;
        let whole = nodes.len() % NODE_BYTES == 0;
        if *format != FORMAT || nodes.is_empty() || !whole || nodes.len() > NODES_MAX * NODE_BYTES {
            return Err(why);
        }
        let nodes = nodes.chunks_exact(NODE_BYTES).map(|raw| {
            let mut bytes = [0; NODE_BYTES];
            bytes.copy_from_slice(raw);
            NodeId(u64::from_be_bytes(bytes))
        });
        Ok(Self {
            id: LeaseId(*id),
            nodes: nodes.collect(),
        })
    }
}

/// What was leased.
#[derive(Debug)]
pub(crate) struct Taken {
    /// None: nothing is.
    pub(crate) token: Option<Token>,
    /// Blocks over all parts, each counted once.
    pub(crate) blocks: u32,
    /// The shortest that a node granted.
    pub(crate) hold_ms: u32,
    /// Of each query: positions from its start on that are leased without a hole.
    pub(crate) runs: Vec<u32>,
}

/// What became of a lease that was renewed or released.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) blocks: u32,
    pub(crate) hold_ms: u32,
    /// A node does not have it any more, or did not answer.
    pub(crate) partial: bool,
}

/// Who may hold a block, and who does.
struct Wanted {
    name: BlockName,
    untried: VecDeque<NodeId>,
    leased: bool,
}

/// Leases what this region holds of the chains without a hole from their starts on.
///
/// # Errors
/// When nothing could be leased because a limit is used up; nothing was done.
pub(crate) async fn take(
    gateway: &Arc<Gateway>,
    namespace: NamespaceId,
    queries: &[Query],
    hold_ms: u32,
    until: Instant,
) -> Result<Taken, Problem> {
    let mut wanted = wanted(gateway, namespace, queries);
    let mut asked = Asked::new(gateway, namespace);
    let (mut shortest, mut limit) = (u32::MAX, None);
    for _ in 0..REPLICAS_MAX {
        let round = round_of(&mut wanted, &asked.failed);
        if round.is_empty() || Instant::now() >= until {
            break;
        }
        let calls = round.into_iter().map(|(node, places)| {
            let key = |place: &usize| BlockKey {
                hash: wanted[*place].name.hash,
                part: wanted[*place].name.part,
            };
            let wish = Wish::Take(places.iter().map(key).collect(), hold_ms);
            asked.strays.insert(node);
            let lease = (namespace, asked.id);
            async move { (node, places, call(gateway, node, lease, wish, until).await) }
        });
        let calls: Vec<_> = calls.collect();
        for (node, places, done) in join_all(calls).await {
            match done {
                Ok(done) => {
                    let missing: BTreeSet<usize> =
                        done.missing.iter().map(|at| *at as usize).collect();
                    for (at, place) in places.into_iter().enumerate() {
                        wanted[place].leased = !missing.contains(&at);
                    }
                    asked.strays.remove(&node);
                    if done.blocks > 0 {
                        asked.holding.insert(node);
                        shortest = shortest.min(done.hold_ms);
                    }
                }
                Err(failure) => {
                    // What a node granted before stays named, whatever it said to this.
                    if asked.holding.contains(&node) {
                        asked.strays.remove(&node);
                    }
                    if let Failure::Exhausted(problem) = failure {
                        asked.strays.remove(&node);
                        limit = Some(problem);
                    }
                    asked.failed.insert(node);
                }
            }
        }
    }
    let blocks = wanted.iter().filter(|it| it.leased).count() as u32;
    if let (0, Some(limit)) = (blocks, limit) {
        return Err(limit);
    }
    let leased: BTreeSet<BlockName> = wanted
        .iter()
        .filter(|it| it.leased)
        .map(|it| it.name)
        .collect();
    let runs = queries.iter().map(|query| run(namespace, query, &leased));
    let runs = runs.collect();
    let nodes = std::mem::take(&mut asked.holding);
    Ok(Taken {
        token: (blocks > 0).then_some(Token {
            id: asked.id,
            nodes,
        }),
        blocks,
        hold_ms: if blocks > 0 { shortest } else { 0 },
        runs,
    })
}

/// The blocks of the local runs, each once, with their holders; as many as a lease may cover.
fn wanted(gateway: &Gateway, namespace: NamespaceId, queries: &[Query]) -> Vec<Wanted> {
    let turn = gateway.peers.turn();
    let (mut wanted, mut known) = (Vec::new(), BTreeSet::new());
    gateway.views.local.with(|state| {
        for query in queries {
            for index in query.start..query.chain.len() {
                let names = query.parts.iter();
                let names: Vec<BlockName> = names
                    .map(|&part| query.chain.name(namespace, index as u32, part))
                    .collect();
                let new: Vec<&BlockName> = names.iter().filter(|it| !known.contains(*it)).collect();
                let present = names.iter().all(|name| state.entry(name).is_some());
                if !present || wanted.len() + new.len() > LEASE_BLOCKS_MAX {
                    break;
                }
                for name in new {
                    wanted.push(Wanted {
                        name: *name,
                        untried: holders(gateway, state, name, turn),
                        leased: false,
                    });
                }
                known.extend(names);
            }
        }
    });
    wanted
}

fn holders(
    gateway: &Gateway,
    state: &DirectoryState,
    name: &BlockName,
    turn: usize,
) -> VecDeque<NodeId> {
    let entry = state.entry(name);
    let holders = entry.iter().flat_map(|entry| &entry.holders);
    let well = |node| {
        let alive = state.node(node).is_some_and(|record| record.alive);
        let member = state.topology().member(node);
        alive && member.is_some_and(|member| !gateway.peers.is_failing(&member.address))
    };
    let holders = holders.map(|copy| copy.node).collect();
    holders_in_turn(holders, name.point(), turn, well).into()
}

/// Whom to ask next for what is not leased: places in `wanted` by node.
fn round_of(wanted: &mut [Wanted], failed: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Vec<usize>> {
    let mut round: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (place, block) in wanted.iter_mut().enumerate() {
        if block.leased {
            continue;
        }
        while let Some(node) = block.untried.pop_front() {
            if !failed.contains(&node) {
                round.entry(node).or_default().push(place);
                break;
            }
        }
    }
    round
}

fn run(namespace: NamespaceId, query: &Query, leased: &BTreeSet<BlockName>) -> u32 {
    let is_leased = |index: &usize| {
        let mut parts = query.parts.iter();
        parts.all(|&part| leased.contains(&query.chain.name(namespace, *index as u32, part)))
    };
    (query.start..query.chain.len())
        .take_while(is_leased)
        .count() as u32
}

/// Holds a lease for `hold_ms` from now on (0: as long as its nodes like).
///
/// # Errors
/// When no node has it any more, or none could be asked.
pub(crate) async fn renew(
    gateway: &Arc<Gateway>,
    namespace: NamespaceId,
    token: &Token,
    hold_ms: u32,
    until: Instant,
) -> Result<Told, Problem> {
    tell(gateway, namespace, token, &Wish::Renew(hold_ms), until).await
}

/// Ends a lease; that one has ended already is no error.
///
/// # Errors
/// When none of its nodes could be asked.
pub(crate) async fn release(
    gateway: &Arc<Gateway>,
    namespace: NamespaceId,
    token: &Token,
    until: Instant,
) -> Result<Told, Problem> {
    match tell(gateway, namespace, token, &Wish::Release, until).await {
        Err(Problem::UnknownLease) => Ok(Told {
            blocks: 0,
            hold_ms: 0,
            partial: true,
        }),
        told => told,
    }
}

async fn tell(
    gateway: &Arc<Gateway>,
    namespace: NamespaceId,
    token: &Token,
    wish: &Wish,
    until: Instant,
) -> Result<Told, Problem> {
    let lease = (namespace, token.id);
    let calls = token.nodes.iter();
    let calls = calls.map(|node| call(gateway, *node, lease, wish.clone(), until));
    let (mut told, mut partial, mut why) = (None, false, None);
    for done in join_all(calls.collect::<Vec<_>>()).await {
        match done {
            Ok(done) => {
                let told = told.get_or_insert((0, u32::MAX));
                *told = (told.0 + done.blocks, told.1.min(done.hold_ms));
            }
            Err(Failure::Unknown) => partial = true,
            Err(Failure::Exhausted(problem)) => {
                (why, partial) = (Some(problem.to_string()), true);
            }
            Err(Failure::Unreachable(message) | Failure::Other(message)) => {
                (why, partial) = (Some(message), true);
            }
        }
    }
    match (told, why) {
        (Some((blocks, hold_ms)), _) => Ok(Told {
            blocks,
            hold_ms,
            partial,
        }),
        // Whoever did not answer may have it.
        (None, Some(why)) => Err(Problem::unavailable(format!(
            "no node of the lease answered: {why}"
        ))),
        (None, None) => Err(Problem::UnknownLease),
    }
}

/// One call to one node, as long as an owner may take.
async fn call(
    gateway: &Arc<Gateway>,
    node: NodeId,
    (namespace, lease): (NamespaceId, LeaseId),
    wish: Wish,
    until: Instant,
) -> Result<Done, Failure> {
    // A node that has left the region has let go of everything.
    let address = gateway.views.address(node).ok_or(Failure::Unknown)?;
    let until = until.min(Instant::now() + gateway.owner_timeout(0));
    let channel = gateway.peers.channel(&address);
    let channel = channel.map_err(|problem| Failure::Other(problem.to_string()))?;
    gateway.meters.outbound("Lease");
    let done = timeout_at(until, hold::ask(channel, namespace, lease, wish, until)).await;
    let done = done.unwrap_or_else(|_| Err(Failure::Other("it took too long".to_owned())));
    if let Err(Failure::Unreachable(_)) = &done {
        gateway.peers.failed(&address);
    }
    if let Err(failure) = &done {
        tracing::debug!(%node, ?failure, "a node did nothing about a lease");
    }
    done
}

/// Nodes that may have a lease which nobody will be told of: they are told to end it when
/// this is dropped, also when the caller went away in the middle.
struct Asked {
    gateway: Arc<Gateway>,
    namespace: NamespaceId,
    id: LeaseId,
    /// Who granted; once the name is made, none.
    holding: BTreeSet<NodeId>,
    /// Who was asked and gave no clear answer.
    strays: BTreeSet<NodeId>,
    /// Who is not asked again.
    failed: BTreeSet<NodeId>,
}

/// How long ending a lease that nobody knows of may take; it ends by itself anyway.
const TIDYING: Duration = Duration::from_secs(2);

impl Asked {
    fn new(gateway: &Arc<Gateway>, namespace: NamespaceId) -> Self {
        let words = [kvmesh_client::random::word(), kvmesh_client::random::word()];
        let mut id = [0; ID_BYTES];
        id[..8].copy_from_slice(&words[0].to_be_bytes());
        id[8..].copy_from_slice(&words[1].to_be_bytes());
        Self {
            gateway: Arc::clone(gateway),
            namespace,
            id: LeaseId(id),
            holding: BTreeSet::new(),
            strays: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut nodes = std::mem::take(&mut self.strays);
        nodes.append(&mut self.holding);
        if nodes.is_empty() {
            return;
        }
        let token = Token { id: self.id, nodes };
        let (gateway, namespace) = (Arc::clone(&self.gateway), self.namespace);
        let tasks = gateway.tasks.clone();
        tasks.spawn(async move {
            let until = Instant::now() + TIDYING;
            let _ = release(&gateway, namespace, &token, until).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_carries_its_nodes_and_nothing_else_is_read_as_one() {
        let token = Token {
            id: LeaseId([9; ID_BYTES]),
            nodes: [NodeId(1), NodeId(1 << 40)].into(),
        };
        let raw = token.encode();
        assert_eq!(Token::decode(&raw), Ok(token));
        let other_format = [&[FORMAT + 1], &raw[1..]].concat();
        let too_many = [&raw[..], &[0; NODE_BYTES * NODES_MAX]].concat();
        let wrong: [&[u8]; 6] = [
            &[],
            &raw[..1 + ID_BYTES],
            &raw[..raw.len() - 1],
            &raw[..9],
            &other_format,
            &too_many,
        ];
        for raw in wrong {
            assert!(Token::decode(raw).is_err(), "{raw:?}");
        }
    }
}
