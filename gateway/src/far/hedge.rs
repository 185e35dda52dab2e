//! The second asking of a fetch whose first bytes are late.
//!
//! Invariants: extra requests are at most the budget's share of all, and `BURST` more; the frames
//! of a call are those of one gateway, whose bytes began first: the other stream is dropped with
//! what came of it. A stream in whose middle a fetch goes on is not asked for twice, since
//! another region may have other bytes of the block.
//!
//! Not here: whether who came too late lives. `warm` finds out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kvmesh_client::follow::Link;
use kvmesh_directory::{
    RegionId,
    cost::{Estimate, Z95},
    view::RegionSet,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Fetch,
    transfer::{Patience, Wanted},
};
use crate::{
    context::Gateway,
    frame::Frame,
    lanes::{self, Lanes},
    links::Timing,
    reach,
    rpc::ask::{self, Ask, Failure, Frames},
};

/// Extra requests that may come together.
const BURST: u64 = 4;
/// What one of them takes of the budget, which is in thousandths.
const ONE: u64 = 1_000;
/// First bytes are not late before so long after their median: on a fast link that is noise.
const LATE_MIN: Duration = Duration::from_millis(20);

/// Extra requests that there may be.
pub(crate) struct Hedges(AtomicU64);

impl Default for Hedges {
    fn default() -> Self {
        Self(AtomicU64::new(BURST * ONE))
    }
}

impl Hedges {
    /// A request was made, of which extra ones may be a share (thousandths).
    fn earn(&self, share: u64) {
        let more = |left: u64| Some((left + share).min(BURST * ONE));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether there may be an extra one now.
    fn spend(&self) -> bool {
        let less = |left: u64| left.checked_sub(ONE);
        let spent = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        spent.is_ok()
    }
}

/// When the first bytes are late; none: nothing is known of the link.
fn late_after(first_byte: &Estimate) -> Option<Duration> {
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let (median, p95) = (first_byte.median, first_byte.quantile(Z95));
    let late = (median > 0.0).then(|| seconds(median).zip(seconds(p95)))?;
    late.map(|(median, p95)| p95.max(median + LATE_MIN))
}

/// A gateway of another region, as one call asks it.
pub(super) struct Way {
    pub(super) region: RegionId,
    pub(super) address: String,
    pub(super) lane: usize,
    pub(super) lanes: Lanes,
    pub(super) timing: Arc<Timing>,
    /// In which its answer begins.
    pub(super) limit: Duration,
}

/// An answer that began.
pub(super) struct Opened {
    frames: Frames,
    first: Option<Frame>,
}

type Answer = Result<Opened, Failure>;

impl Opened {
    /// The next frame; none: the stream has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Failure> {
        match self.first.take() {
            Some(frame) => Ok(Some(frame)),
            None => self.frames.next().await,
        }
    }

    fn has_bytes(&self) -> bool {
        matches!(self.first, Some(Frame::Block { .. }))
    }
}

/// What came of asking.
pub(super) struct Asked {
    pub(super) answer: Answer,
    /// Whose answer it is, if not that of the one who was asked first.
    pub(super) instead: Option<Way>,
    /// Who was asked besides, and could not be reached.
    pub(super) unreached: Option<String>,
    /// Who was asked besides is of the region, and answered.
    pub(super) lives: bool,
}

/// Asks a gateway, and when its first bytes are late another one besides: of the same region,
/// else of another one that has all that is `wanted`.
pub(super) async fn ask(
    gateway: &Gateway,
    fetch: &Fetch,
    way: &Way,
    ask: Ask,
    wanted: &Wanted<'_>,
) -> Asked {
    let share = gateway.settings.now().hedge_budget_permille;
    gateway.hedges.earn(share);
    let first = open(gateway, fetch, way, ask.clone());
    tokio::pin!(first);
    let cost = gateway.links.cost(&fetch.region, &fetch.link);
    let late = late_after(&cost.first_byte).filter(|_| share > 0 && ask.ranges.is_whole());
    if let Some(late) = late
        && let Ok(answer) = timeout(late, &mut first).await
    {
        return Asked::first(answer);
    }
    let second = late.and_then(|_| second(gateway, fetch, way, wanted));
    let Some(second) = second.filter(|_| may_spend(gateway)) else {
        return Asked::first(first.await);
    };
    let hedge = open(gateway, fetch, &second, ask);
    match race(first, hedge).await {
        Won::First(answer, other) => {
            gateway.meters.hedged("lost");
            let unreached = matches!(&other, Some(Err(failure)) if failure.unreachable);
            if unreached {
                gateway.peers.failed(&second.address);
            }
            Asked {
                lives: other.is_some() && !unreached && second.region == fetch.region,
                unreached: unreached.then_some(second.address),
                ..Asked::first(answer)
            }
        }
        Won::Second(opened) => {
            gateway.meters.hedged("won");
            // Nobody waits for it any more, which must not hide that it is dead.
            gateway.peers.doubt(&way.region, &way.address);
            way.timing.late();
            fetch.answered.cancel();
            Asked {
                answer: Ok(opened),
                lives: second.region == fetch.region,
                instead: Some(second),
                unreached: None,
            }
        }
    }
}

impl Asked {
    fn first(answer: Answer) -> Self {
        Self {
            answer,
            instead: None,
            unreached: None,
            lives: false,
        }
    }
}

fn may_spend(gateway: &Gateway) -> bool {
    let may = gateway.hedges.spend();
    if !may {
        gateway.meters.hedged("refused");
    }
    may
}

/// Whom else to ask, if anybody waits for the blocks who does not only copy them.
fn second(gateway: &Gateway, fetch: &Fetch, way: &Way, wanted: &Wanted<'_>) -> Option<Way> {
    if !wanted.values().any(|led| led.flight.is_awaited()) {
        return None;
    }
    let beside = gateway.peers.in_turn(&fetch.link.gateways);
    let mut beside = beside.into_iter().filter(|it| *it != way.address);
    let (region, link, address) = match beside.find(|it| !gateway.peers.is_failing(it)) {
        Some(address) => (fetch.region.clone(), fetch.link.clone(), address),
        None => elsewhere(gateway, fetch, wanted)?,
    };
    let limit = match region == fetch.region {
        true => way.limit,
        false => Patience::new(gateway, &link).left()?,
    };
    let lane = fetch.lane % lanes::of_link(gateway, &region, &link);
    Some(Way {
        lane,
        lanes: Lanes::to(gateway, &region, &address, lane),
        timing: Arc::new(gateway.links.time(&region, &link, 1, (fetch.class, 0))),
        region,
        address,
        limit,
    })
}

/// The nearest other region that may be asked, by the rules of [`reach`], and has all blocks.
fn elsewhere(
    gateway: &Gateway,
    fetch: &Fetch,
    wanted: &Wanted<'_>,
) -> Option<(RegionId, Link, String)> {
    let others = reach::others(gateway, &fetch.namespace).asked;
    let lacking = gateway.absent.read();
    let (region, link) = gateway.views.mesh.with(|mesh| {
        let sets = wanted.values().map(|led| {
            let name = &led.flight.name;
            let (set, _) = mesh.whereabouts(name.tag());
            lacking.less(mesh, name, set)
        });
        let all = sets.reduce(|all, set| RegionSet(all.0 & set.0))?;
        let mut others = others.into_iter().filter(|it| it.0 != fetch.region);
        others.find(|(region, _)| mesh.names(all, region))
    })?;
    let address = gateway.peers.in_turn(&link.gateways).into_iter().next()?;
    Some((region, link, address))
}

/// Asks one gateway, up to its first frame.
async fn open(gateway: &Gateway, fetch: &Fetch, way: &Way, ask: Ask) -> Answer {
    gateway.meters.outbound("Get");
    let channel = gateway.peers.far(&way.region, &way.address, way.lane)?;
    let until = ask.until;
    let asking = ask::get(channel, way.region.clone(), ask);
    let mut frames = answer(&way.lanes, way.limit, until, asking).await?;
    if way.region == fetch.region {
        fetch.answered.cancel();
    }
    let first = frames.next().await?;
    Ok(Opened { frames, first })
}

/// The beginning of an answer, within the limit: after it a gateway is given up for silent, but
/// not while it sends blocks of other calls, however slowly. By its own lane the answer waits behind
/// them; where they come by others, the link is full and takes time to bring what it lost of this
/// one, whose connection is given up by itself if it is dead.
async fn answer<T>(
    lanes: &Lanes,
    limit: Duration,
    until: Instant,
    asking: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::pin!(asking);
    loop {
        let end = until.min(Instant::now() + limit);
        match timeout_at(end, &mut asking).await {
            Ok(answered) => return answered,
            Err(_) if end < until && lanes.busiest().is_some() => {}
            Err(_) => return Err(Failure::silent(limit)),
        }
    }
}

/// How a race ended.
enum Won {
    /// Also with none of them; and whether the second one answered or failed, if it did before.
    First(Answer, Option<Result<(), Failure>>),
    Second(Opened),
}

/// Whose bytes begin first. Where the first one ends without any, the second one is whom its
/// region would be asked next.
async fn race(first: impl Future<Output = Answer>, second: impl Future<Output = Answer>) -> Won {
    tokio::pin!(first, second);
    let (begun, other) = tokio::select! {
        answer = &mut first => (Some(answer), None),
        answer = &mut second => (None, Some(answer)),
    };
    match (begun, other) {
        (Some(Ok(opened)), _) if opened.has_bytes() => Won::First(Ok(opened), None),
        (_, Some(Ok(opened))) if opened.has_bytes() => Won::Second(opened),
        (Some(answer), _) => match second.await {
            Ok(opened) if opened.has_bytes() => Won::Second(opened),
            other => Won::First(answer, Some(other.map(drop))),
        },
        (None, other) => Won::First(first.await, other.map(|it| it.map(drop))),
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_client::channel::{BoxedIo, Channels, Connect, Connecting};
    use tokio::{
        io::{AsyncWriteExt, duplex},
        time::{interval, timeout},
    };
    use tokio_util::task::TaskTracker;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    /// Connects to an end that sends so many bytes every tenth of a second, and never an answer.
    struct Drips(u8);

    impl Connect for Drips {
        fn connect(&self, _: &str) -> Connecting {
            let bytes = self.0;
            let (own, mut end) = duplex(1 << 20);
            TaskTracker::new().spawn(async move {
                // SETTINGS, and then frames of a type that HTTP/2 does not have: they are ignored.
                end.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
                let mut ticks = interval(ms(100));
                loop {
                    ticks.tick().await;
                    end.write_all(&[0, 0, bytes, 0xfa, 0, 0, 0, 0, 0]).await?;
                    end.write_all(&vec![0; bytes.into()]).await?;
                }
                #[expect(unreachable_code)]
                Ok::<_, std::io::Error>(())
            });
            Box::pin(async { Ok(BoxedIo::new(own)) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_while_blocks_of_others_come_however_slowly() {
        // 2 kB/s by one of two lanes, and what may be probes.
        for (bytes, lane, waits) in [(200, 0, true), (200, 1, true), (8, 0, false)] {
            let [near, far] = [bytes, 0].map(|bytes| Channels::new(Arc::new(Drips(bytes))));
            let lanes = [near, far].map(|it| it.to("far:1").unwrap());
            let check = HealthCheckRequest::default();
            let mut other = HealthClient::new(lanes[1 - lane].clone());
            let mut client = HealthClient::new(lanes[lane].clone());
            let asking = async {
                let both = async { tokio::join!(client.check(check.clone()), other.check(check)) };
                timeout(ms(3_000), both).await.unwrap_err();
                Ok(())
            };
            let until = Instant::now() + ms(10_000);
            let lanes = Lanes::of(lanes.into_iter().enumerate());
            let answered = answer(&lanes, ms(660), until, asking).await;
            assert_eq!(answered.is_ok(), waits, "{bytes} {lane}");
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn extra_requests_are_a_share_of_all_and_a_few() {
        let hedges = Hedges::default();
        let spent = |asked: usize, share: u64| {
            let spend = (0..asked).filter(|_| {
                hedges.earn(share);
                hedges.spend()
            });
            spend.count()
        };
        assert_eq!(spent(BURST as usize + 9, 0), BURST as usize);
        assert_eq!(spent(1_000, 50), 50);
        assert_eq!(spent(19, 50), 0);
        // What is not spent is not kept, but for a few.
        (0..1_000).for_each(|_| hedges.earn(50));
        assert_eq!(spent(10, 0), BURST as usize);
    }

    #[test]
    fn bytes_are_late_after_the_95th_percentile_and_a_floor() {
        let late = |median, sigma| late_after(&Estimate { median, sigma });
        assert_eq!(late(0.080, 0.0), Some(ms(100)));
        assert_eq!(late(0.001, 1.0), Some(ms(21)), "noise of a fast link");
        let spread = late(0.080, 1.0).unwrap();
        assert!(spread > ms(414) && spread < ms(415), "{spread:?}");
        // Nothing is known yet.
        assert_eq!(late(0.0, 0.0), None);
        assert_eq!(late(f64::NAN, 0.0), None);
        assert_eq!(late(1.0, f64::INFINITY), None);
    }
}
