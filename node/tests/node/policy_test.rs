//! Policies and generations, as an operator changes them.

use kvmesh_client::ToWire;
use kvmesh_directory::{Policy, namespace::Fallback};
use kvmesh_proto::v1::{self as wire, AckLevel};
use tonic::Code;

use crate::{
    blocks_test::payload,
    region_test::{Region, until},
};

async fn set(
    region: &Region,
    node: usize,
    policy: wire::NamespacePolicy,
) -> Result<wire::SetPolicyResponse, tonic::Status> {
    let request = wire::SetPolicyRequest {
        namespace_id: region.namespace.clone(),
        policy: Some(policy),
    };
    let answer = region.topology(node).set_policy(request).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn any_node_changes_a_policy_and_the_last_writer_wins() {
    let region = Region::start(3).await;
    let mut last = 0;
    for node in 0..3 {
        let policy = Policy {
            ttl_ms: 1_000 * (node as u64 + 1),
            fallback: Fallback::Never,
            ..Policy::default()
        };
        let answer = set(&region, node, policy.to_wire()).await.unwrap();
        let namespace = answer.namespace.unwrap();
        assert_eq!(namespace.policy, Some(policy.to_wire()));
        assert!(namespace.policy_hlc > last && namespace.policy_region == "us-east");
        last = namespace.policy_hlc;
        assert!(answer.position.is_some());
        for other in 0..3 {
            let shown = async || {
                let list = wire::ListNamespacesRequest {};
                let list = region.topology(other).list_namespaces(list).await.unwrap();
                list.into_inner().namespaces[0].policy == Some(policy.to_wire())
            };
            until(shown).await;
        }
    }
}

#[tokio::test]
async fn a_policy_that_cannot_be_is_refused() {
    let region = Region::start(1).await;
    let good = Policy::default().to_wire();
    let wrong = |change: fn(&mut wire::NamespacePolicy)| {
        let mut policy = good.clone();
        change(&mut policy);
        policy
    };
    let cases = [
        (wrong(|it| it.replicas = 9), Code::InvalidArgument),
        (wrong(|it| it.quota_permille = 1_001), Code::InvalidArgument),
        (
            wrong(|it| it.prefill_rate = f64::NAN),
            Code::InvalidArgument,
        ),
        (wrong(|it| it.fallback = 0), Code::InvalidArgument),
        (wrong(|it| it.ack = 9), Code::InvalidArgument),
        // Pushed to nobody, to what is no region, and kept after too many wants.
        (wrong(|it| it.replication = 2), Code::InvalidArgument),
        (
            wrong(|it| it.regions = vec!["US".to_owned()]),
            Code::InvalidArgument,
        ),
        (wrong(|it| it.hot_after = 101), Code::InvalidArgument),
    ];
    for (policy, code) in cases {
        let refused = set(&region, 0, policy.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{policy:?}: {refused}");
    }
    let request = wire::SetPolicyRequest {
        namespace_id: vec![9; 16].into(),
        policy: Some(good),
    };
    let unknown = region.topology(0).set_policy(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let request = wire::RaiseRequest {
        namespace_id: vec![9; 16].into(),
    };
    let unknown = region.topology(0).raise(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn no_read_after_a_raise_returns_a_block_of_before() {
    let region = Region::start(3).await;
    let bytes = payload(1, 20_000);
    for node in 0..3 {
        for number in 0..4 {
            let primary = region.locate(0, number).await.0[0];
            let put = region.put(primary, number, &bytes, AckLevel::Replicated);
            assert!(!put.await.acked().existed, "a put after a raise is new");
        }
        let request = wire::RaiseRequest {
            namespace_id: region.namespace.clone(),
        };
        let raised = region.topology(node).raise(request).await;
        let raised = raised.unwrap().into_inner();
        assert!(raised.generation > 0 && raised.position.is_some());
        for reader in 0..3 {
            let (blocks, _) = region.get_many(reader, &[0, 1, 2, 3]).await;
            assert!(blocks.is_empty(), "node {reader}, raised by node {node}");
        }
    }
    until(async || region.stats(0).await.memory_used == 0).await;
}
