//! Looks into a mesh from outside, by the feeds and calls that its own processes use, and
//! says what is wrong with it once it should have healed.
//!
//! Not here: what clients were told (`oracle`).

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use kvmesh_client::{
    channel::Channels,
    follow::{MeshViewFollower, RegionFollower, SharedMeshView, SharedRegionView, Source},
};
use kvmesh_directory::{
    BlockKey, BlockName, DirectoryState, Incarnation, NodeId, Part, RegionId, mutation,
    view::mesh_blocks,
    words::{BlockHash, Tag},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    content::{Name, description},
    history::Present,
    net::environment,
    shape::address,
    shared::Shared,
    workload::{CHAINS, chain_of},
};

/// Follows every node and every region-sync.
pub(crate) struct Auditor {
    shared: Rc<Shared>,
    pub(crate) channels: Channels,
    /// By region and node.
    pub(crate) nodes: Vec<Vec<SharedRegionView>>,
    /// By region.
    meshes: Vec<SharedMeshView>,
    /// Losses seen, with the incarnation that the node had then.
    losses: Vec<(usize, NodeId, Incarnation)>,
    names: BTreeMap<BlockName, Name>,
    _tasks: TaskTracker,
}

impl Auditor {
    /// Begins to follow.
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        let shape = shared.shape;
        let channels = environment("operator").channels;
        let tasks = TaskTracker::new();
        let source = |host: &str| Source {
            channels: channels.clone(),
            addresses: vec![address(host)],
            instance: Arc::from("operator"),
        };
        let mut nodes = Vec::new();
        let mut meshes = Vec::new();
        for region in 0..shape.regions {
            let follow = |node| {
                let source = source(&shape.node(region, node));
                let (follower, view) = RegionFollower::new(source, id(shape.region(region)));
                tasks.spawn(follower.run(CancellationToken::new()));
                view
            };
            nodes.push((0..shape.nodes_of(region)).map(follow).collect());
            let source = source(&shape.region_sync(region));
            let (follower, view) = MeshViewFollower::new(source);
            tasks.spawn(follower.run(CancellationToken::new()));
            meshes.push(view);
        }
        Self {
            names: names(shared.namespaces),
            shared,
            channels,
            nodes,
            meshes,
            losses: Vec::new(),
            _tasks: tasks,
        }
    }

    /// Whether every block of a region has all its copies, on nodes that did not lose them.
    pub(crate) fn is_whole(&mut self, region: usize) -> bool {
        let Some(view) = self.newest(region) else {
            return false;
        };
        let known = self.losses.len();
        let history = self.shared.history.borrow();
        for loss in &history.losses[known..] {
            let node = NodeId(loss.node as u64 + 1);
            let view = self.newest(loss.region);
            let record = view.and_then(|view| view.with(|state| state.node(node).copied()));
            let incarnation = record.map_or(Incarnation(u64::MAX), |record| record.incarnation);
            self.losses.push((loss.region, node, incarnation));
        }
        let mut losses = self.losses.iter().filter(|(at, ..)| *at == region);
        let nodes = self.shared.nodes.borrow();
        view.with(|state| {
            let noticed = losses.all(|(_, node, incarnation)| match state.node(*node) {
                Some(now) => !now.alive || now.incarnation > *incarnation,
                None => nodes.has_left(region, node.0 as usize - 1),
            });
            noticed && state.stats().under_replicated == 0
        })
    }

    /// The nodes that a region has, from 0.
    pub(crate) fn members(&self, region: usize) -> Vec<usize> {
        let Some(view) = self.newest(region) else {
            return Vec::new();
        };
        view.with(|state| {
            let members = state.topology().members.iter();
            members.map(|member| member.node.0 as usize - 1).collect()
        })
    }

    /// The view that is furthest.
    pub(crate) fn newest(&self, region: usize) -> Option<SharedRegionView> {
        let views = self.nodes[region].iter();
        let known = views.filter(|view| view.position().is_some());
        known
            .max_by_key(|view| view.position().map(|at| at.index))
            .cloned()
    }

    /// The blocks of a region, with their copies.
    pub(crate) fn present(&self, region: usize) -> Present {
        let Some(view) = self.newest(region) else {
            return Present::new();
        };
        view.with(|state| {
            let entries = state.entries();
            entries
                .filter_map(|(name, entry)| {
                    let copies = entry.holders.len() as u32;
                    self.names.get(&name).map(|name| (*name, copies))
                })
                .collect()
        })
    }

    /// What is wrong with the replicas, in words.
    pub(crate) fn replicas(&self) -> Vec<String> {
        mutation::off(|| {
            let mut wrong = Vec::new();
            let left = self.shared.changes_left.get();
            if left > 0 {
                wrong.push(format!("{left} changes of nodes are not made"));
            }
            for region in 0..self.shared.shape.regions {
                self.nodes_agree(region, &mut wrong);
                self.mesh_is_true(region, &mut wrong);
                self.deletes_arrived(region, &mut wrong);
            }
            wrong
        })
    }

    fn nodes_agree(&self, region: usize, wrong: &mut Vec<String>) {
        let shape = self.shared.shape;
        let Some(newest) = self.newest(region) else {
            wrong.push(format!("{} is not known", shape.region(region)));
            return;
        };
        for node in self.members(region) {
            let (host, view) = (shape.node(region, node), &self.nodes[region][node]);
            let (at, want) = (view.position(), newest.position());
            if at != want {
                let index = |at: &Option<_>| {
                    at.as_ref()
                        .map(|at: &kvmesh_directory::FeedPosition| at.index)
                };
                let (at, want) = (index(&at), index(&want));
                wrong.push(format!("{host} is at {at:?}, another at {want:?}"));
            } else if !newest.with(|one| view.with(|other| equal(one, other))) {
                wrong.push(format!("{host} has another state at {at:?}"));
            }
        }
        newest.with(|state| {
            for record in state.nodes().filter(|record| !record.alive) {
                wrong.push(format!("{}: {} is dead", shape.region(region), record.node));
            }
            let topology = state.topology();
            let (voters, wanted) = (topology.voters(), topology.voters_wanted as usize);
            if topology.is_moving() || voters < wanted.min(topology.staying().count()) {
                wrong.push(format!(
                    "{}: {voters} of {wanted} vote, blocks move: {}",
                    shape.region(region),
                    topology.is_moving()
                ));
            }
            let lacking = state.stats().under_replicated;
            if lacking > 0 {
                wrong.push(format!("{}: {lacking} lack copies", shape.region(region)));
            }
        });
    }

    /// The mesh view of a region is what the others have.
    fn mesh_is_true(&self, region: usize, wrong: &mut Vec<String>) {
        let shape = self.shared.shape;
        let own = id(shape.region(region));
        for other in (0..shape.regions).filter(|other| *other != region) {
            let theirs = id(shape.region(other));
            let Some(newest) = self.newest(other) else {
                continue;
            };
            // Sizes are as last heard of any region, whose contents may differ: a hint.
            let want: BTreeSet<Tag> = newest.with(|state| {
                let blocks = mesh_blocks(state, &own);
                blocks.map(|(name, _)| name.tag()).collect()
            });
            let have = self.meshes[region].with(|mesh| mesh.tags_of(&theirs));
            let have: BTreeSet<Tag> = have.into_iter().map(|(tag, _)| tag).collect();
            if want != have {
                let missing = want.difference(&have).count();
                let extra = have.difference(&want).count();
                wrong.push(format!(
                    "the mesh view of {own} lacks {missing} blocks of {theirs}, and has {extra} \
                     that are not there"
                ));
            }
        }
    }

    /// What any region deleted is deleted in this one.
    fn deletes_arrived(&self, region: usize, wrong: &mut Vec<String>) {
        let shape = self.shared.shape;
        let Some(here) = self.newest(region) else {
            return;
        };
        for other in (0..shape.regions).filter(|other| *other != region) {
            let Some(newest) = self.newest(other) else {
                continue;
            };
            let late = newest.with(|theirs| {
                here.with(|ours| {
                    let tombstones = theirs.tombstones();
                    let late = tombstones.filter(|(name, tombstone)| {
                        let own = ours.tombstone(name);
                        own.is_none_or(|own| own.hlc < tombstone.hlc)
                    });
                    late.count()
                })
            });
            if late > 0 {
                wrong.push(format!(
                    "{late} deletes of {} have not arrived in {}",
                    shape.region(other),
                    shape.region(region)
                ));
            }
        }
    }
}

fn equal(one: &DirectoryState, other: &DirectoryState) -> bool {
    one.entries().eq(other.entries())
        && one.tombstones().eq(other.tombstones())
        && one.namespaces().eq(other.namespaces())
        && one.nodes().eq(other.nodes())
        && one.topology() == other.topology()
        && one.hlc_max() == other.hlc_max()
}

pub(crate) fn id(region: &str) -> RegionId {
    region.parse().expect("the regions' names are possible")
}

/// The directory's name of a block.
pub(crate) fn block_name(name: Name) -> BlockName {
    let hash = BlockHash::from_engine(&name.hash()).expect("the width is possible");
    let part = Part::default();
    BlockName::new(description(name.namespace).id(), BlockKey { hash, part })
}

/// All names of a run.
pub(crate) fn names(namespaces: u8) -> BTreeMap<BlockName, Name> {
    let chains = (0..namespaces)
        .flat_map(|namespace| (0..CHAINS).flat_map(move |chain| chain_of(namespace, chain)));
    chains.map(|name| (block_name(name), name)).collect()
}
