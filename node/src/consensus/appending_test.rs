use std::{
    future,
    sync::{Arc, Mutex},
};

use openraft::{CommittedLeaderId, EntryPayload};
use tokio::{sync::oneshot, time::sleep_until};

use super::*;
use crate::consensus::raft::Entry;

const TTL: Duration = Duration::from_millis(150);

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

/// The entries of an index range, the last one included.
fn request(from: u64, to: u64) -> AppendEntriesRequest<TypeConfig> {
    let entry = |index| Entry {
        log_id: id(index),
        payload: EntryPayload::Blank,
    };
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: from.checked_sub(1).map(id),
        entries: (from..=to).map(entry).collect(),
        leader_commit: None,
    }
}

/// What a member was asked: the index before, and how many entries.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(u64, usize)>>>);

impl Asked {
    fn note(&self, request: &wire::AppendEntriesRequest) {
        let prev = request.prev_log_id.as_ref().map_or(0, |id| id.index);
        self.0.lock().unwrap().push((prev, request.entries.len()));
    }

    fn all(&self) -> Vec<(u64, usize)> {
        self.0.lock().unwrap().clone()
    }
}

/// A member whose disk takes so long for entries, and no time for none.
async fn append(
    appending: &mut Appending,
    asked: &Asked,
    request: AppendEntriesRequest<TypeConfig>,
    disk: Duration,
) -> Option<Answer> {
    let asked = asked.clone();
    let ask = |request: wire::AppendEntriesRequest| {
        asked.note(&request);
        let done = match request.entries.is_empty() {
            true => Instant::now(),
            false => Instant::now() + disk,
        };
        async move {
            sleep_until(done).await;
            Ok(AppendEntriesResponse::Success)
        }
    };
    appending.append(request, Instant::now() + TTL, ask).await
}

fn succeeded(answer: Option<Answer>) -> bool {
    matches!(answer, Some(Ok(AppendEntriesResponse::Success)))
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_disk_takes_is_sent_once_and_then_known() {
    let (mut appending, asked) = (Appending::default(), Asked::default());
    let disk = Duration::from_millis(400);
    let (first, more) = (request(5, 8), request(5, 9));
    assert!(
        append(&mut appending, &asked, first.clone(), disk)
            .await
            .is_none()
    );
    assert!(
        append(&mut appending, &asked, first.clone(), disk)
            .await
            .is_none()
    );
    assert_eq!(asked.all(), [(4, 4)], "the second one waits for the first");
    // A heartbeat does not wait.
    let mut heartbeat = request(5, 5);
    heartbeat.entries.clear();
    assert!(succeeded(
        append(&mut appending, &asked, heartbeat, disk).await
    ));
    let answer = append(&mut appending, &asked, first, disk).await;
    assert!(succeeded(answer), "asked once more, without entries");
    assert_eq!(asked.all(), [(4, 4), (4, 0), (8, 0)]);
    assert!(append(&mut appending, &asked, more, disk).await.is_none());
    assert_eq!(asked.all()[3..], [(8, 1)], "only what it lacks");
}

#[tokio::test(start_paused = true)]
async fn another_leadership_and_a_log_that_is_another_begin_anew() {
    let (mut appending, asked) = (Appending::default(), Asked::default());
    let disk = Duration::from_millis(200);
    assert!(
        append(&mut appending, &asked, request(5, 8), disk)
            .await
            .is_none()
    );
    let mut later = request(5, 8);
    later.vote = Vote::new_committed(2, 1);
    assert!(
        append(&mut appending, &asked, later.clone(), disk)
            .await
            .is_none()
    );
    assert_eq!(asked.all(), [(4, 4), (4, 4)]);
    assert!(succeeded(
        append(&mut appending, &asked, later.clone(), disk).await
    ));
    let conflict = |_| future::ready(Ok(AppendEntriesResponse::Conflict));
    let until = Instant::now() + TTL;
    let answer = appending.append(later.clone(), until, conflict).await;
    assert!(
        answer.is_none(),
        "Raft is to send all of it again: {answer:?}"
    );
    append(&mut appending, &asked, later, disk).await;
    assert_eq!(asked.all()[2..], [(8, 0), (4, 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lacks_what_comes_before_is_asked_again_without_entries() {
    let (mut appending, asked) = (Appending::default(), Asked::default());
    let lacks = |after: Duration| {
        let asked = asked.clone();
        move |request: wire::AppendEntriesRequest| {
            asked.note(&request);
            let done = Instant::now() + after;
            async move {
                sleep_until(done).await;
                Ok(AppendEntriesResponse::Conflict)
            }
        }
    };
    let until = || Instant::now() + TTL;
    let slow = lacks(3 * TTL / 2);
    assert!(
        appending
            .append(request(5, 8), until(), slow)
            .await
            .is_none()
    );
    let answer = appending
        .append(request(5, 8), until(), lacks(Duration::ZERO))
        .await;
    assert!(
        matches!(answer, Some(Ok(AppendEntriesResponse::Conflict))),
        "{answer:?}"
    );
    assert_eq!(asked.all(), [(4, 4), (4, 0)]);
    // Raft goes back, and what it sends from there is sent.
    let answer = append(&mut appending, &asked, request(3, 8), Duration::ZERO).await;
    assert!(succeeded(answer));
    assert_eq!(asked.all()[2..], [(2, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_or_takes_too_long_is_made_again() {
    let (mut appending, asked) = (Appending::default(), Asked::default());
    let (answer, answered) = oneshot::channel::<Answer>();
    let ask = |_| async { answered.await.unwrap_or(Ok(AppendEntriesResponse::Success)) };
    let until = Instant::now() + TTL;
    assert!(appending.append(request(5, 8), until, ask).await.is_none());
    let failed = Failure::Network(openraft::error::NetworkError::new(&std::io::Error::other(
        "",
    )));
    answer.send(Err(failed)).unwrap();
    let disk = CALL_MAX * 2;
    assert!(
        append(&mut appending, &asked, request(5, 8), disk)
            .await
            .is_none()
    );
    assert_eq!(asked.all(), [(4, 4)], "all of it");
    tokio::time::advance(CALL_MAX).await;
    append(&mut appending, &asked, request(5, 8), disk).await;
    assert_eq!(asked.all(), [(4, 4), (4, 4)]);
}
