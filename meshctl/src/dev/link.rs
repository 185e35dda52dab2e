//! The links between the regions of a dev mesh: who reaches whom, how late, and how much crossed.
//!
//! A connection inside of a region is plain TCP. One that leaves it costs a round trip to
//! make, as TCP's handshake does, and delays bytes by half of one in each direction; bandwidth
//! is not limited at first. Cutting a region off, or taking a link down, resets its connections
//! and refuses new ones.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use kvmesh_client::channel::{BoxedIo, Connect, Connecting, Incoming, TcpConnect};
use kvmesh_directory::RegionId;
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    control::Change,
    pump::delayed,
    rtt,
    severed::{Counted, Severed},
    shape::Shape,
};

/// Beyond, the farthest region cannot be reached within any timeout.
const RTT_MS_MAX: f64 = 10_000.0;

/// All links of a mesh. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    regions: Vec<RegionId>,
    tasks: TaskTracker,
    stop: CancellationToken,
    state: Mutex<State>,
}

/// Bounded by the mesh: addresses of its processes, pairs of its regions.
#[derive(Default)]
struct State {
    home: HashMap<String, usize>,
    cuts: BTreeMap<usize, CancellationToken>,
    crossed: BTreeMap<(usize, usize), Counted>,
    /// By pairs of regions, the lower first.
    pairs: BTreeMap<(usize, usize), Pair>,
}

/// The link between two regions.
#[derive(Clone)]
struct Pair {
    shape: Arc<Shape>,
    /// Resets its connections.
    down: CancellationToken,
    /// Resets those that bytes pass as they are: they would not notice another shape.
    plain: CancellationToken,
}

/// How a link is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LinkState {
    /// The two regions.
    pub between: [String; 2],
    /// Round trip.
    pub rtt_ms: f64,
    /// Bytes a second in each direction; 0: not limited.
    pub bandwidth: u64,
    /// Whether it carries anything.
    pub up: bool,
}

/// Bytes that crossed a link, whatever they were for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Crossed {
    /// Where the bytes came from.
    pub from: String,
    /// Where they went.
    pub to: String,
    /// How many.
    pub bytes: u64,
}

impl Links {
    /// Between regions in the order of [`rtt::REGIONS`]; `scale` multiplies the round trips.
    #[must_use]
    pub fn new(
        regions: Vec<RegionId>,
        scale: f64,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let cuts = (0..regions.len()).map(|region| (region, stop.child_token()));
        let pairs = (0..regions.len()).flat_map(|high| (0..high).map(move |low| (low, high)));
        let pair = |(low, high)| {
            let pair = Pair {
                shape: Arc::new(Shape::new(rtt::between(low, high).mul_f64(scale))),
                down: stop.child_token(),
                plain: stop.child_token(),
            };
            ((low, high), pair)
        };
        let state = State {
            cuts: cuts.collect(),
            pairs: pairs.map(pair).collect(),
            ..State::default()
        };
        Self {
            inner: Arc::new(Inner {
                regions,
                tasks,
                stop,
                state: Mutex::new(state),
            }),
        }
    }

    /// Notes that the process at an address belongs to a region.
    pub fn settle(&self, address: &str, region: usize) {
        self.state().home.insert(address.to_owned(), region);
    }

    /// The round trip between two regions.
    #[must_use]
    pub fn rtt(&self, one: usize, other: usize) -> Duration {
        let pair = self.state().pairs.get(&ordered(one, other)).cloned();
        pair.map_or(Duration::ZERO, |pair| pair.shape.rtt())
    }

    /// The connector of a region's processes.
    #[must_use]
    pub fn connector(&self, region: usize) -> Arc<dyn Connect> {
        Arc::new(LinkConnect {
            links: self.clone(),
            region: Some(region),
        })
    }

    /// The connector of somebody who is as near to every region as its own processes, and
    /// whom a region that is cut off is cut off from as well.
    #[must_use]
    pub fn outside(&self) -> Arc<dyn Connect> {
        Arc::new(LinkConnect {
            links: self.clone(),
            region: None,
        })
    }

    /// Resets every connection between a region and the others, and refuses new ones.
    pub fn cut(&self, region: usize) {
        let cut = self.state().cuts.get(&region).cloned();
        if let Some(cut) = cut {
            cut.cancel();
        }
    }

    /// Lets a region that was cut off be reached again.
    pub fn mend(&self, region: usize) {
        let fresh = self.inner.stop.child_token();
        self.state().cuts.insert(region, fresh);
    }

    /// Changes one link; the error says what cannot be.
    ///
    /// # Errors
    /// When the regions are none of this mesh, or a value cannot be; nothing is changed then.
    pub fn change(&self, change: &Change) -> Result<(), String> {
        let Some(between) = &change.between else {
            return Ok(());
        };
        let at = |name: &String| {
            let mut regions = self.inner.regions.iter();
            let known = || {
                let names = self.inner.regions.iter().map(RegionId::as_str);
                names.collect::<Vec<_>>().join(", ")
            };
            regions
                .position(|region| region.as_str() == name)
                .ok_or_else(|| format!("no region {name:?} is in this mesh: there are {}", known()))
        };
        let place = ordered(at(&between[0])?, at(&between[1])?);
        let rtt = match change.rtt_ms {
            Some(ms) if !(0.0..=RTT_MS_MAX).contains(&ms) => {
                return Err(format!("a round trip of 0 to {RTT_MS_MAX} ms is possible"));
            }
            ms => ms.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        };
        let mut state = self.state();
        let Some(pair) = state.pairs.get_mut(&place) else {
            return Err("name two regions that differ".to_owned());
        };
        if let Some(rtt) = rtt {
            pair.shape.set_rtt(rtt);
        }
        if let Some(bandwidth) = change.bandwidth {
            pair.shape.set_bandwidth(bandwidth);
        }
        if !pair.shape.is_plain() {
            pair.plain.cancel();
            pair.plain = self.inner.stop.child_token();
        }
        match change.up {
            Some(false) => pair.down.cancel(),
            Some(true) if pair.down.is_cancelled() => pair.down = self.inner.stop.child_token(),
            Some(true) | None => {}
        }
        Ok(())
    }

    /// How each link is.
    #[must_use]
    pub fn states(&self) -> Vec<LinkState> {
        let state = self.state();
        let pairs = state.pairs.iter().map(|(&(low, high), pair)| LinkState {
            between: [low, high].map(|at| self.inner.regions[at].to_string()),
            rtt_ms: pair.shape.rtt().as_secs_f64() * 1e3,
            bandwidth: pair.shape.bandwidth(),
            up: !pair.down.is_cancelled(),
        });
        pairs.collect()
    }

    /// Bytes that crossed each link so far, in both directions.
    #[must_use]
    pub fn crossed(&self) -> Vec<Crossed> {
        let mut sums: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (&(from, to), counted) in &self.state().crossed {
            *sums.entry((from, to)).or_default() += counted.out.load(Ordering::Relaxed);
            *sums.entry((to, from)).or_default() += counted.back.load(Ordering::Relaxed);
        }
        let name = |region: usize| self.inner.regions[region].to_string();
        sums.into_iter()
            .map(|((from, to), bytes)| Crossed {
                from: name(from),
                to: name(to),
                bytes,
            })
            .collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What a connection from one region to an address is subject to.
    fn way(&self, from: Option<usize>, address: &str) -> Way {
        let mut state = self.state();
        let to = state.home.get(address).copied().or(from);
        let (Some(from), Some(to)) = (from, to) else {
            let cut = to.and_then(|to| state.cuts.get(&to).cloned());
            return Way::Outside(cut.unwrap_or_default());
        };
        if from == to {
            return Way::Inside;
        }
        let cut = |state: &State, region| state.cuts.get(&region).cloned().unwrap_or_default();
        let cuts = [cut(&state, from), cut(&state, to)];
        let Some(pair) = state.pairs.get(&ordered(from, to)).cloned() else {
            return Way::Inside;
        };
        let counted = state.crossed.entry((from, to)).or_default().clone();
        Way::Across {
            cuts: [cuts[0].clone(), cuts[1].clone(), pair.down],
            shape: pair.shape,
            plain: pair.plain,
            back: usize::from(from < to),
            counted,
        }
    }
}

fn ordered(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

enum Way {
    Inside,
    /// By no link, until the region is cut off.
    Outside(CancellationToken),
    Across {
        cuts: [CancellationToken; 3],
        shape: Arc<Shape>,
        plain: CancellationToken,
        /// Direction of the bytes that come.
        back: usize,
        counted: Counted,
    },
}

struct LinkConnect {
    links: Links,
    /// None: outside of all.
    region: Option<usize>,
}

impl Connect for LinkConnect {
    fn connect(&self, address: &str) -> Connecting {
        let plain = TcpConnect.connect(address);
        let (cuts, shape, unshaped, back, counted) = match self.links.way(self.region, address) {
            Way::Inside => return plain,
            Way::Outside(cut) => return uncut(plain, cut),
            Way::Across {
                cuts,
                shape,
                plain,
                back,
                counted,
            } => (cuts, shape, plain, back, counted),
        };
        let inner = Arc::clone(&self.links.inner);
        Box::pin(async move {
            if cuts.iter().any(CancellationToken::is_cancelled) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let (rtt, is_plain) = (shape.rtt(), shape.is_plain());
            if !rtt.is_zero() {
                sleep(rtt).await;
            }
            let mut far = plain.await?;
            for cut in cuts {
                far = BoxedIo::new(Severed::new(far, cut, Counted::default()));
            }
            let reshaped = if is_plain {
                unshaped
            } else {
                CancellationToken::new()
            };
            far = BoxedIo::new(Severed::new(far, reshaped, counted));
            if is_plain {
                return Ok(far);
            }
            let stop = inner.stop.child_token();
            Ok(BoxedIo::new(delayed(far, shape, back, &inner.tasks, stop)))
        })
    }
}

/// A connection that is reset once `cut` is cancelled, and refused from then on.
fn uncut(connecting: Connecting, cut: CancellationToken) -> Connecting {
    Box::pin(async move {
        if cut.is_cancelled() {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let io = connecting.await?;
        Ok(BoxedIo::new(Severed::new(io, cut, Counted::default())))
    })
}

/// Connections of a listener that are reset once `killed` is cancelled, as those of a
/// process that is killed are.
#[must_use]
pub fn mortal(incoming: Incoming, killed: CancellationToken) -> Incoming {
    let end = killed.clone().cancelled_owned();
    let open = incoming.map(move |connection| {
        let killed = killed.clone();
        connection.map(|io| BoxedIo::new(Severed::new(io, killed, Counted::default())))
    });
    Box::pin(futures::StreamExt::take_until(open, end))
}

#[cfg(test)]
#[path = "link_test.rs"]
mod link_test;
