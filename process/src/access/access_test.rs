use std::{fs, path::Path, sync::Arc};

use super::*;

fn who(text: &str) -> Arc<Identity> {
    let uri = match text.split_once('/') {
        None => format!("spiffe://m/operator/{text}"),
        Some((region, rest)) => format!("spiffe://m/region/{region}/{rest}"),
    };
    Arc::new(uri.parse().unwrap())
}

fn link(own: &str, peer: &str) -> Link {
    let (own, peer) = (who(own), who(peer));
    Link { own, peer }
}

const NODE_HERE: &str = "e/node/1";
const GATEWAY_HERE: &str = "e/gateway/g";
const SYNC_HERE: &str = "e/region-sync/s";
const PEERS: [&str; 9] = [
    "e/node/2",
    "e/gateway/h",
    "e/region-sync/t",
    "e/client/c",
    "w/node/2",
    "w/gateway/h",
    "w/region-sync/t",
    "w/client/c",
    "alice",
];

/// Who of [`PEERS`] may make a call, where no clients of other regions are served.
fn may(own: &str, path: &str) -> Vec<&'static str> {
    may_with(&Guests::default(), own, path)
}

fn may_with(guests: &Guests, own: &str, path: &str) -> Vec<&'static str> {
    let admitted = |peer: &&str| check_path(&link(own, peer), guests, path).is_ok();
    PEERS.into_iter().filter(admitted).collect()
}

#[test]
fn calls_are_for_those_whom_the_table_names() {
    let near = ["e/node/2", "e/gateway/h", "e/region-sync/t"];
    for (own, path, callers) in [
        (NODE_HERE, "Consensus/Vote", &["e/node/2"][..]),
        (
            NODE_HERE,
            "Consensus/Propose",
            &["e/node/2", "e/gateway/h", "e/region-sync/t"],
        ),
        (NODE_HERE, "Replication/Copy", &["e/node/2"]),
        (NODE_HERE, "Replication/ApplyRemote", &["e/region-sync/t"]),
        (
            NODE_HERE,
            "Cache/Put",
            &[near[0], near[1], near[2], "e/client/c"],
        ),
        (NODE_HERE, "Topology/InitRegion", &["alice"]),
        (GATEWAY_HERE, "Cache/Put", &["e/client/c", "alice"]),
        (
            GATEWAY_HERE,
            "Topology/Stats",
            &["e/node/2", "e/gateway/h", "alice"],
        ),
        (SYNC_HERE, "Feed/FollowMesh", &["e/gateway/h"]),
        (NODE_HERE, "Compare/Blocks", &["w/region-sync/t"]),
        (SYNC_HERE, "RegionSync/Sync", &["alice"]),
        (SYNC_HERE, "Cache/Get", &[]),
        (GATEWAY_HERE, "Consensus/Vote", &[]),
    ] {
        assert_eq!(may(own, &format!("/kvmesh.v1.{path}")), callers, "{path}");
    }
    assert_eq!(may(NODE_HERE, "/grpc.health.v1.Health/Check"), PEERS);
    assert_eq!(may(NODE_HERE, "/elsewhere.v1.Cache/Get"), [""; 0]);
}

#[test]
fn the_body_of_a_call_can_narrow_who_may_make_it() {
    let may = |own: &str, call: (&str, &str, &str)| {
        let admitted = |peer: &&str| check(Some(&link(own, peer)), call.0, call.1, call.2).is_ok();
        PEERS.into_iter().filter(admitted).collect::<Vec<_>>()
    };
    let near = ["e/node/2", "e/gateway/h", "e/region-sync/t"];
    assert_eq!(may(NODE_HERE, ("Feed", "Follow", "REGION")), near);
    assert_eq!(
        may(NODE_HERE, ("Feed", "Follow", "MESH")),
        ["w/region-sync/t"]
    );
    assert_eq!(
        may(GATEWAY_HERE, ("Cache", "Get", "hop 0")),
        // The other one came so far because it is served here.
        ["e/client/c", "w/client/c", "alice"]
    );
    assert_eq!(
        may(GATEWAY_HERE, ("Cache", "Get", "hop 1")),
        ["w/gateway/h"]
    );
    assert_eq!(
        may(NODE_HERE, ("Consensus", "Propose", "any command")),
        ["e/node/2", "e/region-sync/t"]
    );
    assert_eq!(
        may(NODE_HERE, ("Consensus", "Propose", "a namespace")),
        near
    );
    assert!(check(None, "Cache", "Get", "hop 0").is_ok());
}

#[test]
fn who_is_refused_learns_who_may() {
    let refused = check_path(
        &link(NODE_HERE, "e/client/c"),
        &Guests::default(),
        "/kvmesh.v1.Topology/InitRegion",
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "spiffe://m/region/e/client/c may not call Topology.InitRegion of a node of e: it takes \
         the certificate of an operator"
    );
}

#[test]
fn clients_of_the_regions_that_are_named_are_served_by_gateways_and_by_nobody_else() {
    let west = Guests::of(|region| region.as_str() == "w");
    let others = Guests::of(|region| region.as_str() == "v");
    let cache = |method: &str| format!("/kvmesh.v1.Cache/{method}");
    for method in CACHE {
        let with = may_with(&west, GATEWAY_HERE, &cache(method));
        assert!(with.contains(&"w/client/c"), "{method}: {with:?}");
        // It makes room for clients of that region, and for nobody else.
        let more = with.iter().filter(|who| **who != "w/client/c");
        let without = may(GATEWAY_HERE, &cache(method));
        assert!(more.eq(&without), "{method}: {with:?}");
        assert_eq!(may_with(&others, GATEWAY_HERE, &cache(method)), without);
    }
    let get = [&PEERS[3..4], &PEERS[5..6], &PEERS[7..]].concat();
    assert_eq!(may_with(&west, GATEWAY_HERE, &cache("Get")), get);
    for row in TABLE {
        for (own, role) in [
            (NODE_HERE, Role::Node),
            (GATEWAY_HERE, Role::Gateway),
            (SYNC_HERE, Role::RegionSync),
        ] {
            for method in row.methods {
                let path = format!("/kvmesh.v1.{}/{method}", row.service);
                let (with, without) = (may_with(&west, own, &path), may(own, &path));
                let is_for_clients = (role, row.service) == (Role::Gateway, "Cache");
                assert_eq!(with != without, is_for_clients, "{path} of {own}");
            }
        }
    }
}

#[test]
fn a_client_of_another_region_is_told_which_setting_would_admit_it() {
    let from = link(GATEWAY_HERE, "w/client/c");
    let refused = check_path(&from, &Guests::default(), "/kvmesh.v1.Cache/Put");
    assert_eq!(
        refused.unwrap_err().to_string(),
        "spiffe://m/region/w/client/c may not call Cache.Put of a gateway of e: it takes the \
         certificate of a client of the same region or an operator or a client of a region that \
         the setting clients_of names"
    );
}

/// A new call needs a row, or nobody may make it.
#[test]
fn every_call_on_the_wire_has_a_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/kvmesh/v1");
    let mut calls = 0;
    for file in fs::read_dir(root).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut service = "";
        for line in text.lines().map(str::trim) {
            let word = |at: usize| line.split([' ', '(', '{']).nth(at).unwrap_or_default();
            match word(0) {
                "service" => service = word(1),
                "rpc" => {
                    let has = |row: &Row| row.service == service && row.methods.contains(&word(1));
                    let call = format!("{service}.{}", word(1));
                    assert!(
                        TABLE.iter().any(has),
                        "say in access.rs who may call {call}"
                    );
                    calls += 1;
                }
                _ => {}
            }
        }
    }
    assert!(calls > 20, "the calls were not found");
}
