//! Who has which block, and how each link does at each moment: the same for all policies.

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::data::{Network, Trace};

/// After so many seconds the slow part of a link's noise has gone by 1 / e.
const SLOW: f64 = 600.0;

/// A run that only another region has, as one request meets it.
pub(crate) struct Hit {
    pub(crate) at: f64,
    /// Regions that ask, and that has it.
    pub(crate) link: (usize, usize),
    /// Blocks that are at home, and that are not.
    pub(crate) local: u32,
    pub(crate) lacking: u32,
    /// Tokens of the whole request.
    pub(crate) tokens: u64,
    /// What a transfer at this moment would see.
    pub(crate) truth: Truth,
}

#[derive(Clone, Copy)]
pub(crate) struct Truth {
    /// Seconds.
    pub(crate) first_byte: f64,
    /// Bytes per second.
    pub(crate) bandwidth: f64,
}

/// Every remote hit of a trace over the network: requests stay at home with probability
/// `sticky`, caches have no end, and whatever a request needed is at its region from then on.
pub(crate) fn hits(
    trace: &Trace,
    network: &Network,
    sticky: f64,
    noise: f64,
    seed: u64,
) -> Vec<Hit> {
    let regions = network.names.len();
    let mut draws = StdRng::seed_from_u64(seed);
    let mut noises: Vec<Noise> = (0..regions * regions)
        .map(|link| Noise::new(seed ^ ((link as u64 + 1) << 32)))
        .collect();
    let mut held = vec![0_u32; trace.unique];
    let mut hits = Vec::new();
    for request in &trace.requests {
        let home = (mixed(request.conversation ^ seed) % regions as u64) as usize;
        let away = draws.random_range(1..regions);
        let region = match draws.random_bool(sticky) {
            true => home,
            false => (home + away) % regions,
        };
        let has = |block: &u32, region: usize| held[*block as usize] & (1 << region) != 0;
        let run = |region| {
            request
                .chain
                .iter()
                .take_while(|it| has(it, region))
                .count()
        };
        let local = run(region);
        let best = (0..regions)
            .filter(|&other| other != region)
            .map(|other| (other, run(other)))
            .filter(|(_, run)| *run > local)
            .min_by(|(a, one), (b, two)| {
                let rtt = |other: usize| network.links[region][other].rtt;
                two.cmp(one).then(rtt(*a).total_cmp(&rtt(*b)))
            });
        if let Some((other, run)) = best {
            let noise_of = &mut noises[region * regions + other];
            hits.push(Hit {
                at: request.at,
                link: (region, other),
                local: local as u32,
                lacking: (run - local) as u32,
                tokens: request.tokens,
                truth: noise_of.truth(network, (region, other), request.at, noise),
            });
        }
        for block in &request.chain {
            held[*block as usize] |= 1 << region;
        }
    }
    hits
}

/// What so many transfers over each link saw in the ten minutes before the trace.
pub(crate) fn warm(
    network: &Network,
    transfers: usize,
    noise: f64,
    seed: u64,
) -> Vec<((usize, usize), Truth)> {
    let regions = network.names.len();
    let mut seen = Vec::new();
    for number in 0..regions * regions {
        let (from, to) = (number / regions, number % regions);
        let mut noises = Noise::new(!seed ^ ((number as u64 + 1) << 32));
        for transfer in 0..transfers {
            let at = SLOW * transfer as f64 / transfers as f64;
            if from != to {
                let truth = noises.truth(network, (from, to), at, noise);
                seen.push(((from, to), truth));
            }
        }
    }
    seen
}

/// Normal noise of one link: of the bandwidth's variance half changes slowly and half with
/// each transfer, of the round trip's all with each transfer.
struct Noise {
    draws: StdRng,
    slow: f64,
    at: f64,
}

impl Noise {
    fn new(seed: u64) -> Self {
        let mut draws = StdRng::seed_from_u64(seed);
        let slow = normal(&mut draws);
        Self {
            draws,
            slow,
            at: 0.0,
        }
    }

    fn truth(
        &mut self,
        network: &Network,
        (from, to): (usize, usize),
        at: f64,
        noise: f64,
    ) -> Truth {
        let link = network.links[from][to];
        let (bandwidth, rtt) = self.draw(at);
        Truth {
            first_byte: link.rtt * (rtt * noise * network.rtt_sigma).exp(),
            bandwidth: link.bandwidth * (bandwidth * noise * network.bandwidth_sigma).exp(),
        }
    }

    fn draw(&mut self, at: f64) -> (f64, f64) {
        let kept = (-(at - self.at) / SLOW).exp();
        self.slow = kept * self.slow + (1.0 - kept * kept).sqrt() * normal(&mut self.draws);
        self.at = at;
        let quick = normal(&mut self.draws);
        let bandwidth = (self.slow + quick) * std::f64::consts::FRAC_1_SQRT_2;
        (bandwidth, normal(&mut self.draws))
    }
}

/// Box and Muller, Ann. Math. Stat. 29, 1958.
fn normal(draws: &mut StdRng) -> f64 {
    let (a, b): (f64, f64) = (draws.random_range(f64::MIN_POSITIVE..1.0), draws.random());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// The finalizer of `SplitMix64` (Steele et al., OOPSLA 2014).
fn mixed(number: u64) -> u64 {
    let a = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}
