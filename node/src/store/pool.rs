//! Work of a disk or a device, off the threads that must not wait: so much at a time, and with
//! an end.

use std::{io, sync::Arc};

use tokio::{
    sync::Semaphore,
    time::{Duration, timeout},
};

/// How long a wait for a turn may take.
const TURN_WAIT: Duration = Duration::from_secs(2);

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError<E> {
    /// There was no turn in time: nothing was done.
    #[error("too many calls are under way")]
    Busy,
    /// There is no answer in time. It may be done yet.
    #[error("there is no answer")]
    Stuck,
    /// It failed.
    #[error(transparent)]
    Failed(E),
}

/// See the module. A call that is stuck keeps its turn: so many threads hang at most.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    turns: Arc<Semaphore>,
    calls: usize,
    turn_wait: Duration,
    call_max: Duration,
}

impl Pool {
    /// So many calls at a time; one that takes longer than `call_max` has failed.
    pub(super) fn new(calls: usize, call_max: Duration) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(calls)),
            calls,
            turn_wait: TURN_WAIT,
            call_max,
        }
    }

    /// Whether half of the turns are free at least.
    pub(super) fn is_half_free(&self) -> bool {
        self.turns.available_permits() >= self.calls / 2
    }

    pub(super) async fn run<T: Send + 'static, E: From<io::Error> + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, PoolError<E>> {
        let turn = timeout(self.turn_wait, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(PoolError::Busy);
        };
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        match timeout(self.call_max, working).await {
            Ok(Ok(done)) => done.map_err(PoolError::Failed),
            Ok(Err(error)) => Err(PoolError::Failed(io::Error::other(error).into())),
            Err(_) => Err(PoolError::Stuck),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_its_callers_for_a_time_only() {
        let pool = Pool {
            turn_wait: Duration::from_millis(5),
            ..Pool::new(1, Duration::from_millis(5))
        };
        let (end, hanging) = mpsc::channel::<()>();
        let stuck = pool.run(move || {
            let _ = hanging.recv();
            Ok::<_, io::Error>(())
        });
        assert!(matches!(stuck.await, Err(PoolError::Stuck)));
        let next = pool.run(|| Ok::<_, io::Error>(())).await;
        assert!(matches!(next, Err(PoolError::Busy)));
        drop(end);
        let done = async || pool.run(|| Ok::<_, io::Error>(7)).await.is_ok();
        while !done().await {}
    }
}
