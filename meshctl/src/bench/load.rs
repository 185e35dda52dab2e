//! One round of load: connections that make calls, and what they came to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::try_join_all;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    target::{Connection, Target},
    work::Work,
};
use crate::{args::Work as Kind, replay::latency::Times, ways::Ways};

/// Calls that were made, and how long they took.
#[derive(Debug)]
pub struct Round {
    /// From begin to end.
    pub calls: u64,
    /// Bytes that were read or written, or names that were asked for.
    pub amount: u64,
    /// How long the round took.
    pub took: Duration,
    /// Of each call; in open loop since it was due.
    pub times: Times,
}

/// Connections to one target. They stay between rounds.
pub struct Load {
    work: Arc<Work>,
    rate: Option<f64>,
    connections: Vec<Connection>,
}

impl Load {
    /// Connects, and stores what is to be read.
    ///
    /// # Errors
    /// When the target does not answer or has no room.
    pub async fn prepare(
        target: &Target,
        work: &Arc<Work>,
        connections: u32,
        rate: Option<f64>,
    ) -> anyhow::Result<Self> {
        let connecting = (0..connections).map(|_| target.connect());
        let mut connections = try_join_all(connecting).await?;
        let step = connections.len();
        let storing = connections.iter_mut().enumerate().map(|(at, connection)| {
            let runs = (at..work.runs.len()).step_by(step);
            async move {
                for run in runs {
                    connection.store(work, run).await?;
                }
                anyhow::Ok(())
            }
        });
        try_join_all(storing).await?;
        Ok(Self {
            work: Arc::clone(work),
            rate,
            connections,
        })
    }

    /// Which ways blocks went, of all connections. None: a peer has only one.
    #[must_use]
    pub fn ways(&self) -> Option<Ways> {
        let ways = self.connections.iter().filter_map(Connection::ways);
        ways.reduce(|one, other| one + other)
    }

    /// Makes calls for a while.
    ///
    /// # Errors
    /// When one fails: a benchmark of failures says nothing.
    pub async fn round(&mut self, length: Duration) -> anyhow::Result<Round> {
        let begun = Instant::now();
        let due = Arc::new(Due {
            begun,
            until: begun + length,
            every: self.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: AtomicU64::new(0),
        });
        let mut set = JoinSet::new();
        for (at, connection) in self.connections.drain(..).enumerate() {
            set.spawn(calls(
                connection,
                Arc::clone(&self.work),
                Arc::clone(&due),
                at,
            ));
        }
        let (mut calls, mut amount, mut times) = (0, 0, Times::new()?);
        while let Some(done) = set.join_next().await {
            let (connection, done) = done??;
            self.connections.push(connection);
            calls += done.calls;
            amount += done.amount;
            times.add(&done.times)?;
        }
        Ok(Round {
            calls,
            amount,
            took: begun.elapsed(),
            times,
        })
    }
}

/// When calls are to begin.
struct Due {
    begun: Instant,
    until: Instant,
    every: Option<Duration>,
    next: AtomicU64,
}

impl Due {
    /// When the next call begins. None: the round is over.
    async fn next(&self) -> Option<Instant> {
        let at = match self.every {
            None => Instant::now(),
            Some(every) => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                self.begun + every.mul_f64(number as f64)
            }
        };
        if at >= self.until {
            return None;
        }
        // To sleep until now takes a millisecond, since timers round up.
        if self.every.is_some() {
            sleep_until(at).await;
        }
        Some(at)
    }
}

async fn calls(
    mut connection: Connection,
    work: Arc<Work>,
    due: Arc<Due>,
    place: usize,
) -> anyhow::Result<(Connection, Round)> {
    let mut done = Round {
        calls: 0,
        amount: 0,
        took: Duration::ZERO,
        times: Times::new()?,
    };
    // Each connection begins elsewhere.
    let mut next = place * 17;
    while let Some(began) = due.next().await {
        next += 1;
        let puts = work.kind == Kind::Put || (next * 37) % 100 < work.puts as usize;
        done.amount += match (puts, work.kind) {
            (true, _) => connection.put(&work).await?,
            (false, Kind::Lookup) => connection.lookup(&work, next % work.runs.len()).await?,
            (false, _) => connection.get(&work, next % work.runs.len()).await?,
        };
        done.calls += 1;
        done.times.record(began.elapsed());
    }
    Ok((connection, done))
}

#[cfg(test)]
#[path = "load_test.rs"]
mod load_test;
