//! What a feed left out is found by comparing, and mended here and at gateways.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use kvmesh_directory::{Command, FeedPosition, Hlc, PeerState, RegionId};
use tokio::time::Instant;
use tonic::Code;

use super::world_test::{Ours, World, compare, from_zero, settings};
use crate::{
    Settings,
    testing::{FakeRegion, block, deletion, evict, namespace, put, until},
};

#[tokio::test]
async fn a_block_that_is_missing_and_one_that_is_gone_are_found_and_mended() {
    let world = World::start(|_| {}).await;
    for number in 0..50 {
        world.eu.apply(put(&world.model, number, 10));
    }
    world.reaches(&world.eu.position()).await;
    // Neither this region-sync nor its gateway hears of these.
    let unsaid = world.eu.apply_unsaid(put(&world.model, 50, 10));
    world.reaches(&unsaid).await;
    until("the missing block is shown", || {
        world.shown() == world.blocks(0..=50)
    })
    .await;
    let unsaid = world.eu.apply_unsaid(evict(&world.model, 7));
    world.reaches(&unsaid).await;
    until("the block that is gone is not shown", || {
        world.shown() == world.blocks((0..=50).filter(|number| *number != 7))
    })
    .await;
    // Another content of the same name: its size was not heard either.
    world.eu.apply_unsaid(evict(&world.model, 8));
    let again = match put(&world.model, 8, 11) {
        Command::Blocks(mut changes) => {
            if let kvmesh_directory::ChangeKind::Claim(claim) = &mut changes[0].kind {
                claim.bytes = 77;
                claim.copies[0].copy.0 += 1_000;
            }
            Command::Blocks(changes)
        }
        other => other,
    };
    world.eu.apply_unsaid(again);
    let resized = (block(&world.model, 8).tag(), 77);
    until("its size is shown", || world.shown().contains(&resized)).await;
    assert_eq!(world.shown().len(), 50);
    assert!(
        world
            .eu
            .ranges
            .lock()
            .unwrap()
            .iter()
            .all(|ranges| *ranges == 1)
    );
}

#[tokio::test]
async fn a_delete_a_policy_and_a_raise_that_were_lost_are_brought() {
    let world = World::start(|settings| settings.compare_every_ms = 0).await;
    let mut other = namespace("other");
    world.eu.apply(Command::OpenNamespace(other.clone()));
    for number in 1..4 {
        world.eu.apply(put(&world.model, number, 10));
        world.us.apply(put(&world.model, number, 10));
    }
    world.reaches(&world.eu.position()).await;
    let equal = world.sync("eu", compare()).await.unwrap();
    assert_eq!((equal.ranges, equal.objects), (0, 0));

    let lost = deletion(&world.model, &[1, 2], 20);
    world.eu.apply_unsaid(Command::Delete(lost));
    other.policy.ttl_ms = 7_000;
    other.policy_hlc.0 += 1;
    world.eu.apply_unsaid(Command::OpenNamespace(other.clone()));
    world.eu.apply_unsaid(Command::RaiseGeneration {
        namespace: other.id,
        hlc: Hlc(50),
    });
    // One that is heard of goes on as ever.
    let heard = deletion(&world.model, &[3], 21);
    let last = world.eu.apply(Command::Delete(heard)).0;
    world.reaches(&last).await;
    let here = |number| {
        let name = block(&world.model, number);
        world.us.state.lock().unwrap().entry(&name).is_some()
    };
    assert_eq!([1, 2, 3].map(here), [true, true, false]);

    let end = world.sync("eu", compare()).await.unwrap();
    // Two names and a namespace: its policy and generation come together.
    assert_eq!((end.gone, end.objects), (2, 3));
    assert_eq!([1, 2, 3].map(here), [false; 3]);
    let ours = world.us.state.lock().unwrap().namespace(other.id).cloned();
    let ours = ours.expect("it is open here");
    assert_eq!((ours.policy.ttl_ms, ours.generation), (7_000, Hlc(50)));

    // While they are the same they are not read again.
    let read = world.eu.objects.load(Ordering::Relaxed);
    let end = world.sync("eu", compare()).await.unwrap();
    assert_eq!((end.ranges, end.objects), (0, 0));
    assert_eq!(world.eu.objects.load(Ordering::Relaxed), read);
}

/// Neither waits for the other, and what both commit counts once.
#[tokio::test]
async fn two_region_syncs_of_a_region_mend_the_same_at_once() {
    let off = |settings: &mut Settings| settings.compare_every_ms = 0;
    let world = World::start(off).await;
    let mut same = settings(&world.us, &world.eu);
    off(&mut same);
    let other = Ours::start(same).await;
    let both = [&world.ours, &other];
    for number in 1..4 {
        world.eu.apply(put(&world.model, number, 10));
        world.us.apply(put(&world.model, number, 10));
    }
    for round in 0..5 {
        let (before, hlc) = (world.eu.position(), 20 + 10 * u64::from(round));
        for ours in both {
            ours.reaches(&before).await;
            ours.sync("eu", compare()).await.unwrap();
        }
        let asked = world.us.asked.lock().unwrap().len();
        let number = 100 + 2 * round;
        world.eu.apply_unsaid(put(&world.model, number, hlc));
        world.us.apply(put(&world.model, number + 1, hlc));
        let lost = deletion(&world.model, &[number + 1], hlc + 1);
        let last = world.eu.apply_unsaid(Command::Delete(lost));
        for ours in both {
            ours.reaches(&last).await;
        }
        let mending = both.map(|ours| ours.sync("eu", compare()));
        for end in futures::future::join_all(mending).await {
            let end = end.unwrap();
            assert_eq!((end.missing, end.gone, end.resized), (1, 0, 0));
            assert!(end.objects <= 1, "the other one may have been there");
        }
        let asked = world.us.asked.lock().unwrap().len() - asked;
        assert!((1..=2).contains(&asked), "{asked} commands");
        let deleted = block(&world.model, number + 1);
        assert!(world.us.state.lock().unwrap().entry(&deleted).is_none());
        for ours in both {
            let end = ours.sync("eu", compare()).await.unwrap();
            assert_eq!((end.ranges, end.objects), (0, 0));
            let put = (0..=round).map(|round| 100 + 2 * round);
            assert_eq!(ours.shown(), world.blocks((1..4).chain(put)));
        }
    }
}

#[tokio::test]
async fn nothing_is_mended_while_nothing_differs_however_much_is_written() {
    let world = World::start(|_| {}).await;
    let begun = Instant::now();
    let (mut number, mut compared) = (0, 0);
    while compared < 20 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{compared} comparisons"
        );
        for _ in 0..20 {
            world.eu.apply(put(&world.model, number, 10));
            if number >= 20 {
                world.eu.apply(evict(&world.model, number - 20));
            }
            number += 1;
        }
        // No faster than the view can follow, and never at rest.
        let index = world.eu.position().index.saturating_sub(200);
        let near = FeedPosition {
            index,
            ..world.eu.position()
        };
        world.reaches(&near).await;
        compared = world.digests();
    }
    world.reaches(&world.eu.position()).await;
    assert_eq!(
        world.reads(),
        0,
        "in {compared} comparisons over {number} puts"
    );
    assert_eq!(world.shown(), world.blocks(number - 20..number));
}

#[tokio::test]
async fn what_is_mended_under_writes_is_right() {
    let world = World::start(|_| {}).await;
    let mut left = BTreeSet::new();
    for number in 0..600 {
        match number % 3 {
            0 => world.eu.apply_unsaid(put(&world.model, number, 10)),
            _ => world.eu.apply(put(&world.model, number, 10)).0,
        };
        left.insert(number);
        if number >= 30 && number % 2 == 0 {
            match number % 5 {
                0 => world.eu.apply_unsaid(evict(&world.model, number - 30)),
                _ => world.eu.apply(evict(&world.model, number - 30)).0,
            };
            left.remove(&(number - 30));
        }
        tokio::task::yield_now().await;
    }
    until("all is right", || {
        world.shown() == world.blocks(left.clone())
    })
    .await;
    // And stays so.
    let reads = world.reads();
    world.compared(3).await;
    assert_eq!(world.reads(), reads);
    assert_eq!(world.shown(), world.blocks(left));
}

#[tokio::test]
async fn what_is_mended_is_pushed_where_it_was_to_be() {
    let world = World::start(|_| {}).await;
    let mut pushed = namespace("pushed");
    pushed.policy.replication = kvmesh_directory::namespace::ReplicationMode::Push;
    pushed.policy.regions = vec!["us".parse().unwrap()];
    world.eu.apply(Command::OpenNamespace(pushed.clone()));
    let here = |number| {
        let name = block(&pushed, number);
        world.us.state.lock().unwrap().entry(&name).is_some()
    };
    world.eu.apply(put(&pushed, 1, 10));
    until("a block is pushed", || here(1)).await;
    world.eu.apply_unsaid(put(&pushed, 2, 10));
    until("one that was not heard of is pushed as well", || here(2)).await;
}

#[tokio::test]
async fn no_more_is_mended_in_a_second_than_may() {
    let world = World::start(|settings| {
        settings.mend_blocks_per_second = 100;
        settings.compare_every_ms = 0;
    })
    .await;
    for number in 0..250 {
        world.eu.apply_unsaid(put(&world.model, number, 10));
    }
    world.reaches(&world.eu.position()).await;
    let begun = Instant::now();
    let end = world.sync("eu", compare()).await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(2_400),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!((end.missing, end.gone, end.blocks), (250, 0, 250));
    assert!(world.reads() >= 3, "{} reads", world.reads());
    assert_eq!(world.shown(), world.blocks(0..250));
}

#[tokio::test]
async fn a_peer_of_an_earlier_version_is_left_be() {
    let world = World::start(|settings| settings.compare_every_ms = 0).await;
    world.eu.compares.store(false, Ordering::Relaxed);
    let unsaid = world.eu.apply_unsaid(put(&world.model, 1, 10));
    world.reaches(&unsaid).await;
    let (code, message) = world.refused("eu", compare()).await;
    assert_eq!(code, Code::FailedPrecondition, "{message}");
    assert!(message.contains("--from-zero"), "{message}");
    assert_eq!(world.shown(), world.blocks([]));
    // What it sends is read from the start all the same.
    let end = world.sync("eu", from_zero()).await.unwrap();
    assert_eq!((end.blocks, end.position.unwrap().index), (1, unsaid.index));
    until("the block is shown", || world.shown() == world.blocks([1])).await;
}

#[tokio::test]
async fn from_zero_and_since_mend_what_was_lost_deletes_included() {
    for how in ["from zero", "since"] {
        let world = World::start(|settings| settings.compare_every_ms = 0).await;
        let before = world.eu.apply(put(&world.model, 1, 10)).0;
        for number in 2..5 {
            world.eu.apply(put(&world.model, number, 10));
        }
        world.us.apply(put(&world.model, 2, 10));
        world.eu.apply_unsaid(put(&world.model, 5, 10));
        let lost = deletion(&world.model, &[2], 20);
        world.eu.apply_unsaid(Command::Delete(lost));
        // A delete after it is carried over, and its position with it.
        let last = world
            .eu
            .apply(Command::Delete(deletion(&world.model, &[3], 21)))
            .0;
        world.reaches(&last).await;
        assert_eq!(world.shown(), world.blocks([1, 2, 4]));
        assert_eq!(world.us.stands_at("eu"), Some(last.clone()));
        let here = || {
            let name = block(&world.model, 2);
            world.us.state.lock().unwrap().entry(&name).is_some()
        };
        assert!(here());
        // Now the feed says what it left out.
        world.eu.loses.lock().unwrap().clear();
        let ordered = match how {
            "since" => world.since(0, before.index),
            _ => from_zero(),
        };
        let end = world.sync("eu", ordered).await.unwrap();
        assert_eq!(
            (end.blocks, end.position.unwrap().index),
            (3, last.index),
            "{how}"
        );
        until("all is right", || {
            world.shown() == world.blocks([1, 4, 5]) && !here()
        })
        .await;
        let (snapshots, _) = *world.eu.begun.lock().unwrap();
        assert_eq!(snapshots, if how == "since" { 1 } else { 2 }, "{how}");
        // And goes on as before.
        let next = world.eu.apply(put(&world.model, 6, 10)).0;
        world.reaches(&next).await;
        assert_eq!(world.shown(), world.blocks([1, 4, 5, 6]));
    }
}

#[tokio::test]
async fn a_region_that_comes_back_is_compared_for_an_operator_only() {
    // `return_after_ms` is half a minute: it answers, and is not asked yet.
    let world = World::start(|_| {}).await;
    let region: RegionId = "eu".parse().unwrap();
    let state = |wanted| {
        let link = world.ours.view.link(&region);
        link.is_some_and(|link| link.state == wanted)
    };
    let port = world.eu.address.port();
    world.eu.end();
    until("it is offline", || state(PeerState::Offline)).await;
    let (code, message) = world.refused("eu", compare()).await;
    assert_eq!(code, Code::Unavailable, "{message}");
    let again = FakeRegion::start_on("eu", port).await;
    again.apply(Command::OpenNamespace(world.model.clone()));
    until("it comes back", || state(PeerState::CatchingUp)).await;
    world
        .reaches(&again.apply(put(&world.model, 1, 10)).0)
        .await;
    let compared = world.sync("eu", compare()).await.unwrap();
    assert_eq!((compared.ranges, compared.blocks), (0, 1));
    world
        .reaches(&again.apply(put(&world.model, 2, 10)).0)
        .await;
    assert!(state(PeerState::CatchingUp), "it is not asked yet");
    let digests = again.digests.load(Ordering::Relaxed);
    assert_eq!(digests, 1, "nobody compares it unasked");
}

#[tokio::test]
async fn an_order_that_cannot_be_says_what_to_do() {
    let world = World::start(|settings| settings.compare_every_ms = 0).await;
    let shown = world.eu.position();
    let (code, message) = world.refused("ap", compare()).await;
    assert_eq!(
        (code, message.contains("eu")),
        (Code::InvalidArgument, true),
        "{message}"
    );
    let (code, _) = world.refused("eu", None).await;
    assert_eq!(code, Code::InvalidArgument);
    let other = world.since(shown.log_incarnation.0 + 1, 1);
    let (code, message) = world.refused("eu", other).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(message.contains("--from-zero"), "{message}");
    let (code, message) = world.refused("eu", world.since(0, shown.index + 9)).await;
    assert_eq!(code, Code::InvalidArgument, "{message}");
    world.eu.kept_from.store(shown.index, Ordering::Relaxed);
    let (code, message) = world.refused("eu", world.since(0, 1)).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    assert!(message.contains("--from-zero"), "{message}");
    // And what is known is what it was.
    assert_eq!(
        world.eu.begun.lock().unwrap().0,
        2,
        "asked once, and not followed"
    );
    assert_eq!(world.sync("eu", compare()).await.unwrap().ranges, 0);
}
