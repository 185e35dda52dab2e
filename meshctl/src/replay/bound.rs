//! What a replay must find when views are settled and nothing is evicted. Pure.

use super::trace::Trace;

/// Hits and misses, per block reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    /// Served by the request's own region.
    pub local: u64,
    /// Served by another region.
    pub remote: u64,
    /// Nowhere in the mesh.
    pub misses: u64,
}

impl Split {
    /// Hits of an infinite cache over the same requests.
    #[must_use]
    pub fn bound(&self) -> u64 {
        self.local + self.remote
    }

    /// All block references.
    #[must_use]
    pub fn references(&self) -> u64 {
        self.bound() + self.misses
    }

    /// Adds another request's.
    pub fn add(&mut self, other: Split) {
        self.local += other.local;
        self.remote += other.remote;
        self.misses += other.misses;
    }
}

/// What a request must find.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Hits and misses.
    pub split: Split,
    /// Depths of the blocks that only other regions have, ascending.
    pub remote: Vec<u32>,
}

/// What each request finds that an assignment implies. A request hits the longest prefix
/// that earlier requests left anywhere; a block of it is local if an earlier request of the
/// same region put it or fetched it. Afterwards the region has the whole chain.
#[must_use]
pub fn expected(trace: &Trace, region_of: &[usize], regions: usize) -> Vec<Expected> {
    let mut has = vec![vec![false; trace.ids.len()]; regions];
    let find = |(request, &region): (&super::trace::Request, &usize)| {
        let known = |&&block: &&u32| has.iter().any(|has| has[block as usize]);
        let run = request.chain.iter().take_while(known).count();
        let depths = (0..).zip(&request.chain[..run]);
        let afar = depths.filter(|&(_, &block)| !has[region][block as usize]);
        let remote: Vec<u32> = afar.map(|(depth, _)| depth).collect();
        let local = run - remote.len();
        for &block in &request.chain {
            has[region][block as usize] = true;
        }
        let split = Split {
            local: local as u64,
            remote: remote.len() as u64,
            misses: (request.chain.len() - run) as u64,
        };
        Expected { split, remote }
    };
    trace.requests.iter().zip(region_of).map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::trace::Request, *};

    fn trace(chains: &[&[u32]]) -> Trace {
        let blocks = chains.iter().flat_map(|chain| chain.iter()).max().unwrap() + 1;
        let requests = chains.iter().map(|chain| Request {
            chain: chain.to_vec(),
            session: None,
            ..Request::default()
        });
        Trace {
            requests: requests.collect(),
            ids: (0..blocks).map(|id| id.to_string()).collect(),
        }
    }

    /// The splits of [`expected`].
    fn splits(trace: &Trace, region_of: &[usize], regions: usize) -> Vec<Split> {
        let all = expected(trace, region_of, regions);
        all.into_iter().map(|it| it.split).collect()
    }

    fn split(local: u64, remote: u64, misses: u64) -> Split {
        Split {
            local,
            remote,
            misses,
        }
    }

    #[test]
    fn a_fetched_block_is_local_from_then_on() {
        let trace = trace(&[&[0, 1, 2], &[0, 1, 3], &[0, 1, 3], &[0, 9]]);
        assert_eq!(
            splits(&trace, &[0, 1, 1, 0], 2),
            [
                split(0, 0, 3),
                split(0, 2, 1),
                split(3, 0, 0),
                split(1, 0, 1)
            ]
        );
    }

    #[test]
    fn a_run_mixes_regions_and_stops_at_the_first_hole() {
        let trace = trace(&[&[0, 1], &[0, 1, 2, 3], &[0, 1, 2, 4, 3]]);
        assert_eq!(
            splits(&trace, &[0, 1, 0], 2),
            [split(0, 0, 2), split(0, 2, 2), split(2, 1, 2)]
        );
        let remote = expected(&trace, &[0, 1, 0], 2);
        let remote: Vec<_> = remote.into_iter().map(|it| it.remote).collect();
        assert_eq!(remote, [vec![], vec![0, 1], vec![2]]);
    }

    #[test]
    fn the_bound_does_not_depend_on_the_assignment() {
        let chains: Vec<Vec<u32>> = (0..200_u32)
            .map(|n| (0..(n * 7 % 13)).map(|at| at * (n % 5 + 1)).collect())
            .filter(|chain: &Vec<u32>| !chain.is_empty())
            .collect();
        let chains: Vec<&[u32]> = chains.iter().map(Vec::as_slice).collect();
        let trace = trace(&chains);
        let bound = |region_of: &[usize]| {
            let mut sum = Split::default();
            splits(&trace, region_of, 3)
                .into_iter()
                .for_each(|split| sum.add(split));
            (sum.bound(), sum.references())
        };
        let alone = bound(&vec![0; chains.len()]);
        let spread: Vec<usize> = (0..chains.len()).map(|at| at % 3).collect();
        assert_eq!(bound(&spread), alone);
    }
}
