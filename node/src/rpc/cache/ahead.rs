//! Which blocks a reader of a chain will want next, of those that only the disk has here.
//!
//! How far ahead is the namespace's policy. Who asks for byte ranges wants no whole blocks,
//! and wishes for none.

use kvmesh_directory::{BlockHash, BlockName, Namespace, Part};

use crate::node::Node;

/// Blocks ahead of one reader, at most.
const DEPTH_MAX: usize = 64;
/// Copies that one step wishes for, at most: a reader of many parts leaves room to others.
const STEP_MAX: usize = 64;

/// One reader.
pub(super) struct Ahead<'a> {
    node: &'a Node,
    namespace: &'a Namespace,
    parts: &'a [Part],
    /// What is read, in order.
    wanted: Vec<BlockHash>,
    /// How the chain goes on: who reads a part of it often comes for the next.
    rest: &'a [BlockHash],
    depth: usize,
    /// Places before it were wished for.
    next: usize,
}

impl<'a> Ahead<'a> {
    /// Of a reader of a chain who wants the blocks at these indexes.
    pub(super) fn of(
        node: &'a Node,
        namespace: &'a Namespace,
        hashes: &'a [BlockHash],
        parts: &'a [Part],
        indexes: &[usize],
    ) -> Self {
        let depth = match node.store.has_disk() {
            true => namespace.policy.prefetch_blocks as usize,
            false => 0,
        };
        let wanted = match depth {
            0 => Vec::new(),
            _ => indexes.iter().map(|index| hashes[*index]).collect(),
        };
        Self {
            node,
            namespace,
            parts,
            wanted,
            rest: &hashes[indexes.last().map_or(0, |last| last + 1)..],
            depth: depth.min(DEPTH_MAX),
            next: 0,
        }
    }

    /// Wishes for what comes from a place on, which is read next.
    pub(super) fn from(&mut self, place: usize) {
        let end = (place + self.depth).min(self.wanted.len() + self.rest.len());
        self.next = self.next.max(place);
        let (mut soon, mut later) = (Vec::new(), Vec::new());
        while self.next < end && soon.len() + later.len() < STEP_MAX {
            let wanted = self.wanted.get(self.next);
            let keys = match wanted {
                Some(_) => &mut soon,
                None => &mut later,
            };
            let hash = *wanted.unwrap_or_else(|| &self.rest[self.next - self.wanted.len()]);
            let names = self.parts.iter().map(|part| BlockName {
                namespace: self.namespace.id,
                hash,
                part: *part,
            });
            keys.extend(names.filter_map(|name| Some(self.node.listed(&name)?.1)));
            self.next += 1;
        }
        for (keys, soon) in [(soon, true), (later, false)] {
            if !keys.is_empty() {
                self.node.store.read_ahead(&keys, soon);
            }
        }
    }
}
