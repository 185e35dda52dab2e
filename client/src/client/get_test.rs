//! Gets return verified blocks, whatever the gateways do.

use std::time::Duration;

use kvmesh_proto::v1 as wire;
use tonic::{Code, Status};

use super::{
    Fetched, GetOptions, GetOutcome,
    fake_gateway_test::{self as fake, LONG, block, chain, frames, opened, position, summary},
};
use crate::convert::ToWire;

fn options() -> GetOptions {
    GetOptions {
        deadline: Some(LONG),
        ..GetOptions::default()
    }
}

fn plan(blocks: &[u8], outcome: wire::GetOutcome) -> fake::GetPlan {
    let mut plan: Vec<_> = blocks.iter().flat_map(|number| frames(*number)).collect();
    plan.push(summary(outcome));
    Ok(plan)
}

/// The indexes that came; each block must be the one that was put.
fn indexes(fetched: &Fetched) -> Vec<u32> {
    for got in &fetched.blocks {
        assert_eq!(got.block, block(got.index as u8));
        assert_eq!(got.region.as_str(), "us-east");
    }
    fetched.blocks.iter().map(|got| got.index).collect()
}

#[tokio::test]
async fn whole_blocks_come_in_order_with_their_bytes() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        script
            .gets
            .push_back(plan(&[0, 1, 2], wire::GetOutcome::Complete));
    });
    let fetched = opened(&client).get(&chain(3), options()).await.unwrap();
    assert_eq!(indexes(&fetched), [0, 1, 2]);
    assert_eq!(fetched.summary.outcome, GetOutcome::Complete);
    assert_eq!((fetched.summary.blocks, fetched.summary.tokens), (3, 48));
    assert_eq!(fetched.summary.sources[0].blocks, 3);
    first.with(|script| {
        let (asked, timed) = &script.asked_gets[0];
        assert!(*timed, "the call carries its timeout");
        assert!((1..=20_000).contains(&asked.deadline_ms));
        assert_eq!((asked.start, asked.count), (0, 3));
    });
}

#[tokio::test]
async fn blocks_in_any_order_are_taken_as_they_come() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| {
        // It breaks off after two blocks behind a hole.
        let mut broken = plan(&[3, 0, 2], wire::GetOutcome::Complete).unwrap();
        broken.pop();
        broken.push(Err(Status::unavailable("gone")));
        script.gets.push_back(Ok(broken));
    });
    second.with(|script| {
        // Which it does not know of, and sends again.
        let rest = plan(&[4, 2, 3, 1], wire::GetOutcome::Complete);
        script.gets.push_back(rest);
    });
    let options = GetOptions {
        any_order: true,
        ..options()
    };
    let fetched = opened(&client).get(&chain(5), options).await.unwrap();
    assert_eq!(indexes(&fetched), [3, 0, 2, 4, 1], "each once");
    assert_eq!(fetched.summary.outcome, GetOutcome::Complete);
    assert_eq!(fetched.summary.blocks, 5);
    first.with(|script| assert!(script.asked_gets[0].0.any_order));
    second.with(|script| {
        let asked = &script.asked_gets[0].0;
        assert!(asked.any_order);
        assert_eq!((asked.start, asked.count), (1, 4), "from the first hole on");
    });
}

#[tokio::test]
async fn what_came_behind_a_hole_is_no_part_of_the_run() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        let plan = plan(&[2, 0, 3], wire::GetOutcome::OutOfTime);
        script.gets.push_back(plan);
    });
    let options = GetOptions {
        any_order: true,
        ..options()
    };
    let fetched = opened(&client).get(&chain(4), options).await.unwrap();
    assert_eq!(indexes(&fetched), [2, 0, 3]);
    assert_eq!(fetched.summary.outcome, GetOutcome::OutOfTime);
    assert_eq!((fetched.summary.blocks, fetched.summary.tokens), (1, 16));
}

#[tokio::test]
async fn a_corrupt_block_is_not_returned_and_asked_for_again() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        let mut corrupt = plan(&[0, 1, 2], wire::GetOutcome::Complete).unwrap();
        // The first piece of block 1.
        corrupt[2].as_mut().unwrap().piece = vec![0xee; 1 << 20].into();
        script.gets.push_back(Ok(corrupt));
        script
            .gets
            .push_back(plan(&[1, 2], wire::GetOutcome::Complete));
    });
    let fetched = opened(&client).get(&chain(3), options()).await.unwrap();
    // Block 2 came before the hole was mended, and is not returned twice.
    assert_eq!(indexes(&fetched), [0, 2, 1]);
    assert_eq!(fetched.summary.outcome, GetOutcome::Complete);
    assert_eq!(fetched.summary.lost, 1);
    first.with(|script| {
        assert_eq!(
            (script.asked_gets[1].0.start, script.asked_gets[1].0.count),
            (1, 2)
        )
    });
}

#[tokio::test]
async fn blocks_that_stay_corrupt_are_a_hole() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        for _ in 0..3 {
            let mut corrupt = plan(&[0], wire::GetOutcome::Complete).unwrap();
            corrupt[1].as_mut().unwrap().piece = vec![0xee; 100].into();
            script.gets.push_back(Ok(corrupt));
        }
    });
    let fetched = opened(&client).get(&chain(1), options()).await.unwrap();
    assert!(fetched.blocks.is_empty());
    assert_eq!(fetched.summary.outcome, GetOutcome::SourceFailed);
    assert_eq!((fetched.summary.blocks, fetched.summary.lost), (0, 3));
}

#[tokio::test]
async fn an_aborted_block_is_forgotten() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        let mut aborted = plan(&[0, 1], wire::GetOutcome::Miss).unwrap();
        let end = &mut aborted[3].as_mut().unwrap();
        (end.piece, end.end) = (Default::default(), wire::BlockEnd::Aborted.into());
        script.gets.push_back(Ok(aborted));
    });
    let fetched = opened(&client).get(&chain(2), options()).await.unwrap();
    assert_eq!(indexes(&fetched), [0]);
    assert_eq!(fetched.summary.outcome, GetOutcome::Miss);
}

#[tokio::test]
async fn a_broken_stream_goes_on_at_another_gateway() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| {
        let mut broken = frames(0);
        // Half of block 1, then the end.
        broken.push(frames(1).remove(0));
        broken.push(Err(Status::unavailable("going away")));
        script.gets.push_back(Ok(broken));
    });
    second.with(|script| {
        script
            .gets
            .push_back(plan(&[1, 2], wire::GetOutcome::Complete));
    });
    let fetched = opened(&client).get(&chain(3), options()).await.unwrap();
    assert_eq!(indexes(&fetched), [0, 1, 2]);
    assert_eq!(fetched.summary.outcome, GetOutcome::Complete);
    second.with(|script| assert_eq!(script.asked_gets[0].0.start, 1));
}

#[tokio::test]
async fn a_stream_without_a_summary_is_truncated() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| script.gets.push_back(Ok(frames(0))));
    second.with(|script| {
        script
            .gets
            .push_back(plan(&[1], wire::GetOutcome::Complete))
    });
    let fetched = opened(&client).get(&chain(2), options()).await.unwrap();
    assert_eq!(indexes(&fetched), [0, 1]);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let (first, second, client) = fake::start(&["first:1", "second:1"]);
    first.with(|script| {
        let problem = crate::Problem::UnknownNamespace("00".to_owned());
        script.gets.push_back(Err(problem.into()));
    });
    let error = opened(&client).get(&chain(1), options()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert!(matches!(
        error.problem(),
        Some(crate::Problem::UnknownNamespace(_))
    ));
    assert!(error.to_string().contains("first:1"), "{error}");
    second.with(|script| assert!(script.asked_gets.is_empty()));
}

#[tokio::test]
async fn a_view_that_is_behind_is_asked_again() {
    let (first, _, client) = fake::start(&["first:1"]);
    client.observe(&position(41));
    client.observe(&position(40));
    first.with(|script| {
        script
            .gets
            .push_back(plan(&[], wire::GetOutcome::ViewBehind));
        script
            .gets
            .push_back(plan(&[0], wire::GetOutcome::Complete));
    });
    let fetched = opened(&client).get(&chain(1), options()).await.unwrap();
    assert_eq!(indexes(&fetched), [0]);
    first.with(|script| {
        for (asked, _) in &script.asked_gets {
            assert_eq!(asked.at_least, [position(41).to_wire()]);
        }
    });
}

#[tokio::test]
async fn a_fills_position_is_read_afterwards() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        let mut filled = plan(&[0], wire::GetOutcome::Complete).unwrap();
        let end = filled[2].as_mut().unwrap().summary.as_mut().unwrap();
        end.fill_position = Some(position(55).to_wire());
        script.gets.push_back(Ok(filled));
    });
    let options = GetOptions {
        await_fill: true,
        ..options()
    };
    let fetched = opened(&client).get(&chain(1), options).await.unwrap();
    assert_eq!(fetched.summary.fill_position, Some(position(55)));
    assert_eq!(client.positions(), [position(55)]);
}

#[tokio::test]
async fn a_block_that_was_not_asked_for_is_refused() {
    let (first, _, client) = fake::start(&["first:1"]);
    first.with(|script| {
        script
            .gets
            .push_back(plan(&[5], wire::GetOutcome::Complete))
    });
    let options = GetOptions {
        deadline: Some(Duration::from_millis(200)),
        count: 2,
        ..GetOptions::default()
    };
    let error = opened(&client).get(&chain(9), options).await.unwrap_err();
    first.with(|script| assert!(!script.asked_gets.is_empty()));
    assert!(error.to_string().contains("get"), "{error}");
}

#[tokio::test]
async fn an_address_that_nobody_listens_at_is_named() {
    let (_, _, client) = fake::start(&["nobody:1"]);
    let options = GetOptions {
        deadline: Some(Duration::from_millis(300)),
        ..GetOptions::default()
    };
    let error = opened(&client).get(&chain(1), options).await.unwrap_err();
    assert!(error.to_string().contains("nobody:1"), "{error}");
}

#[tokio::test]
async fn a_dead_gateway_is_passed_over() {
    let (first, _, client) = fake::start(&["nobody:1", "first:1"]);
    first.with(|script| {
        script
            .gets
            .push_back(plan(&[0], wire::GetOutcome::Complete))
    });
    let fetched = opened(&client).get(&chain(1), options()).await.unwrap();
    assert_eq!(indexes(&fetched), [0]);
}
