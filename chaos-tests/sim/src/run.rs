//! One run: a mesh, its clients and its faults, all from a seed.

use std::{
    rc::Rc,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use futures::future::{join, join_all};
use kvmesh_client::random;
use kvmesh_directory::mutation::{self, Mutation};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tokio::time::sleep;
use turmoil::Sim;

use crate::{
    changes::{self, Change},
    determinism::seal,
    faults::Faults,
    history::History,
    hosts,
    meters::Meters,
    net::{EPOCH_MS, HOP_MAX, TICK, environment},
    oracle,
    plan::{Fault, plan},
    rpc, settle,
    shape::Shape,
    shared::{Phase, Shared},
    trace::{self, Fingerprint, Trace},
    workload,
};

/// A hop to another region.
const FAR_HOP: Duration = Duration::from_millis(24);
/// A mesh without faults is ready by then.
const BOOT_MAX: Duration = Duration::from_secs(20);
/// Clients whose mesh has healed have ended their calls by then.
const REST_MAX: Duration = Duration::from_secs(20);
/// The audit ends by then, whatever it finds.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// Segments of one direction of a connection.
const TCP_CAPACITY: usize = 4_096;
/// Stack of a run's thread.
const STACK_BYTES: usize = 16 << 20;

/// What to run.
#[derive(Debug, Clone)]
pub struct Order {
    /// Everything follows from it.
    pub seed: u64,
    /// The mesh.
    pub shape: Shape,
    /// How long clients work.
    pub load: Duration,
    /// Whether anything goes wrong meanwhile.
    pub faults: bool,
    /// A bug that is switched on.
    pub mutation: Option<Mutation>,
    /// Keeps the lines of the events.
    pub keep_lines: bool,
    /// Keeps a line of each segment on the wire as well.
    pub keep_segments: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Of which seed.
    pub seed: u64,
    /// Two runs of one order without faults agree in it.
    pub fingerprint: Fingerprint,
    /// Everything that was told.
    pub history: History,
    /// What must not be, in words; empty: all went well.
    pub bugs: Vec<String>,
    /// The faults that were planned, and how much each of them met.
    pub faults: Vec<(Fault, u64)>,
    /// The changes of nodes that were planned, and whether each of them was made.
    pub changes: Vec<(Change, bool)>,
    /// Copies that the directory claimed and their holders did not have, healed since.
    pub stale_claims: u64,
    /// The events, when they were kept.
    pub lines: Vec<String>,
    /// How long it took in simulated time.
    pub simulated: Duration,
    /// Segments and bytes on the wire.
    pub wire: (u64, u64),
}

/// One at a time in a process: tokio numbers tasks for all threads together.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs an order on a thread of its own.
///
/// # Panics
/// When no thread can be started.
#[must_use]
pub fn run(order: &Order) -> Outcome {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (here, seed) = (order.clone(), order.seed);
    let running = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || on_this_thread(&here))
        .expect("a thread can be started");
    running.join().unwrap_or_else(|panic| {
        let why = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|&why| why.to_owned()));
        let bug = format!("a process panicked: {}", why.unwrap_or_default());
        Outcome {
            seed,
            fingerprint: Trace::default().fingerprint(),
            history: History::default(),
            bugs: vec![bug],
            faults: Vec::new(),
            changes: Vec::new(),
            stale_claims: 0,
            lines: Vec::new(),
            simulated: Duration::ZERO,
            wire: (0, 0),
        }
    })
}

fn on_this_thread(order: &Order) -> Outcome {
    let _sealed = seal(order.seed);
    trace::begin(order.keep_lines, order.keep_segments);
    random::seed(order.seed);
    mutation::set(order.mutation);
    let meters = Meters::default();
    let _counting = metrics::set_default_local_recorder(&meters);
    let mut driver = Driver::new(order);
    let failed = driver.drive(order);
    let simulated = driver.sim.elapsed();
    let Driver {
        sim,
        shared,
        faults,
        changes,
    } = driver;
    drop(sim);
    let trace = trace::end();
    let fingerprint = trace.fingerprint();
    let history = shared.history.take();
    let mut bugs = trace.bugs;
    bugs.extend(failed.err());
    bugs.extend(shared.audit.take());
    bugs.extend(meters.wrong());
    let found = oracle::judge(&history);
    bugs.extend(found.iter().map(ToString::to_string));
    let met = |(number, fault): (usize, &Fault)| {
        let met = trace.met.get(&number).copied();
        (fault.clone(), met.unwrap_or(0))
    };
    let faults: Vec<_> = faults.planned().iter().enumerate().map(met).collect();
    let nodes = shared.nodes.borrow();
    let made = |change: &Change| (change.clone(), nodes.is_made(change));
    for (fault, met) in &faults {
        let host_left = fault.of_a_node() && nodes.has_left(fault.region, fault.node);
        if *met == 0 && !host_left {
            bugs.push(format!(
                "NO EFFECT: {} of {} met nothing",
                fault.kind, fault.host
            ));
        }
    }
    Outcome {
        seed: order.seed,
        fingerprint,
        history,
        bugs,
        faults,
        changes: changes.iter().map(made).collect(),
        stale_claims: meters.stale_claims(),
        lines: trace.lines,
        simulated,
        wire: (trace.segments, trace.bytes),
    }
}

struct Driver<'a> {
    sim: Sim<'a>,
    shared: Rc<Shared>,
    faults: Faults,
    changes: Vec<Change>,
}

impl Driver<'_> {
    fn new(order: &Order) -> Self {
        let load_ms = order.load.as_millis() as u64;
        let (faults, changes) = match order.faults {
            true => (
                plan(order.seed, order.shape, load_ms),
                changes::plan(order.seed, order.shape, load_ms),
            ),
            false => (Vec::new(), Vec::new()),
        };
        let shape = order.shape.joined(&changes);
        let mut rng = SmallRng::seed_from_u64(order.seed ^ 0xd01e);
        let mut sim = turmoil::Builder::new()
            .rng_seed(order.seed)
            .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(TICK)
            .min_message_latency(TICK)
            .max_message_latency(HOP_MAX)
            .tcp_capacity(TCP_CAPACITY)
            .build();
        let shared = Shared::new(shape, 2);
        hosts::add(&mut sim, &shared);
        for region in 0..shape.regions {
            for client in 0..shape.clients {
                let (shared, seed) = (Rc::clone(&shared), rng.next_u64());
                sim.client(shape.client(region, client), async move {
                    workload::run(shared, region, client, seed).await;
                    Ok(())
                });
            }
        }
        shared.changes_left.set(changes.len());
        let (operator, planned) = (Rc::clone(&shared), changes.clone());
        sim.client("operator", async move {
            operate(operator, planned).await;
            Ok(())
        });
        far_apart(&sim, shape);
        let faults = Faults::new(shape, faults);
        Self {
            sim,
            shared,
            faults,
            changes,
        }
    }

    fn drive(&mut self, order: &Order) -> Result<(), String> {
        let clients = order.shape.regions * order.shape.clients;
        self.until(BOOT_MAX, "no client could start", |shared| {
            shared.ready.get() == clients
        })?;
        self.shared.set_phase(Phase::Load);
        let began = self.sim.elapsed();
        while self.sim.elapsed() < began + order.load || !self.faults.is_over() {
            let since = self.sim.elapsed() - began;
            let since_ms = since.as_millis() as u64;
            let losses = self.faults.tick(&mut self.sim, &self.shared, since_ms);
            self.shared.history.borrow_mut().losses.extend(losses);
            self.step()?;
        }
        self.shared.set_phase(Phase::Settle);
        self.until(REST_MAX, "a call has not ended", |shared| {
            shared.resting.get() == clients
        })?;
        self.until(SETTLE_MAX, "the audit has not ended", |shared| {
            shared.phase() == Phase::Done
        })
    }

    /// Steps until something holds; what is wrong when it does not in time.
    fn until(
        &mut self,
        at_most: Duration,
        wrong: &str,
        holds: impl Fn(&Shared) -> bool,
    ) -> Result<(), String> {
        let deadline = self.sim.elapsed() + at_most;
        while !holds(&self.shared) {
            if self.sim.elapsed() > deadline {
                return Err(format!("{wrong} within {at_most:?}"));
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let stepped = self.sim.step();
        stepped.map(|_| ()).map_err(|error| error.to_string())
    }
}

fn far_apart(sim: &Sim<'_>, shape: Shape) {
    for region in 0..shape.regions {
        for other in 0..region {
            for host in shape.hosts(region) {
                for far in shape.hosts(other) {
                    sim.set_link_latency(host.as_str(), far, FAR_HOP);
                }
            }
        }
    }
}

/// Initialises the regions, and changes their nodes.
async fn operate(shared: Rc<Shared>, changes: Vec<Change>) {
    let channels = environment("operator").channels;
    for region in 0..shared.shape.regions {
        let node = &shared.shape.nodes(region)[0];
        while let Err(why) = rpc::init_region(&channels, node).await {
            trace::event(format_args!("operator: {node} is not initialised: {why}"));
            sleep(Duration::from_millis(100)).await;
        }
        trace::event(format_args!("operator: {node} is initialised"));
    }
    let regions = (0..shared.shape.regions).map(|region| {
        let own = changes.iter().filter(|change| change.region == region);
        changes::make(Rc::clone(&shared), region, own.cloned().collect())
    });
    join(settle::watch(Rc::clone(&shared)), join_all(regions)).await;
}
