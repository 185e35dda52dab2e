//! Fetches from another region over several connections, and such as break under way.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_client::channel::{BoxedIo, Connect, Connecting, TcpConnect, received_at_once};
use kvmesh_proto::v1::GetOutcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    time::interval,
};
use tokio_util::sync::CancellationToken;

use crate::fakes::{
    Mood,
    start::{World, block, get_by, places, spawn, until},
};

const PIECE: usize = 1 << 20;

/// What was asked for: indexes, and the first byte of each range.
fn asked(world: &World) -> Vec<(Vec<u32>, Vec<u64>)> {
    let asked = world.far.asked.lock().unwrap();
    let asked = asked.iter().map(|it| {
        let from = it.ranges.iter().map(|range| range.offset).collect();
        (it.select.clone(), from)
    });
    asked.collect()
}

#[tokio::test]
async fn a_long_fetch_is_dealt_to_lanes_and_comes_in_order() {
    let world = World::start(1, |_| {}).await;
    // 125 MB/s and 80 ms: five lanes of 2 MiB.
    let at = world.place_far(1, 0..12, PIECE);
    world.reach(at).await;
    let (got, summary) = world.get(world.get_request(12)).await;
    assert_eq!(places(&got), (0..12).collect::<Vec<_>>());
    assert_eq!(summary.outcome(), GetOutcome::Complete);
    for (index, got) in (0..).zip(&got) {
        assert_eq!(got.bytes, block(index, PIECE).pieces.concat());
    }
    let mut asked = asked(&world);
    asked.sort();
    let lane = |first: u32| (first..12).step_by(5).collect::<Vec<_>>();
    let lanes: Vec<_> = (0..5).map(|first| (lane(first), Vec::new())).collect();
    assert_eq!(asked, lanes);
}

#[tokio::test]
async fn a_fetch_that_breaks_goes_on_and_what_came_does_not_come_again() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..2, 2 * PIECE + 7);
    world
        .mesh
        .link("eu-west", 1.0, std::slice::from_ref(&world.far_address));
    let at_two = world.mesh.has("eu-west", 2, &[]);
    world.reach(at).await;
    world.reach(at_two).await;
    world.far.be(Mood::BreaksOnce);
    let (got, summary) = world.get(world.get_request(2)).await;
    assert_eq!(summary.outcome(), GetOutcome::Complete, "{summary:?}");
    for (index, got) in (0..).zip(&got) {
        assert_eq!(got.bytes, block(index, 2 * PIECE + 7).pieces.concat());
    }
    let rest = (vec![0], vec![PIECE as u64]);
    assert_eq!(
        asked(&world),
        [(vec![0, 1], vec![]), rest, (vec![1], vec![])]
    );
}

#[tokio::test]
async fn the_rest_of_another_put_is_not_taken_for_it() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..1, 2 * PIECE + 7);
    world.reach(at).await;
    world.far.be(Mood::Fickle);
    let (got, summary) = world.get(world.get_request(1)).await;
    assert!(got.is_empty(), "{summary:?}");
    assert_eq!(asked(&world).len(), 2);
    // It is had whole from now on.
    let (got, _) = world.get(world.get_request(1)).await;
    assert_eq!(got[0].bytes, block(0, 2 * PIECE + 7).pieces.concat());
}

/// Connects slowly to one address; from some time on, to nobody there.
#[derive(Default)]
struct Narrow {
    to: Mutex<String>,
    /// Those that were made, each of which can be broken.
    made: Mutex<Vec<CancellationToken>>,
    full: CancellationToken,
    refused: AtomicUsize,
}

impl Connect for Narrow {
    fn connect(&self, address: &str) -> Connecting {
        if *self.to.lock().unwrap() != address {
            return TcpConnect.connect(address);
        }
        if self.full.is_cancelled() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Box::pin(std::future::pending());
        }
        let (connecting, broken) = (TcpConnect.connect(address), CancellationToken::new());
        self.made.lock().unwrap().push(broken.clone());
        Box::pin(async move {
            let far = connecting.await?;
            let (near, end) = duplex(1 << 16);
            spawn(async move {
                broken.run_until_cancelled(carry(far, end)).await;
            });
            Ok(BoxedIo::new(near))
        })
    }
}

/// Some 8 MB/s of what comes; what goes is not slowed.
async fn carry(far: BoxedIo, near: DuplexStream) {
    let ((mut from, mut to), (mut asks, mut answers)) = (split(far), split(near));
    let come = async {
        let (mut turns, mut bytes) = (interval(Duration::from_millis(8)), vec![0; 1 << 16]);
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            turns.tick().await;
            answers.write_all(&bytes[..read]).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        _ = come => {}
        _ = tokio::io::copy(&mut asks, &mut to) => {}
    }
}

#[tokio::test]
async fn a_fetch_takes_no_more_connections_than_what_one_carries_asks_for() {
    let world = World::start(1, |_| {}).await;
    let narrow = Arc::new(Narrow::default());
    narrow.to.lock().unwrap().clone_from(&world.far_address);
    world.far.sent_at_once.store(4 << 20, Ordering::Relaxed);
    let client = world
        .gateway_over(Arc::clone(&narrow) as Arc<dyn Connect>)
        .await;
    let at = world.place_far(1, 0..12, PIECE);
    world.shows(&client, &at).await;
    // 125 MB/s and 80 ms are five of 2 MiB, fewer by what this kernel receives by one.
    let lanes = 10_000_000_u64.div_ceil(received_at_once().min(4 << 20));
    let far = std::slice::from_ref(&world.far_address);
    world.mesh.link("eu-west", 80.0, far);
    let made = || narrow.made.lock().unwrap().len() as u64;
    until(|| made() == lanes).await;
    // So many are kept warm, and a fetch adds none.
    let (got, _) = get_by(&client, world.get_request(12)).await;
    assert_eq!(places(&got), (0..12).collect::<Vec<_>>());
    assert!(lanes < 5 && made() == lanes, "{} of {lanes}", made());
}

#[tokio::test]
async fn a_lane_that_breaks_on_a_full_link_is_no_dead_region() {
    let world = World::start(1, |settings| settings.connect_timeout_ms = 500).await;
    let narrow = Arc::new(Narrow::default());
    narrow.to.lock().unwrap().clone_from(&world.far_address);
    let client = world
        .gateway_over(Arc::clone(&narrow) as Arc<dyn Connect>)
        .await;
    let at = world.place_far(1, 0..12, PIECE);
    world.shows(&client, &at).await;
    // 50 MB/s and 80 ms: two lanes, of 6 MiB each.
    let far = std::slice::from_ref(&world.far_address);
    world.mesh.link_of("eu-west", 80.0, 50e6, far);
    let made = || narrow.made.lock().unwrap().clone();
    until(|| made().len() == 2).await;

    narrow.full.cancel();
    made()[1].cancel();
    let (got, summary) = get_by(&client, world.get_request(12)).await;
    assert_eq!(summary.outcome(), GetOutcome::Complete, "{summary:?}");
    assert_eq!(places(&got), (0..12).collect::<Vec<_>>());
    assert!(narrow.refused.load(Ordering::Relaxed) > 0);
}
