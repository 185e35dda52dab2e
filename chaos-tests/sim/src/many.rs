//! Runs seeds again, or many of them, each in a process of its own: tokio numbers tasks by
//! process, so that a process simulates one mesh at a time.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{Order, Outcome, report::Summary, run};

/// Seeds to run by this very program.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Which.
    pub seeds: Range<u64>,
    /// How many side by side.
    pub jobs: usize,
    /// What each process is told besides its seed.
    pub arguments: Vec<String>,
    /// Each seed is run three times, in two processes, and has to come to the same.
    pub repeat: bool,
}

impl Sweep {
    /// Runs all of them; `each` is told what each came to, as they end.
    ///
    /// # Errors
    /// When this program cannot be started again.
    pub fn run(&self, each: impl Fn(&Summary) + Sync) -> io::Result<Vec<Summary>> {
        let program = std::env::current_exe()?;
        let next = Mutex::new(self.seeds.clone());
        let done: Mutex<BTreeMap<u64, Summary>> = Mutex::default();
        thread::scope(|scope| {
            let work = || -> io::Result<()> {
                loop {
                    let seed = lock(&next).next();
                    let Some(seed) = seed else { return Ok(()) };
                    let summary = self.seed(&program, seed)?;
                    each(&summary);
                    lock(&done).insert(seed, summary);
                }
            };
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
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

    fn seed(&self, program: &Path, seed: u64) -> io::Result<Summary> {
        if !self.repeat {
            return self.process(program, seed, &[]);
        }
        let mut summary = self.process(program, seed, &["--repeat"])?;
        let other = self.process(program, seed, &[])?;
        if summary.fingerprint != other.fingerprint {
            let (one, other) = (&summary.fingerprint, &other.fingerprint);
            let bug = format!("Repeat: one process says {one}, another one {other}");
            summary.bugs.push(bug);
        }
        Ok(summary)
    }

    fn process(&self, program: &Path, seed: u64, more: &[&str]) -> io::Result<Summary> {
        let output = Command::new(program)
            .args(["--brief", "--seed", &seed.to_string()])
            .args(&self.arguments)
            .args(more)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Summary::parse(&text).unwrap_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or("it said nothing");
            Summary {
                seed,
                bugs: vec![format!("the run died ({}): {last}", output.status)],
                ..Summary::default()
            }
        }))
    }
}

/// Runs an order again in this process; how it differs from the first time.
#[must_use]
pub fn run_again(order: &Order, first: &Outcome) -> Option<String> {
    let again = run(order);
    if first.fingerprint == again.fingerprint {
        return None;
    }
    // None: no lines were kept, or only bytes on the wire differ.
    let mut lines = first.lines.iter().zip(&again.lines);
    let parts = lines.find(|(one, other)| one != other);
    let (one, other) = (&first.fingerprint, &again.fingerprint);
    let parts = parts.map_or(String::new(), |(one, other)| {
        format!(", from: {one} / {other}")
    });
    Some(format!("Repeat: first {one}, then {other}{parts}"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
