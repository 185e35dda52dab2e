//! What nobody beats: the block whose next use is farthest goes, also when it has only just
//! come. A chain's prefix is never used later than its leaf, so prefixes stay whole.

use std::collections::{BTreeSet, HashMap};

use super::trace::Trace;

const NEVER: usize = usize::MAX;

/// Blocks of leading runs that are held, with room for `max` blocks.
pub(crate) fn hits(trace: &Trace, max: usize) -> usize {
    let next = next_uses(trace);
    let mut order: BTreeSet<(usize, usize, u32)> = BTreeSet::new();
    let mut held: HashMap<u32, (usize, usize)> = HashMap::new();
    let mut hits = 0;
    for (request, next) in trace.requests.iter().zip(next) {
        let run = request.chain.iter();
        hits += run.take_while(|block| held.contains_key(block)).count();
        for (depth, (block, next)) in request.chain.iter().zip(next).enumerate() {
            if let Some((was, depth)) = held.insert(*block, (next, depth)) {
                order.remove(&(was, depth, *block));
            }
            order.insert((next, depth, *block));
        }
        while held.len() > max {
            let gone = order.pop_last();
            held.remove(&gone.expect("each held block is listed").2);
        }
    }
    hits
}

/// For each block of each request, which request uses it next.
fn next_uses(trace: &Trace) -> Vec<Vec<usize>> {
    let mut next = vec![NEVER; trace.unique];
    let requests = trace.requests.iter().enumerate().rev();
    let mut uses: Vec<Vec<usize>> = requests
        .map(|(at, request)| {
            let chain = request.chain.iter();
            let next = chain.map(|block| std::mem::replace(&mut next[*block as usize], at));
            next.collect()
        })
        .collect();
    uses.reverse();
    uses
}
