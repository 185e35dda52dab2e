//! How long the first token takes by each policy. Ours decides by the product's own model, from
//! what transfers before this one showed.

use kvmesh_directory::{
    RegionId,
    cost::{Advice, Configured, Estimate, LinkCost, Links, Pace, Run, Seen, Transfer, weigh},
};

use crate::{
    data::{Model, Network},
    world::{Hit, Truth},
};

/// The default of a peer's `bandwidth_bits`, in bytes.
const CONFIGURED_BANDWIDTH: f64 = 125e6;
/// A probe of an idle link.
const PROBE_BYTES: f64 = 8.0 * 1_048_576.0;

/// Seconds to the first token of one request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) never: f64,
    pub(crate) always: f64,
    pub(crate) ours: f64,
    pub(crate) oracle: f64,
}

/// Whether engines compute and fetch at once, as a lookup advises.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engines {
    /// They get a run or compute it: what a get decides by itself.
    EitherWay,
    /// They also split it.
    BothWays,
}

pub(crate) struct Player<'a> {
    network: &'a Network,
    model: &'a Model,
    block_tokens: u32,
    bytes_per_block: f64,
    noise: f64,
    engines: Engines,
    /// What the gateway of each region knows.
    links: Vec<Links>,
    regions: Vec<RegionId>,
}

impl<'a> Player<'a> {
    pub(crate) fn new(
        network: &'a Network,
        model: &'a Model,
        block_tokens: u32,
        bytes_part: f64,
        noise: f64,
        engines: Engines,
    ) -> Self {
        Self {
            network,
            model,
            block_tokens,
            bytes_per_block: model.bytes_per_token * f64::from(block_tokens) * bytes_part,
            noise,
            engines,
            links: vec![Links::default(); network.names.len()],
            regions: (0..network.names.len())
                .map(|number| format!("r{number}").parse().expect("a name"))
                .collect(),
        }
    }

    pub(crate) fn play(&mut self, hit: &Hit) -> Times {
        let run = Run {
            behind: u64::from(hit.local) * u64::from(self.block_tokens),
            blocks: hit.lacking,
            block_tokens: self.block_tokens,
            bytes: (self.bytes_per_block * f64::from(hit.lacking)) as u64,
        };
        let matched = run.behind + u64::from(hit.lacking) * u64::from(self.block_tokens);
        let rest = hit.tokens.saturating_sub(matched) as f64;
        // Computed behind the run in any case.
        let after = self
            .model
            .prefill
            .seconds(matched as f64, matched as f64 + rest);
        let never = run.recompute(&self.model.prefill, 0, run.blocks);
        let fetch = |from| hit.truth.first_byte + run.bytes_from(from) / hit.truth.bandwidth;
        let always = fetch(0);
        let mut oracle = never.min(always);
        if self.engines == Engines::BothWays {
            for block in 1..run.blocks {
                let compute = run.recompute(&self.model.prefill, 0, block);
                oracle = oracle.min(compute.max(fetch(block)));
            }
        }
        Times {
            never: never + after,
            always: always + after,
            ours: self.ours(hit, &run) + after,
            oracle: oracle + after,
        }
    }

    /// Lets a link carry a transfer before the trace begins.
    pub(crate) fn warm(&mut self, link: (usize, usize), truth: Truth) {
        let configured = self.configured(link);
        let transfer = Transfer {
            first_byte: truth.first_byte,
            rtt: configured.rtt.median,
            bytes: 64 << 20,
            took: f64::from(64 << 20) / truth.bandwidth,
        };
        self.links[link.0].transferred(0.0, &self.regions[link.1], &configured, transfer);
    }

    fn configured(&self, (from, to): (usize, usize)) -> Configured {
        Configured {
            rtt: Estimate {
                median: self.network.links[from][to].rtt,
                sigma: self.noise * self.network.rtt_sigma,
            },
            bandwidth: CONFIGURED_BANDWIDTH,
            dollars_per_gb: 0.0,
            seen: Seen::default(),
        }
    }

    fn ours(&mut self, hit: &Hit, run: &Run) -> f64 {
        let configured = self.configured(hit.link);
        let region = &self.regions[hit.link.1];
        let links = &mut self.links[hit.link.0];
        let cost = links.cost(hit.at, region, &configured);
        let weighed = weigh(run, &cost, &self.model.prefill);
        let from = match weighed.split {
            Some(split) if self.engines == Engines::BothWays => Some(split.block),
            _ => (weighed.advice() == Advice::Fetch).then_some(0),
        };
        let (seconds, bytes) = match from {
            Some(from) => self.fetch(run, &cost, hit.truth, from),
            None => {
                let probe = match links.wants_probe(hit.at, region, &configured) {
                    true => PROBE_BYTES.min(run.bytes as f64),
                    false => 0.0,
                };
                (run.recompute(&self.model.prefill, 0, run.blocks), probe)
            }
        };
        let transfer = Transfer {
            first_byte: hit.truth.first_byte,
            rtt: configured.rtt.median,
            bytes: bytes as u64,
            took: bytes / hit.truth.bandwidth,
        };
        if bytes > 0.0 {
            let links = &mut self.links[hit.link.0];
            links.transferred(hit.at, &self.regions[hit.link.1], &configured, transfer);
        }
        seconds
    }

    /// Fetches the blocks from `from` on while those before it are computed, and gives up what
    /// has not come when computing it is faster. Also says how many bytes came.
    fn fetch(&self, run: &Run, cost: &LinkCost, truth: Truth, from: u32) -> (f64, f64) {
        let compute = |a, b| run.recompute(&self.model.prefill, a, b);
        let all = run.bytes_from(from);
        let pace = Pace::new(cost, all, all);
        let computed = compute(0, from);
        for block in from..run.blocks {
            let left = run.bytes_from(block);
            let arrived = all - left;
            let next = truth.first_byte + (all - run.bytes_from(block + 1)) / truth.bandwidth;
            let now = match block == from {
                true => 0.0,
                false => truth.first_byte + arrived / truth.bandwidth,
            };
            let first_byte = (block > from).then_some(truth.first_byte);
            let rest = compute(block, run.blocks);
            let patience = pace.patience(first_byte, arrived, left, rest);
            // Until the head is computed there is nothing to do instead.
            let given_up = patience.max(now).max(computed);
            if given_up < next {
                return (given_up + rest, arrived);
            }
        }
        let fetched = truth.first_byte + all / truth.bandwidth;
        (fetched.max(computed), all)
    }
}
