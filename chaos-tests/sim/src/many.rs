//! Runs many seeds, each in a process of its own: tokio numbers tasks by process, so that a
//! process simulates one mesh at a time.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::report::Summary;

/// Runs seeds by this very program; `each` is told what each came to, as they end.
///
/// # Errors
/// When this program cannot be started again.
pub fn run_seeds(
    seeds: Range<u64>,
    jobs: usize,
    arguments: &[String],
    each: impl Fn(&Summary) + Sync,
) -> io::Result<Vec<Summary>> {
    let program = std::env::current_exe()?;
    let next = Mutex::new(seeds);
    let done: Mutex<BTreeMap<u64, Summary>> = Mutex::default();
    thread::scope(|scope| {
        let work = || -> io::Result<()> {
            loop {
                let seed = lock(&next).next();
                let Some(seed) = seed else { return Ok(()) };
                let output = Command::new(&program)
                    .args(["--brief", "--seed", &seed.to_string()])
                    .args(arguments)
                    .output()?;
                let text = String::from_utf8_lossy(&output.stdout);
                let summary = Summary::parse(&text).unwrap_or_else(|| {
                    let errors = String::from_utf8_lossy(&output.stderr);
                    let last = errors.lines().last().unwrap_or("it said nothing");
                    Summary {
                        seed,
                        bugs: vec![format!("the run died ({}): {last}", output.status)],
                        ..Summary::default()
                    }
                });
                each(&summary);
                lock(&done).insert(seed, summary);
            }
        };
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(worked) => worked?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, io::Error>(())
    })?;
    let done = std::mem::take(&mut *lock(&done));
    Ok(done.into_values().collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
