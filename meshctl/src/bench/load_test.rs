use super::*;

#[tokio::test(start_paused = true)]
async fn closed_loop_does_not_wait_and_open_loop_waits_until_a_call_is_due() {
    let begun = Instant::now();
    let due = |every| Due {
        begun,
        until: begun + Duration::from_secs(1),
        every,
        next: AtomicU64::new(1),
    };
    let closed = due(None);
    assert_eq!(closed.next().await, Some(begun));
    assert_eq!(closed.next().await, Some(begun));
    assert_eq!(Instant::now(), begun);
    let open = due(Some(Duration::from_millis(300)));
    for number in 1..=3 {
        let at = begun + Duration::from_millis(300) * number;
        assert_eq!(open.next().await, Some(at));
        assert!(Instant::now() >= at, "it waited");
    }
    assert_eq!(open.next().await, None);
}
