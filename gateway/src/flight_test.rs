//! Single flight, on a paused clock.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvmesh_client::{Block, BlockMeta};
use kvmesh_directory::{BlockHash, BlockName, Hlc, NamespaceId, Part};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::*;
use crate::budget::Budget;

fn name(number: u8) -> BlockName {
    BlockName {
        namespace: NamespaceId([1; 16]),
        hash: BlockHash([number; 32]),
        part: Part::default(),
    }
}

fn meta() -> BlockMeta {
    BlockMeta {
        put_hlc: Hlc(1),
        transcoded: None,
        ..Block::of(&Bytes::from_static(b"abc"), 0).meta
    }
}

fn region() -> RegionId {
    "eu".parse().unwrap()
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

struct Tower {
    flights: Flights,
    left: Arc<watch::Sender<()>>,
    budget: Budget,
}

impl Tower {
    fn new() -> Self {
        Self {
            flights: Flights::default(),
            left: Arc::new(watch::Sender::new(())),
            budget: Budget::new("test", 1 << 30),
        }
    }

    fn join(&self, ms: u64) -> (Ticket, Option<Arc<Flight>>) {
        self.flights
            .join(name(1), after(ms), &self.left, |_, _| true)
    }

    fn announce(&self, flight: &Flight) {
        let share = self.budget.take_now(3).unwrap();
        flight.announce(region(), meta(), share);
    }
}

async fn soon(ticket: &mut Ticket) -> Option<Event> {
    timeout(Duration::from_millis(1), ticket.next()).await.ok()
}

#[tokio::test(start_paused = true)]
async fn waiters_see_pieces_as_they_arrive_each_at_its_own_pace() {
    let tower = Tower::new();
    let (mut first, led) = tower.join(10);
    let flight = led.expect("the first one leads");
    let (mut second, led) = tower.join(10);
    assert!(led.is_none(), "the second one joins");
    assert_eq!(soon(&mut first).await, None);
    tower.announce(&flight);
    flight.arriving.push(Bytes::from_static(b"ab"));
    assert_eq!(
        soon(&mut first).await,
        Some(Event::Header(region(), meta()))
    );
    assert_eq!(
        soon(&mut first).await,
        Some(Event::Piece(Bytes::from_static(b"ab")))
    );
    assert_eq!(soon(&mut first).await, None);
    flight.arriving.push(Bytes::from_static(b"c"));
    flight.complete(None);
    // The slow one misses nothing; a late one gets everything from memory.
    let (mut late, led) = tower.join(10);
    assert!(led.is_none());
    for ticket in [&mut second, &mut late] {
        assert_eq!(soon(ticket).await, Some(Event::Header(region(), meta())));
        assert_eq!(
            soon(ticket).await,
            Some(Event::Piece(Bytes::from_static(b"ab")))
        );
        assert_eq!(
            soon(ticket).await,
            Some(Event::Piece(Bytes::from_static(b"c")))
        );
        assert_eq!(soon(ticket).await, Some(Event::Whole));
    }
    tower.flights.land(&flight);
    assert!(
        tower.join(10).1.is_some(),
        "who comes after the landing begins another"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flight_goes_on_while_anybody_waits_and_until_the_longest_deadline() {
    let tower = Tower::new();
    let (first, led) = tower.join(10);
    let flight = led.unwrap();
    let (second, _) = tower.join(500);
    assert_eq!(flight.until(), after(500));
    let flights = [flight];
    drop(first);
    assert!(!tower.flights.abandon(&flights));
    drop(second);
    assert!(tower.left.subscribe().borrow_and_update().eq(&()));
    assert!(tower.flights.abandon(&flights));
    assert!(!tower.flights.has(&name(1)));
}

#[tokio::test(start_paused = true)]
async fn a_lost_flight_says_whether_the_block_is_missing_there() {
    for missing in [true, false] {
        let tower = Tower::new();
        let (mut ticket, led) = tower.join(10);
        tower.flights.lose(&led.unwrap(), missing);
        let want = if missing { Event::Missing } else { Event::Lost };
        assert_eq!(soon(&mut ticket).await, Some(want));
        assert!(!tower.flights.has(&name(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_given_back_when_nobody_reads_any_more() {
    let small = Budget::new("test", 1 << 28);
    let tower = Tower {
        budget: small.clone(),
        ..Tower::new()
    };
    let (ticket, led) = tower.join(10);
    let flight = led.unwrap();
    tower.announce(&flight);
    flight.complete(None);
    assert!(small.take_now(1 << 28).is_err());
    drop(ticket);
    assert!(small.take_now(1 << 28).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_a_delete_overtook_is_not_joined() {
    let tower = Tower::new();
    let deleted = |_: &BlockName, put_hlc: Hlc| put_hlc > Hlc(1);
    let join = || tower.flights.join(name(1), after(10), &tower.left, deleted);
    let (mut early, led) = join();
    let overtaken = led.expect("the first one leads");
    assert!(join().1.is_none(), "what is not announced yet is joined");
    tower.announce(&overtaken);
    let (mut late, led) = join();
    let fresh = led.expect("a new flight begins");
    // The first waiter began before the delete, and the end of its flight ends no other.
    overtaken.arriving.push(Bytes::from_static(b"abc"));
    overtaken.complete(None);
    tower.flights.land(&overtaken);
    assert_eq!(
        soon(&mut early).await,
        Some(Event::Header(region(), meta()))
    );
    assert!(tower.flights.has(&name(1)));
    drop(early);
    assert!(!tower.flights.abandon(&[Arc::clone(&fresh)]), "one waits");
    tower.flights.lose(&fresh, true);
    assert_eq!(soon(&mut late).await, Some(Event::Missing));
    assert!(!tower.flights.has(&name(1)));
}
