//! Blocks as they become ready: what memory has does not wait for what the disk reads.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use kvmesh_client::ranges::RangesError;
use kvmesh_directory::{BlockName, Part, state::Entry};

use super::{Body, End, How, Serving, Wanted};
use crate::node::Node;

/// Blocks that are read at a time, and so held for a reader that is slow.
const READS_AT_ONCE: usize = 4;

/// A block that was read, and its place among the wanted indexes.
struct Read {
    place: usize,
    part: Part,
    found: Result<Option<(Body, Entry)>, RangesError>,
}

async fn read(node: Arc<Node>, place: usize, name: BlockName, how: How) -> Read {
    Read {
        place,
        part: name.part,
        found: Body::read(&node, &name, &how).await,
    }
}

impl Serving {
    /// As [`Serving::blocks`], in any order. Where a hole ends the run, nothing that lies behind
    /// it is sent any more.
    pub(super) async fn blocks_any(&mut self, wanted: &Wanted, run: &mut u32) -> Result<bool, End> {
        let parts = wanted.parts.len();
        let mut lacking = vec![parts; wanted.indexes.len()];
        // Of a range: the first place of which something is not here.
        let mut hole = wanted.indexes.len();
        let mut reads = FuturesUnordered::new();
        let mut next = 0;
        let node = Arc::clone(&self.node);
        let mut ahead = wanted.ahead(&node);
        loop {
            while reads.len() < READS_AT_ONCE && next < hole * parts {
                let (place, part) = (next / parts, wanted.parts[next % parts]);
                let name = BlockName {
                    namespace: wanted.namespace.id,
                    hash: wanted.hashes[wanted.indexes[place]],
                    part,
                };
                let how = wanted.how.clone();
                reads.push(read(Arc::clone(&self.node), place, name, how));
                next += 1;
            }
            if let Some(ahead) = &mut ahead {
                ahead.from(next.div_ceil(parts));
            }
            let Some(Read { place, part, found }) = reads.next().await else {
                break;
            };
            let index = wanted.indexes[place];
            match found? {
                Some(_) if place > hole => {}
                Some((body, entry)) => {
                    self.node.metrics.get_hits.increment(1);
                    self.block(wanted, index, part, &body, &entry).await?;
                    lacking[place] -= 1;
                }
                None => {
                    self.node.metrics.get_misses.increment(1);
                    match wanted.skip_missing {
                        true => self.missing(index, part, wanted.deadline).await?,
                        false => hole = hole.min(place),
                    }
                }
            }
        }
        let came = lacking.iter().take_while(|parts| **parts == 0).count();
        *run = u32::try_from(came).unwrap_or(u32::MAX);
        Ok(came == wanted.indexes.len())
    }
}
