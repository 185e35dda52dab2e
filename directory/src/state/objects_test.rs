//! Each rule about namespaces and about what other regions did.

use super::{
    DirectoryState,
    testing::{Told, delete, init, name, namespace, ns, position, region},
};
use crate::{
    command::{Command, Deletion, Refusal},
    limits::{FEATURE_COSTS, FEATURE_LOSSY, FEATURE_REGIONS},
    namespace::Namespace,
    words::Hlc,
};

fn open(told: &mut Told, namespace: &Namespace) {
    told.apply(&Command::OpenNamespace(namespace.clone()));
}

#[test]
fn a_namespace_is_opened_once_and_the_latest_policy_counts() {
    let mut told = Told::begin();
    let first = namespace("m", "ns");
    open(&mut told, &first);
    assert_eq!(
        (told.outcome.namespace.as_ref(), told.said().as_str()),
        (Some(&first), "")
    );
    let with = |replicas: u32, hlc: u64, from: &str| {
        let mut other = namespace("m", "alias");
        other.policy.replicas = replicas;
        (other.policy_hlc, other.policy_region) = (Hlc(hlc), region(from));
        other
    };
    for (replicas, hlc, from, expected) in [
        (3, 5, "b", 3),
        (4, 4, "z", 3),
        (5, 5, "a", 3),
        (6, 5, "c", 6),
        (7, 5, "c", 6),
    ] {
        open(&mut told, &with(replicas, hlc, from));
        let now = told.outcome.namespace.clone().unwrap();
        assert_eq!((now.policy.replicas, now.name.as_str()), (expected, "ns"));
    }
    assert_eq!(told.said(), "");
    assert_eq!(told.state.hlc_max(), Hlc(5));
}

#[test]
fn an_opening_with_a_generation_raises() {
    let mut told = Told::after("put a 10 1/1/1");
    let mut raised = namespace("m", "ns");
    raised.generation = Hlc(10);
    open(&mut told, &raised);
    assert_eq!(told.said(), "raised 10, vanished a, dropped a 1/1/1");
    assert!(!told.state.visible(&name(b'a'), Hlc(10)) && told.state.visible(&name(b'a'), Hlc(11)));
}

#[test]
fn a_namespace_that_cannot_be_is_refused() {
    let refused = |change: fn(&mut Namespace)| {
        let mut told = Told::begin();
        let mut bad = namespace("other", "other");
        change(&mut bad);
        open(&mut told, &bad);
        assert_eq!(told.state.stats().namespaces, 1);
        told.outcome.refused
    };
    let namespace_refused = |change| matches!(refused(change), Some(Refusal::Namespace(_)));
    assert!(namespace_refused(|n| n.id = ns()));
    assert!(namespace_refused(|n| n.policy.replicas = 0));
    assert!(namespace_refused(|n| n.policy.prefill_rate = f64::NAN));
    assert!(namespace_refused(|n| n.name = "x".repeat(257)));
    assert!(namespace_refused(|n| {
        n.description.shard_count = 0;
        n.id = n.description.id();
    }));
    let taken = Refusal::NameTaken {
        name: "ns".to_owned(),
        fields: vec!["model".to_owned()],
    };
    assert_eq!(refused(|n| n.name = "ns".to_owned()), Some(taken));
}

#[test]
fn a_namespace_without_an_alias_is_called_by_its_id() {
    let mut told = Told::begin();
    open(&mut told, &namespace("other", ""));
    let id = namespace("other", "").id;
    assert_eq!(
        told.state.namespace_named(&id.to_string()).map(|n| n.id),
        Some(id)
    );
}

fn remote(told: &mut Told, index: u64, namespaces: &[Namespace], deletes: &[Deletion]) {
    told.apply(&Command::RemoteEffects {
        position: position("far", 3, index),
        namespaces: namespaces.to_vec(),
        deletes: deletes.to_vec(),
        raises: vec![(ns(), Hlc(index))],
    });
}

#[test]
fn remote_effects_come_with_their_position_and_once() {
    let mut told = Told::after("put a 10 1/1/1; put b 3 1/1/2");
    remote(&mut told, 5, &[], &[delete(20, b"a")]);
    assert_eq!(
        told.said(),
        "vanished a, dropped a 1/1/1, deleted a at 20, raised 5, vanished b, dropped b 1/1/2"
    );
    assert_eq!(
        told.state.remote_position(&region("far")),
        Some(&position("far", 3, 5))
    );
    for index in [4, 5] {
        remote(&mut told, index, &[namespace("x", "x")], &[]);
        assert_eq!(told.outcome.refused, Some(Refusal::Covered));
        assert_eq!(told.state.stats().namespaces, 1);
    }
    // What is known already makes no events, whatever the position.
    remote(
        &mut told,
        6,
        &[namespace("m", "other alias")],
        &[delete(20, b"a")],
    );
    assert_eq!(told.said(), "raised 6");
    // Another log of that region starts over.
    told.apply(&Command::RemoteEffects {
        position: position("far", 4, 1),
        namespaces: vec![],
        deletes: vec![],
        raises: vec![],
    });
    assert_eq!(
        (told.outcome.refused.as_ref(), told.said().as_str()),
        (None, "")
    );
    // A region follows others, not itself.
    told.apply(&Command::RemoteEffects {
        position: position("here", 7, 99),
        namespaces: vec![],
        deletes: vec![],
        raises: vec![],
    });
    assert_eq!(told.outcome.refused, Some(Refusal::Covered));
}

#[test]
fn a_taken_alias_does_not_block_another_region() {
    let mut told = Told::begin();
    let other = namespace("other", "ns");
    let mut unknown = delete(9, b"a");
    unknown.namespace = namespace("never opened", "").id;
    remote(
        &mut told,
        1,
        &[other.clone(), namespace("third", "third")],
        &[unknown],
    );
    assert_eq!(
        told.said(),
        format!("namespace ns~{}, namespace third, raised 1", other.id)
    );
    assert_eq!(told.state.namespace_named("ns").map(|n| n.id), Some(ns()));
    // What cannot be is left out, and the rest is taken.
    let mut bad = namespace("bad", "bad");
    bad.policy.replicas = 99;
    remote(&mut told, 2, &[bad, namespace("fourth", "fourth")], &[]);
    assert_eq!(told.said(), "namespace fourth, raised 2");
}

#[test]
fn costs_are_kept_from_their_feature_level_on() {
    let kept = |level: u32| {
        let mut formed = init();
        if let Command::InitRegion { feature_level, .. } = &mut formed {
            *feature_level = level;
        }
        let mut told = Told {
            state: DirectoryState::empty(),
            ..Told::begin()
        };
        told.apply(&formed);
        let mut costly = namespace("other", "other");
        costly.policy.prefill_rate = 1_000.0;
        costly.policy.attention_growth = 60_000.0;
        costly.policy.dollars_per_gpu_hour = 2.5;
        assert_eq!(
            Command::OpenNamespace(costly.clone()).feature_level(),
            FEATURE_COSTS
        );
        open(&mut told, &costly);
        let policy = &told.state.namespace(costly.id).unwrap().policy;
        policy.costs().map(|(_, cost)| cost)
    };
    assert_eq!(kept(FEATURE_COSTS - 1), [1_000.0, 0.0, 0.0]);
    assert_eq!(kept(FEATURE_COSTS), [1_000.0, 60_000.0, 2.5]);
}

#[test]
fn lossy_is_kept_at_every_level_and_counts_from_its_own_on() {
    for level in [1, FEATURE_LOSSY - 1, FEATURE_LOSSY] {
        let mut formed = init();
        if let Command::InitRegion { feature_level, .. } = &mut formed {
            *feature_level = level;
        }
        let mut told = Told {
            state: DirectoryState::empty(),
            ..Told::begin()
        };
        told.apply(&formed);
        let exact = namespace("exact", "exact");
        let mut lossy = namespace("other", "other");
        lossy.policy.lossy = true;
        let needed = Command::OpenNamespace(lossy.clone()).feature_level();
        assert_eq!(needed, FEATURE_LOSSY);
        open(&mut told, &exact);
        open(&mut told, &lossy);
        assert!(told.state.namespace(lossy.id).unwrap().policy.lossy);
        assert_eq!(told.state.takes_lossy(lossy.id), level >= FEATURE_LOSSY);
        assert!(!told.state.takes_lossy(exact.id));
    }
}

#[test]
fn regions_are_kept_from_their_feature_level_on() {
    let kept = |level: u32| {
        let mut formed = init();
        if let Command::InitRegion { feature_level, .. } = &mut formed {
            *feature_level = level;
        }
        let mut told = Told {
            state: DirectoryState::empty(),
            ..Told::begin()
        };
        told.apply(&formed);
        let mut pushed = namespace("other", "other");
        pushed.policy.regions = vec!["eu".parse().unwrap()];
        pushed.policy.hot_after = 2;
        let level = Command::OpenNamespace(pushed.clone()).feature_level();
        assert_eq!(level, FEATURE_REGIONS);
        open(&mut told, &pushed);
        let policy = &told.state.namespace(pushed.id).unwrap().policy;
        (policy.regions.len(), policy.hot_after)
    };
    assert_eq!(kept(FEATURE_REGIONS - 1), (0, 0));
    assert_eq!(kept(FEATURE_REGIONS), (1, 2));
}
