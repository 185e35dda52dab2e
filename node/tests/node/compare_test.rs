//! Another region is told what it is to have, in short and range by range.

use std::collections::{BTreeMap, BTreeSet};

use kvmesh_client::{FromWire, ToWire, convert::mesh::unpack_digest};
use kvmesh_directory::{
    BlockHash, BlockKey, BlockName, Command, FeedPosition, Hlc, NamespaceId, Part,
    command::Deletion,
    limits::DIGEST_RANGES,
    view::{Digest, range_of},
};
use kvmesh_proto::v1::{self as wire, AckLevel, compare_client::CompareClient};
use tonic::Code;

use crate::{
    blocks_test::payload,
    region_test::{Region, description},
};

fn digest_request(follower: &str, at_least: Option<wire::FeedPosition>) -> wire::DigestRequest {
    wire::DigestRequest {
        follower_region: follower.to_owned(),
        at_least,
    }
}

async fn digest(region: &Region, follower: &str) -> (FeedPosition, Digest) {
    let mut client = CompareClient::new(region.channel(0));
    let answer = client.digest(digest_request(follower, None)).await.unwrap();
    let answer = answer.into_inner();
    let position = FeedPosition::from_wire(answer.position.unwrap()).unwrap();
    (position, unpack_digest(&answer.ranges).unwrap())
}

async fn blocks(region: &Region, follower: &str, ranges: &[usize]) -> BTreeMap<BlockName, u32> {
    let request = wire::BlocksRequest {
        follower_region: follower.to_owned(),
        at_least: None,
        ranges: ranges.iter().map(|range| *range as u32).collect(),
    };
    let mut client = CompareClient::new(region.channel(0));
    let mut frames = client.blocks(request).await.unwrap().into_inner();
    let mut all = BTreeMap::new();
    loop {
        let frame = frames.message().await.unwrap().expect("a last frame");
        for block in frame.blocks {
            let (name, bytes) = <(BlockName, u32)>::from_wire(block).unwrap();
            assert!(all.insert(name, bytes).is_none(), "{name:?} came twice");
        }
        if frame.last {
            return all;
        }
    }
}

#[tokio::test]
async fn a_digest_is_of_what_the_follower_is_to_have() {
    let mut region = Region::start(1).await;
    for number in 0..12 {
        let bytes = payload(number, 900 + number as usize);
        region
            .put_until_acked(0, number, &bytes, AckLevel::Memory)
            .await;
    }
    let mut here = description("here");
    here.residency = vec!["us-east".parse().unwrap()];
    let opened = wire::OpenRequest {
        description: Some(here.to_wire()),
        name: "here".to_owned(),
        template: String::new(),
    };
    let opened = region.cache(0).open(opened).await.unwrap().into_inner();
    region.namespace = opened.namespace.unwrap().id;
    for number in 100..103 {
        let bytes = payload(number, 900);
        region
            .put_until_acked(0, number, &bytes, AckLevel::Memory)
            .await;
    }
    let everywhere: Vec<usize> = (0..DIGEST_RANGES).collect();
    for (follower, count) in [("eu-west", 12), ("us-east", 15)] {
        let (position, told) = digest(&region, follower).await;
        let all = blocks(&region, follower, &everywhere).await;
        assert_eq!(all.len(), count, "{follower}");
        let mut want = Digest::default();
        for (name, bytes) in &all {
            want.add(name.tag(), *bytes);
        }
        assert_eq!(told, want, "{follower} at {position:?}");
        // Only what is asked for comes.
        let first = *all.keys().next().unwrap();
        let range = range_of(first.tag());
        let some = blocks(&region, follower, &[range]).await;
        let wanted = all.iter().filter(|(name, _)| range_of(name.tag()) == range);
        assert!(some.iter().eq(wanted));
    }
}

/// Aliases of namespaces, and deleted names.
async fn objects(region: &Region, follower: &str) -> (BTreeSet<String>, usize) {
    let request = wire::ObjectsRequest {
        follower_region: follower.to_owned(),
        at_least: None,
    };
    let mut client = CompareClient::new(region.channel(0));
    let mut parts = client.objects(request).await.unwrap().into_inner();
    let (mut names, mut deleted) = (BTreeSet::new(), 0);
    loop {
        let part = parts.message().await.unwrap().expect("a last part");
        assert!(part.blocks.is_empty());
        deleted += part.tombstones.len();
        names.extend(part.namespaces.into_iter().map(|namespace| namespace.name));
        if part.last {
            return (names, deleted);
        }
    }
}

#[tokio::test]
async fn objects_are_those_of_the_follower_and_their_number_changes_with_them() {
    let region = Region::start(1).await;
    let mut client = CompareClient::new(region.channel(0));
    let mut number = async |follower: &str| {
        let answer = client.digest(digest_request(follower, None)).await.unwrap();
        answer.into_inner().objects.unwrap()
    };
    let (all, _) = objects(&region, "eu-west").await;
    let mut here = description("here");
    here.residency = vec!["us-east".parse().unwrap()];
    let (far, near) = (number("eu-west").await, number("us-east").await);
    let opened = wire::OpenRequest {
        description: Some(here.to_wire()),
        name: "here".to_owned(),
        template: String::new(),
    };
    region.cache(0).open(opened).await.unwrap();
    assert_eq!(number("eu-west").await, far, "it may not know of it");
    let opened = number("us-east").await;
    assert_ne!(opened, near);
    let names = |more: &[&str]| {
        let more = more.iter().map(|name| (*name).to_owned());
        all.iter().cloned().chain(more).collect::<BTreeSet<_>>()
    };
    assert_eq!(objects(&region, "eu-west").await, (names(&[]), 0));
    assert_eq!(objects(&region, "us-east").await, (names(&["here"]), 0));

    let namespace = NamespaceId::from_wire(region.namespace.clone()).unwrap();
    let deletion = |namespace, hlc| Deletion {
        namespace,
        keys: vec![BlockKey {
            hash: BlockHash([7; 32]),
            part: Part::default(),
        }],
        hlc: Hlc(hlc),
    };
    region
        .propose(0, &Command::Delete(deletion(namespace, 9)))
        .await;
    region
        .propose(0, &Command::Delete(deletion(here.id(), 9)))
        .await;
    assert_eq!(objects(&region, "eu-west").await, (names(&[]), 1));
    assert_eq!(objects(&region, "us-east").await.1, 2);
    let deleted = number("eu-west").await;
    assert_ne!(deleted, far);
    // The same name again, later.
    region
        .propose(0, &Command::Delete(deletion(namespace, 10)))
        .await;
    assert_ne!(number("eu-west").await, deleted);
    let raised = Command::RaiseGeneration {
        namespace: here.id(),
        hlc: Hlc(99),
    };
    let before = number("us-east").await;
    region.propose(0, &raised).await;
    assert_ne!(number("us-east").await, before);
}

#[tokio::test]
async fn what_cannot_be_compared_is_refused() {
    let region = Region::start(1).await;
    let mut client = CompareClient::new(region.channel(0));
    let (position, _) = digest(&region, "eu-west").await;
    let ahead = FeedPosition {
        index: position.index + 1_000,
        ..position.clone()
    };
    for (follower, at_least, code) in [
        ("", None, Code::InvalidArgument),
        ("eu-west", Some(ahead), Code::Unavailable),
    ] {
        let request = digest_request(follower, at_least.map(|at| at.to_wire()));
        let refused = client.digest(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    let request = wire::BlocksRequest {
        follower_region: "eu-west".to_owned(),
        at_least: Some(position.to_wire()),
        ranges: vec![DIGEST_RANGES as u32],
    };
    let refused = client.blocks(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}
