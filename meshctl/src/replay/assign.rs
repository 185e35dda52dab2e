//! Which request goes to which region. No trace says where its users are: this is ours,
//! pure, and the same for the same seed on every machine.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write},
    path::Path,
};

use super::trace::{Request, Trace};
use crate::exit;

/// A block that more than one request in so many shares does not tell conversations apart.
const SHARED_BY_ONE_IN: usize = 20;
/// How it is done, for the report.
pub const METHOD: &str = "home = BLAKE3(session, or first block that at most 1 in 20 requests \
                          share) mod regions; home with probability sticky, else another region";

/// Regions of all requests, by their place in the list of regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Where each request goes.
    pub region: Vec<usize>,
    /// Where each request belongs.
    pub home: Vec<usize>,
}

impl Assignment {
    /// Of a trace over `regions` regions.
    #[must_use]
    pub fn new(trace: &Trace, regions: usize, sticky: f64, seed: u64) -> Self {
        let shared = shared(trace);
        let home: Vec<usize> = trace
            .requests
            .iter()
            .map(|request| home(trace, request, &shared, regions))
            .collect();
        let region = home.iter().enumerate().map(|(at, &home)| {
            let [leave, whither] = draws(seed, at);
            // 53 bits make every value exact.
            let leave = (leave >> 11) as f64 / (1_u64 << 53) as f64;
            if regions == 1 || leave < sticky {
                return home;
            }
            let other = (whither % (regions as u64 - 1)) as usize;
            (home + 1 + other) % regions
        });
        Self {
            region: region.collect(),
            home,
        }
    }

    /// Requests that left their home.
    #[must_use]
    pub fn away(&self) -> usize {
        let pairs = self.region.iter().zip(&self.home);
        pairs.filter(|(region, home)| region != home).count()
    }

    /// Writes one JSON object a line: request, region, home.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, regions: &[String]) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            let mut out = io::BufWriter::new(fs::File::create(path)?);
            for (request, (&region, &home)) in self.region.iter().zip(&self.home).enumerate() {
                let line = serde_json::json!({
                    "request": request,
                    "region": regions[region],
                    "home": regions[home],
                });
                writeln!(out, "{line}")?;
            }
            out.flush()
        };
        write().map_err(|error| {
            exit::set_up(format!(
                "assignment file {} cannot be written: {error}",
                path.display()
            ))
        })
    }
}

/// Blocks that too many requests share.
fn shared(trace: &Trace) -> HashSet<u32> {
    let mut uses = vec![0_usize; trace.ids.len()];
    for request in &trace.requests {
        let distinct: HashSet<u32> = request.chain.iter().copied().collect();
        distinct
            .into_iter()
            .for_each(|block| uses[block as usize] += 1);
    }
    let often = |uses: usize| uses * SHARED_BY_ONE_IN > trace.requests.len() && uses > 1;
    (0..)
        .zip(uses)
        .filter(|&(_, n)| often(n))
        .map(|(block, _)| block)
        .collect()
}

fn home(trace: &Trace, request: &Request, shared: &HashSet<u32>, regions: usize) -> usize {
    let conversation = request.session.as_deref().unwrap_or_else(|| {
        let own = request.chain.iter().find(|&block| !shared.contains(block));
        let block = own.or(request.chain.last()).copied().unwrap_or(0);
        &trace.ids[block as usize]
    });
    let digest = blake3::hash(conversation.as_bytes());
    (first_word(&digest) % regions as u64) as usize
}

/// Two random words of one request.
fn draws(seed: u64, request: usize) -> [u64; 2] {
    let mut hasher = blake3::Hasher::new_derive_key("kvmesh 2026-11 replay assignment v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(request as u64).to_le_bytes());
    let digest = hasher.finalize();
    let mut second = [0; 8];
    second.copy_from_slice(&digest.as_bytes()[8..16]);
    [first_word(&digest), u64::from_le_bytes(second)]
}

fn first_word(digest: &blake3::Hash) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3,000 conversations of one request; all begin with the same block.
    fn trace() -> Trace {
        let requests = (1..=3_000).map(|own| Request {
            chain: vec![0, own],
            session: None,
            ..Request::default()
        });
        Trace {
            requests: requests.collect(),
            ids: (0..=3_000).map(|id| id.to_string()).collect(),
        }
    }

    #[test]
    fn homes_are_spread_although_all_share_a_block() {
        let assignment = Assignment::new(&trace(), 3, 1.0, 1);
        for region in 0..3 {
            let here = assignment.home.iter().filter(|&&home| home == region);
            assert!((900..1_100).contains(&here.count()));
        }
        assert_eq!(assignment.away(), 0);
    }

    #[test]
    fn one_in_ten_leaves_and_every_other_region_gets_some() {
        let assignment = Assignment::new(&trace(), 3, 0.9, 1);
        assert!((240..360).contains(&assignment.away()));
        let steps: HashSet<usize> = (0..3_000)
            .map(|at| (assignment.region[at] + 3 - assignment.home[at]) % 3)
            .collect();
        assert_eq!(steps.len(), 3);
        assert_eq!(assignment, Assignment::new(&trace(), 3, 0.9, 1));
        assert_ne!(assignment, Assignment::new(&trace(), 3, 0.9, 2));
        assert_eq!(Assignment::new(&trace(), 1, 0.0, 1).away(), 0);
    }

    #[test]
    fn a_session_stays_together() {
        let request = |block: u32, session: &str| Request {
            chain: vec![block],
            session: Some(session.to_owned()),
            ..Request::default()
        };
        let trace = Trace {
            requests: (0..20).map(|block| request(block, "one")).collect(),
            ids: (0..20).map(|id| id.to_string()).collect(),
        };
        let homes: HashSet<usize> = Assignment::new(&trace, 5, 1.0, 1)
            .home
            .into_iter()
            .collect();
        assert_eq!(homes.len(), 1);
    }
}
