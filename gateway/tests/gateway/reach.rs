//! Other regions that are dead, away, or of which nothing is heard.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_client::{
    ToWire,
    channel::{Channel, Connect, Connecting, TcpConnect},
};
use kvmesh_directory::{Command, Hlc, Namespace, Policy, namespace::Fallback};
use kvmesh_proto::v1::{
    self as wire, GetOutcome, LeftOutReason, PeerState, cache_client::CacheClient,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::fakes::{
    Mood, mesh,
    start::{World, block, chain, places, spawn, until},
};

/// Connects to nobody who is dead: a call there waits, as behind a link that swallows packets.
#[derive(Default)]
struct Counting {
    dead: Mutex<BTreeSet<String>>,
    tries: AtomicUsize,
}

impl Connect for Counting {
    fn connect(&self, address: &str) -> Connecting {
        if !self.dead.lock().unwrap().contains(address) {
            return TcpConnect.connect(address);
        }
        self.tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

async fn get(
    client: &CacheClient<Channel>,
    request: wire::GetRequest,
) -> (usize, wire::GetSummary) {
    let mut stream = client.clone().get(request).await.unwrap().into_inner();
    let mut whole = 0;
    while let Some(frame) = stream.message().await.unwrap() {
        if let Some(summary) = frame.summary {
            return (whole, summary);
        }
        whole += usize::from(frame.end == wire::BlockEnd::Complete as i32);
    }
    panic!("the stream ended without a summary");
}

fn left_out(summary: &wire::GetSummary) -> Vec<(String, LeftOutReason)> {
    let left_out = summary.left_out.iter();
    left_out
        .map(|it| (it.region.clone(), it.reason()))
        .collect()
}

#[tokio::test]
async fn a_dead_region_costs_one_connect_timeout_once_and_then_nothing() {
    let world = World::start(1, |settings| settings.connect_timeout_ms = 500).await;
    let connector = Arc::new(Counting::default());
    let dead = ["a:1", "b:1", "c:1"].map(str::to_owned);
    connector.dead.lock().unwrap().extend(dead.clone());
    let client = world
        .gateway_over(Arc::clone(&connector) as Arc<dyn Connect>)
        .await;
    let at = world.place_far(1, 0..3, 900);
    world.mesh.link("eu-west", 10.0, &dead);
    let at_two = world.mesh.has("eu-west", 2, &[]);
    world.shows(&client, &at).await;
    world.shows(&client, &at_two).await;

    // Whoever comes first may pay, however many gateways the region has.
    let begun = Instant::now();
    let (whole, summary) = get(&client, world.get_request(3)).await;
    assert_eq!(whole, 0, "{summary:?}");
    assert!(
        begun.elapsed() < Duration::from_millis(1_400),
        "{:?}",
        begun.elapsed()
    );

    // Nobody pays after that, and no call connects: `warm` alone goes on trying.
    let (begun, before) = (Instant::now(), connector.tries.load(Ordering::Relaxed));
    for _ in 0..100 {
        let began = Instant::now();
        let (_, summary) = get(&client, world.get_request(3)).await;
        assert_eq!(summary.outcome(), GetOutcome::Miss);
        assert!(summary.local_only);
        let want = [("eu-west".to_owned(), LeftOutReason::Unreached)];
        assert_eq!(left_out(&summary), want);
        assert!(
            began.elapsed() < Duration::from_millis(450),
            "{:?}",
            began.elapsed()
        );
    }
    let tries = connector.tries.load(Ordering::Relaxed) - before;
    let turns = begun.elapsed().as_millis() as usize / 500 + 2;
    assert!(
        tries <= dead.len() * turns,
        "{tries} connects in {:?}",
        begun.elapsed()
    );

    // It comes back by itself: the address is that of a gateway which answers.
    world
        .mesh
        .link("eu-west", 10.0, std::slice::from_ref(&world.far_address));
    let back = async {
        loop {
            let (whole, _) = get(&client, world.get_request(3)).await;
            if whole == 3 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back)
        .await
        .unwrap();
}

/// The way to the region is one that swallows everything from `dead` on; connections stay open.
/// It was just found to be well, so that it is not tried again for a while.
pub(crate) async fn goes_by_a_way(world: &World, dead: &CancellationToken) -> String {
    let (address, dead) = (world.far_address.clone(), dead.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let (address, dead) = (address.clone(), dead.clone());
            spawn(async move {
                let mut far = TcpStream::connect(address).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = dead.cancelled() => std::future::pending().await,
                }
            });
        }
    });
    // Two lanes: the second one is opened when the first one has answered.
    world
        .mesh
        .link_of("eu-west", 10.0, 300e6, std::slice::from_ref(&way));
    until(|| connections.load(Ordering::Relaxed) == 2).await;
    way
}

#[tokio::test]
async fn a_dead_region_is_found_by_gets_that_would_rather_recompute() {
    let world = World::start_with(1, Fallback::WhenFaster, |settings| {
        settings.connect_timeout_ms = 500;
    })
    .await;
    // 200 ms for three blocks: no get waits as long as a silent gateway may take.
    let declared = Namespace {
        policy: Policy {
            prefill_rate: 240.0,
            ..world.namespace.policy.clone()
        },
        policy_hlc: Hlc(9),
        ..world.namespace.clone()
    };
    world.region.apply(Command::OpenNamespace(declared));
    world.catch_up().await;
    let dead = CancellationToken::new();
    world.place_far(1, 0..4, 900);
    goes_by_a_way(&world, &dead).await;
    world.reach(world.mesh.has("eu-west", 2, &[])).await;
    let last = wire::GetRequest {
        start: 3,
        count: 1,
        deadline_ms: 5_000,
        ..world.get_request(4)
    };
    let (got, _) = world.get(last).await;
    assert_eq!(places(&got), [3]);

    dead.cancel();
    let begun = Instant::now();
    let (_, summary) = world.get(world.get_request(3)).await;
    assert_eq!(summary.outcome(), GetOutcome::Recompute);
    while !summary_of_three(&world).await.local_only {
        // The connection itself looks alive for four seconds.
        assert!(begun.elapsed() < Duration::from_millis(2_500));
        tokio::task::yield_now().await;
    }
    let summary = summary_of_three(&world).await;
    let want = [("eu-west".to_owned(), LeftOutReason::Unreached)];
    assert_eq!(left_out(&summary), want);
}

async fn summary_of_three(world: &World) -> wire::GetSummary {
    world.get(world.get_request(3)).await.1
}

#[tokio::test]
async fn regions_that_are_away_or_not_heard_of_are_left_out_and_the_answer_says_so() {
    let world = World::start(1, |_| {}).await;
    world.place(0, 900, &[1]);
    let at = world.place_far(1, 0..3, 900);
    world.catch_up().await;
    world.reach(at).await;
    let address = std::slice::from_ref(&world.far_address);
    let silent = wire::LinkState {
        age_ms: 31_000,
        ..mesh::link(80.0, address)
    };
    let in_state = |state: PeerState, reachable| wire::LinkState {
        state: state.into(),
        reachable,
        ..mesh::link(80.0, address)
    };
    let cases = [
        (silent, Some(LeftOutReason::ViewOld)),
        (in_state(PeerState::Suspect, true), None),
        (
            in_state(PeerState::Offline, false),
            Some(LeftOutReason::State),
        ),
        (
            in_state(PeerState::CatchingUp, false),
            Some(LeftOutReason::State),
        ),
        (in_state(PeerState::Online, true), None),
    ];
    for (index, (link, reason)) in cases.into_iter().enumerate() {
        world.mesh.link_is("eu-west", link);
        let at = world.mesh.has("eu-west", 2 + index as u64, &[]);
        world.reach(at).await;
        let lookup = wire::LookupRequest {
            namespace_id: world.namespace.id.to_wire(),
            chains: vec![wire::ChainQuery {
                chain: Some(chain(3)),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = world
            .client
            .clone()
            .lookup(lookup)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.local_only, reason.is_some());
        let reasons: Vec<_> = answer.left_out.iter().map(wire::LeftOut::reason).collect();
        assert_eq!(reasons, Vec::from_iter(reason));
        assert_eq!(answer.matches[0].remote.is_empty(), reason.is_some());
        if reason.is_some() {
            let (got, summary) = world.get(world.get_request(3)).await;
            assert_eq!(places(&got), [0]);
            assert!(summary.local_only);
            assert_eq!(summary.outcome(), GetOutcome::Miss);
        }
    }
    let (got, summary) = world.get(world.get_request(3)).await;
    assert_eq!(places(&got), [0, 1, 2]);
    assert!(!summary.local_only && summary.left_out.is_empty());
}

#[tokio::test]
async fn a_lost_region_s_requests_turn_to_another_one_up_to_a_share() {
    let world = World::start(1, |_| {}).await;
    let at = world.place_far(1, 0..8, 900);
    let (other, address) = world.another_far("ap-south").await;
    let names: Vec<_> = (0..8).map(|index| (world.name(index, 0), 900)).collect();
    for index in 0..8 {
        other.keep(world.name(index, 0), block(index, 900));
    }
    world.mesh.link("ap-south", 90.0, &[address]);
    let there = world.mesh.has("ap-south", 1, &names);
    let lost = wire::LinkState {
        state: PeerState::Offline.into(),
        reachable: false,
        ..mesh::link(80.0, std::slice::from_ref(&world.far_address))
    };
    world.mesh.link_is("eu-west", lost);
    let at_two = world.mesh.has("eu-west", 2, &[]);
    for position in [at, there, at_two] {
        world.reach(position).await;
    }
    let held = other.gate.available_permits();
    other.gate.forget_permits(held);
    let one = |index: u32| wire::GetRequest {
        start: index,
        count: 1,
        ..world.get_request(8)
    };
    // Four turn, and wait; a fifth of so few is less than the next one.
    let waiting = futures::future::join_all((0..4).map(|index| world.get(one(index))));
    let refused = async {
        until(|| other.gets.load(Ordering::Relaxed) == 4).await;
        for index in 4..8 {
            let (got, summary) = world.get(one(index)).await;
            assert!(got.is_empty());
            assert_eq!(summary.outcome(), GetOutcome::Miss);
            let share = ("ap-south".to_owned(), LeftOutReason::FailoverShare);
            assert!(left_out(&summary).contains(&share), "{summary:?}");
        }
        other.gate.add_permits(100);
    };
    let (served, ()) = tokio::join!(waiting, refused);
    for (index, (got, _)) in served.iter().enumerate() {
        assert_eq!(places(got), [index as u32]);
    }
    let (got, _) = world.get(one(7)).await;
    assert_eq!(places(&got), [7]);
    assert_eq!(world.far.gets.load(Ordering::Relaxed), 0);
}

/// The same where the region is thought well and its gateway fails, in either order.
#[tokio::test]
async fn gets_whose_region_fails_turn_to_another_one_up_to_a_share() {
    for any_order in [false, true] {
        let world = World::start(1, |_| {}).await;
        world.far.be(Mood::BreaksOff);
        let at = world.place_far(1, 0..8, 900);
        let (other, address) = world.another_far("ap-south").await;
        let names: Vec<_> = (0..8).map(|index| (world.name(index, 0), 900)).collect();
        for index in 0..8 {
            other.keep(world.name(index, 0), block(index, 900));
        }
        world.mesh.link("ap-south", 90.0, &[address]);
        let there = world.mesh.has("ap-south", 1, &names);
        for position in [at, there] {
            world.reach(position).await;
        }
        let held = other.gate.available_permits();
        other.gate.forget_permits(held);
        let one = |index: u32| wire::GetRequest {
            start: index,
            count: 1,
            any_order,
            ..world.get_request(8)
        };
        let waiting = futures::future::join_all((0..4).map(|index| world.get(one(index))));
        let refused = async {
            until(|| other.gets.load(Ordering::Relaxed) == 4).await;
            let (got, summary) = world.get(one(4)).await;
            assert!(got.is_empty());
            assert_eq!(summary.outcome(), GetOutcome::SourceFailed);
            other.gate.add_permits(100);
        };
        let (served, ()) = tokio::join!(waiting, refused);
        assert!(served.iter().all(|(got, _)| got.len() == 1), "{any_order}");
        assert_eq!(other.gets.load(Ordering::Relaxed), 4, "{any_order}");
    }
}
