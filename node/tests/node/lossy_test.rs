//! Blocks that went through a lossy encoding: kept as such, where the policy allows them.

use kvmesh_client::ToWire;
use kvmesh_directory::{Hlc, Policy};
use kvmesh_proto::v1::{self as wire, AckLevel, Encoding, GetOutcome};

use crate::{
    blocks_test::{Put, offered, payload},
    region_test::{Region, until},
};

const ROUNDED: i32 = Encoding::Bf16Fp8 as i32;

async fn set_lossy(region: &Region, lossy: bool) {
    let policy = Policy {
        lossy,
        ..Policy::default()
    };
    let request = wire::SetPolicyRequest {
        namespace_id: region.namespace.clone(),
        policy: Some(policy.to_wire()),
    };
    region.topology(0).set_policy(request).await.unwrap();
}

/// Offers a block that says that it was rounded.
async fn offer(region: &Region, number: u64, fill: bool) -> Put {
    let (mut offer, pieces) = offered(number, &payload(number, 3_000));
    let meta = offer.meta.as_mut().unwrap();
    meta.transcoded = ROUNDED;
    if fill {
        meta.put_hlc = Hlc::from_millis(1_000).0;
    }
    let open = wire::PutOpen {
        fill,
        ..region.opening(AckLevel::Memory)
    };
    region.put_raw(0, open, offer, pieces).await
}

/// What the block's header says of its encoding; none: it is not sent.
async fn mark(region: &Region, number: u64, lossy: bool) -> Option<i32> {
    let request = wire::GetRequest {
        namespace_id: region.namespace.clone(),
        chain: region.chain([number]),
        lossy,
        ..Default::default()
    };
    let mut stream = region.cache(0).get(request).await.unwrap().into_inner();
    let mut mark = None;
    while let Some(frame) = stream.message().await.unwrap() {
        let meta = frame.header.and_then(|header| header.meta);
        mark = meta.map(|meta| meta.transcoded).or(mark);
        if let Some(summary) = frame.summary {
            let came = summary.outcome() == GetOutcome::Complete;
            assert_eq!(mark.is_some(), came, "{summary:?}");
            return mark;
        }
    }
    panic!("the stream ended without a summary");
}

#[tokio::test]
async fn what_was_rounded_is_kept_as_such_while_the_policy_allows_it() {
    let region = Region::start(1).await;
    let invalid = wire::RefusalReason::Invalid;
    assert_eq!(offer(&region, 1, true).await.reason(), invalid);
    set_lossy(&region, true).await;
    assert_eq!(offer(&region, 1, false).await.reason(), invalid);
    offer(&region, 1, true).await.acked();
    let exact = payload(2, 3_000);
    region.put_until_acked(0, 2, &exact, AckLevel::Memory).await;
    assert_eq!(mark(&region, 1, true).await, Some(ROUNDED));
    assert_eq!(mark(&region, 1, false).await, None, "nobody asked for it");
    assert_eq!(mark(&region, 2, false).await, Some(0));

    set_lossy(&region, false).await;
    assert_eq!(mark(&region, 1, true).await, None);
    assert_eq!(mark(&region, 2, true).await, Some(0));
    until(async || region.stats(0).await.blocks == 1).await;
    // What was put has its place again.
    let bytes = payload(1, 3_000);
    let put = region.put_until_acked(0, 1, &bytes, AckLevel::Memory).await;
    assert!(!put.existed);
    assert_eq!(mark(&region, 1, false).await, Some(0));
}
