//! The links between the regions of a dev mesh: who reaches whom, how late, and how much crossed.
//!
//! A connection inside of a region is plain TCP. One that leaves it costs a round trip to
//! make, as TCP's handshake does, and delays bytes by half of one in each direction;
//! bandwidth is not limited. Cutting a region off resets its connections and refuses new ones.

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
    pump::delayed,
    rtt,
    severed::{Counted, Severed},
};

/// All links of a mesh. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    regions: Vec<RegionId>,
    scale: f64,
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
        let state = State {
            cuts: cuts.collect(),
            ..State::default()
        };
        Self {
            inner: Arc::new(Inner {
                regions,
                scale,
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
        rtt::between(one, other).mul_f64(self.inner.scale)
    }

    /// The connector of a region's processes.
    #[must_use]
    pub fn connector(&self, region: usize) -> Arc<dyn Connect> {
        Arc::new(LinkConnect {
            links: self.clone(),
            region,
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
    fn way(&self, from: usize, address: &str) -> Way {
        let mut state = self.state();
        let to = state.home.get(address).copied().unwrap_or(from);
        if from == to {
            return Way::Inside;
        }
        let cut = |state: &State, region| state.cuts.get(&region).cloned().unwrap_or_default();
        let cuts = [cut(&state, from), cut(&state, to)];
        let counted = state.crossed.entry((from, to)).or_default().clone();
        Way::Across {
            cuts,
            rtt: self.rtt(from, to),
            counted,
        }
    }
}

enum Way {
    Inside,
    Across {
        cuts: [CancellationToken; 2],
        rtt: Duration,
        counted: Counted,
    },
}

struct LinkConnect {
    links: Links,
    region: usize,
}

impl Connect for LinkConnect {
    fn connect(&self, address: &str) -> Connecting {
        let plain = TcpConnect.connect(address);
        let Way::Across { cuts, rtt, counted } = self.links.way(self.region, address) else {
            return plain;
        };
        let inner = Arc::clone(&self.links.inner);
        Box::pin(async move {
            if cuts.iter().any(CancellationToken::is_cancelled) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            if !rtt.is_zero() {
                sleep(rtt).await;
            }
            let far = plain.await?;
            let [one, other] = cuts;
            let far = Severed::new(far, one, Counted::default());
            let far = Severed::new(BoxedIo::new(far), other, counted);
            let far = BoxedIo::new(far);
            if rtt.is_zero() {
                return Ok(far);
            }
            let stop = inner.stop.child_token();
            Ok(BoxedIo::new(delayed(far, rtt / 2, &inner.tasks, stop)))
        })
    }
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
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::Instant,
    };

    use super::*;

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    fn links(scale: f64) -> Links {
        let regions = rtt::REGIONS[..3].iter().map(|name| name.parse().unwrap());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Links::new(regions.collect(), scale, tasks, stop)
    }

    async fn ping(io: &mut BoxedIo) -> io::Result<Duration> {
        let started = Instant::now();
        io.write_all(b"ping").await?;
        io.read_exact(&mut [0; 4]).await?;
        Ok(started.elapsed())
    }

    #[tokio::test]
    async fn a_round_trip_takes_the_published_time() {
        let (links, address) = (links(1.0), echo().await);
        links.settle(&address, 0);
        let started = Instant::now();
        let mut far = links.connector(1).connect(&address).await.unwrap();
        let rtt = Duration::from_micros(78_500);
        assert!(started.elapsed() >= rtt, "the handshake costs one, too");
        assert!(ping(&mut far).await.unwrap() >= rtt);
        let mut near = links.connector(0).connect(&address).await.unwrap();
        assert!(ping(&mut near).await.unwrap() < rtt);
        let crossed = links.crossed();
        assert!(crossed.iter().all(|crossed| crossed.bytes == 4));
        assert_eq!(crossed.len(), 2, "inside of a region nothing crosses");
    }

    #[tokio::test]
    async fn a_region_that_is_cut_off_is_reset_and_refused() {
        for scale in [0.0, 0.1] {
            let (links, address) = (links(scale), echo().await);
            links.settle(&address, 0);
            let connector = links.connector(2);
            let mut far = connector.connect(&address).await.unwrap();
            ping(&mut far).await.unwrap();
            links.cut(0);
            assert!(ping(&mut far).await.is_err());
            assert!(connector.connect(&address).await.is_err());
            let mut near = links.connector(0).connect(&address).await.unwrap();
            ping(&mut near).await.unwrap();
            links.mend(0);
            let mut far = connector.connect(&address).await.unwrap();
            ping(&mut far).await.unwrap();
        }
    }
}
