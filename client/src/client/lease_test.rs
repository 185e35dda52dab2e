//! Leases, and what engines report.

use std::time::Duration;

use kvmesh_proto::v1 as wire;
use tonic::Status;

use super::{
    RequestReport,
    fake_gateway_test::{self as fake, LONG, chain, opened, position},
};
use crate::{Problem, convert::ToWire};

const HOLD: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_held_run_is_renewed_and_released_by_its_name_at_whichever_gateway() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| {
        let behind = wire::LookupResponse {
            view_behind: true,
            ..Default::default()
        };
        script.lookups.push_back(Ok(behind));
        script.lookups.push_back(Ok(wire::LookupResponse {
            matches: vec![wire::ChainMatch {
                local_blocks: 4,
                leased_blocks: 3,
                ..Default::default()
            }],
            lease: vec![1; 25].into(),
            lease_ms: 20_000,
            ..Default::default()
        }));
        let starting = Err(Status::unavailable("starting"));
        script.leases.push_back(starting);
    });
    second.with(|script| {
        script.leases.push_back(Ok(wire::LeaseResponse {
            blocks: 3,
            hold_ms: 10_000,
            partial: true,
            ..Default::default()
        }));
        script.leases.push_back(Err(Problem::UnknownLease.into()));
        script.leases.push_back(Ok(wire::LeaseResponse::default()));
    });
    client.observe(&position(7));
    let namespace = opened(&client);
    let held = namespace.lookup_held(&[chain(4).into()], HOLD, LONG).await;
    let held = held.unwrap();
    assert_eq!(held.answer.matches[0].leased_blocks, 3);
    let mut lease = held.lease.unwrap();
    assert_eq!(lease.name().len(), 25);
    let granted = lease.until().unwrap();
    let renewed = lease.renew(Duration::from_secs(10), LONG).await.unwrap();
    assert_eq!((renewed.blocks, renewed.partial), (3, true));
    assert_ne!(lease.until(), Some(granted));
    let gone = lease.renew(HOLD, LONG).await.unwrap_err();
    assert_eq!(gone.problem(), Some(Problem::UnknownLease));
    // Another process knows it by its name.
    let other = namespace.lease(lease.name().clone());
    assert_eq!(other.until(), None);
    other.release(LONG).await.unwrap();
    first.with(|script| {
        for asked in &script.asked_lookups {
            assert_eq!(asked.hold_ms, 30_000);
            assert_eq!(asked.at_least, [position(7).to_wire()]);
        }
        assert_eq!(script.asked_lookups.len(), 2);
    });
    second.with(|script| {
        let asked = &script.asked_leases;
        assert_eq!((asked[0].hold_ms, asked[1].hold_ms), (10_000, 30_000));
        assert_eq!(
            (&asked[0].renew, &asked[2].release),
            (lease.name(), lease.name())
        );
    });
}

#[tokio::test]
async fn nothing_held_is_no_lease() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        script
            .lookups
            .push_back(Ok(wire::LookupResponse::default()))
    });
    let held = opened(&client)
        .lookup_held(&[chain(4).into()], HOLD, LONG)
        .await;
    assert!(held.unwrap().lease.is_none());
}

#[tokio::test]
async fn what_was_measured_is_reported_as_it_was_and_the_rate_comes_back() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| {
        script
            .reports
            .push_back(Err(Status::unavailable("starting")))
    });
    second.with(|script| {
        script.reports.push_back(Ok(wire::ReportResponse {
            prefill_rate: Some(2_000.0),
        }));
        script
            .reports
            .push_back(Ok(wire::ReportResponse::default()));
    });
    let namespace = opened(&client);
    let measured = RequestReport {
        tokens: 512,
        prefill_ms: 256.0,
        queue_ms: 1.5,
        ttft_ms: 300.0,
        prefix_tokens: 64,
    };
    let rate = namespace
        .report(&[measured, RequestReport::default()], LONG)
        .await;
    assert_eq!(rate.unwrap(), Some(2_000.0));
    assert_eq!(namespace.report(&[], LONG).await.unwrap(), None);
    second.with(|script| {
        let sent = &script.asked_reports[0];
        assert_eq!(sent.namespace_id, namespace.namespace().id.to_wire());
        let one = wire::RequestReport {
            tokens: 512,
            prefill_ms: 256.0,
            queue_ms: 1.5,
            ttft_ms: 300.0,
            prefix_tokens: 64,
        };
        assert_eq!(sent.reports, [one, wire::RequestReport::default()]);
    });
}
