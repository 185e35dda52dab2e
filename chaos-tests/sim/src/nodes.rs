//! How far each node of a run is: a member from the beginning, or one that comes or goes.

use std::collections::BTreeMap;

use kvmesh_directory::DirectoryState;

use crate::{
    changes::{Change, ChangeKind},
    shape::Shape,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is to join later, and does not run yet.
    Absent,
    /// It was started, and asks to join.
    Joining,
    Member,
    /// It was asked to leave, perhaps without an answer yet.
    Leaving,
    /// Its process has ended.
    Left,
}

/// By region and node, from 0.
pub(crate) struct Nodes(BTreeMap<(usize, usize), Standing>);

impl Nodes {
    pub(crate) fn new(shape: Shape) -> Self {
        let all = (0..shape.regions)
            .flat_map(|region| (0..shape.nodes_of(region)).map(move |node| (region, node)));
        let standing = |(region, node)| match node < shape.nodes {
            true => ((region, node), Standing::Member),
            false => ((region, node), Standing::Absent),
        };
        Self(all.map(standing).collect())
    }

    pub(crate) fn joining(&mut self, region: usize, node: usize) {
        self.0.insert((region, node), Standing::Joining);
    }

    pub(crate) fn leaving(&mut self, region: usize, node: usize) {
        self.0.insert((region, node), Standing::Leaving);
    }

    /// A region's directory, as an auditor sees it.
    pub(crate) fn see(&mut self, region: usize, state: &DirectoryState) {
        for ((of, node), standing) in &mut self.0 {
            let record = || state.node(kvmesh_directory::NodeId(*node as u64 + 1));
            if *of == region && *standing == Standing::Joining {
                let began = record().is_some_and(|record| record.incarnation.0 > 0);
                *standing = if began { Standing::Member } else { *standing };
            }
        }
    }

    /// A process has ended by itself. Whether it may.
    pub(crate) fn ended(&mut self, region: usize, node: usize) -> bool {
        let standing = self.0.get_mut(&(region, node));
        let Some(standing) = standing.filter(|standing| **standing == Standing::Leaving) else {
            return false;
        };
        *standing = Standing::Left;
        true
    }

    /// Whether its process is to run.
    pub(crate) fn runs(&self, region: usize, node: usize) -> bool {
        let standing = self.0.get(&(region, node));
        standing.is_some_and(|it| !matches!(it, Standing::Absent | Standing::Left))
    }

    pub(crate) fn has_left(&self, region: usize, node: usize) -> bool {
        self.0.get(&(region, node)) == Some(&Standing::Left)
    }

    pub(crate) fn is_made(&self, change: &Change) -> bool {
        let standing = self.0.get(&(change.region, change.node));
        match change.kind {
            ChangeKind::Join => !matches!(standing, Some(Standing::Absent | Standing::Joining)),
            ChangeKind::Leave => standing == Some(&Standing::Left),
        }
    }
}
