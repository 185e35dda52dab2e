//! Makes the faults of a plan happen, and says which of them met anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use turmoil::Sim;

use crate::{
    history::Loss,
    net::{HOP_MAX, TICK},
    plan::{Fault, FaultKind},
    shape::Shape,
    shared::Shared,
    trace,
};

/// What happens to a fault at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// Its links fail.
    Begin,
    /// Its process ends.
    Crash,
    /// It is over.
    End,
}

/// What a link in one direction suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ill {
    Dropped,
    Held,
}

/// The faults of a run.
pub(crate) struct Faults {
    shape: Shape,
    faults: Vec<Fault>,
    /// What is still to come, the latest first.
    turns: Vec<(u64, usize, Turn)>,
    /// Faults of each direction of a link.
    ills: BTreeMap<(String, String), Vec<(usize, Ill)>>,
    /// Faults that slow a link down, and by how many milliseconds.
    slow: BTreeMap<(String, String), Vec<(usize, u64)>>,
}

impl Faults {
    pub(crate) fn new(shape: Shape, faults: Vec<Fault>) -> Self {
        let mut turns = Vec::new();
        for (number, fault) in faults.iter().enumerate() {
            turns.push((fault.from_ms, number, Turn::Begin));
            if fault.crash_ms < fault.until_ms {
                turns.push((fault.crash_ms, number, Turn::Crash));
            }
            turns.push((fault.until_ms, number, Turn::End));
        }
        turns.sort_by(|a, b| b.cmp(a));
        Self {
            shape,
            faults,
            turns,
            ills: BTreeMap::new(),
            slow: BTreeMap::new(),
        }
    }

    pub(crate) fn planned(&self) -> &[Fault] {
        &self.faults
    }

    pub(crate) fn is_over(&self) -> bool {
        self.turns.is_empty()
    }

    /// Does what is due. Returns the nodes that lost their blocks.
    pub(crate) fn tick(
        &mut self,
        sim: &mut Sim<'_>,
        shared: &Shared,
        since_load_ms: u64,
    ) -> Vec<Loss> {
        let mut losses = Vec::new();
        while let Some(&(at, number, turn)) = self.turns.last() {
            if at > since_load_ms {
                break;
            }
            self.turns.pop();
            let now_us = sim.elapsed().as_micros() as u64;
            let fault = self.faults[number].clone();
            let (kind, host) = (fault.kind, &fault.host);
            let mark = trace::event_at(
                now_us,
                format_args!("FAULT {number} {kind} {host} {turn:?}"),
            );
            match turn {
                Turn::Begin => {
                    if kind.is_restart() && shared.processes.borrow().stop(host) {
                        trace::meet(number);
                    }
                    self.links(sim, number, &fault, true);
                }
                Turn::Crash => {
                    let lingers = shared.processes.borrow_mut().lost(host);
                    if lingers {
                        trace::bug(format!("{host} was told to stop, and did not in time"));
                    }
                    if !kind.is_restart() && sim.is_host_running(host.as_str()) {
                        trace::meet(number);
                    }
                    // With what a process leaves behind when it ends.
                    sim.crash(host.as_str());
                    let left = shared.nodes.borrow().has_left(fault.region, fault.node);
                    if kind.loses_blocks() && !left {
                        losses.push(Loss {
                            region: fault.region,
                            node: fault.node,
                            at: mark,
                        });
                    }
                }
                Turn::End => {
                    self.links(sim, number, &fault, false);
                    if fault.crash_ms < fault.until_ms {
                        sim.bounce(host.as_str());
                    }
                }
            }
        }
        losses
    }

    /// Begins or ends what a fault does to links.
    fn links(&mut self, sim: &Sim<'_>, number: usize, fault: &Fault, begins: bool) {
        if let Some((other, by_ms)) = &fault.slow {
            let (host, other) = (
                fault.host.clone().min(other.clone()),
                fault.host.clone().max(other.clone()),
            );
            let slow = self.slow.entry((host.clone(), other.clone())).or_default();
            match begins {
                true => slow.push((number, *by_ms)),
                false => slow.retain(|(of, _)| *of != number),
            }
            let by_ms = slow.iter().map(|(_, by_ms)| *by_ms).max();
            delay(sim, &host, &other, by_ms);
            self.apply(sim, &host, &other);
            return;
        }
        let mut pairs = BTreeSet::new();
        for (from, to, ill) in self.suffers(fault) {
            let pair = match from < to {
                true => (from.clone(), to.clone()),
                false => (to.clone(), from.clone()),
            };
            pairs.insert(pair);
            let ills = self.ills.entry((from, to)).or_default();
            match begins {
                true => ills.push((number, ill)),
                false => ills.retain(|(of, _)| *of != number),
            }
        }
        for (one, other) in pairs {
            self.apply(sim, &one, &other);
        }
    }

    fn suffers(&self, fault: &Fault) -> Vec<(String, String, Ill)> {
        let shape = self.shape;
        let all = (0..shape.regions).flat_map(|region| shape.hosts(region));
        let mut suffering = Vec::new();
        if fault.kind.is_restart() {
            return suffering;
        }
        if fault.kind == FaultKind::RegionCut {
            let own = shape.hosts(fault.region);
            for far in all.filter(|host| !own.contains(host)) {
                for near in &own {
                    suffering.push((near.clone(), far.clone(), Ill::Dropped));
                    suffering.push((far.clone(), near.clone(), Ill::Dropped));
                }
            }
            return suffering;
        }
        for other in all.filter(|host| *host != fault.host) {
            let ill = match fault.kind {
                FaultKind::Pause => Ill::Held,
                _ => Ill::Dropped,
            };
            if fault.kind != FaultKind::Deaf {
                suffering.push((fault.host.clone(), other.clone(), ill));
            }
            if fault.kind != FaultKind::Mute {
                suffering.push((other, fault.host.clone(), ill));
            }
        }
        suffering
    }

    /// Brings a link into the state that its faults make.
    fn apply(&self, sim: &Sim<'_>, one: &str, other: &str) {
        let ill = |from: &str, to: &str| {
            let ills = self.ills.get(&(from.to_owned(), to.to_owned()));
            let ills = ills.map_or(&[][..], |ills| ills);
            // Dropping is stronger than holding.
            let dropped = ills.iter().find(|(_, ill)| *ill == Ill::Dropped);
            dropped.or(ills.first()).copied()
        };
        let (there, back) = (ill(one, other), ill(other, one));
        let ip = |host: &str| -> IpAddr { sim.lookup(host) };
        // Delivers what was held, and repairs both directions.
        sim.release(one, other);
        sim.repair(one, other);
        let is = |ill: Option<(usize, Ill)>, what| ill.is_some_and(|(_, ill)| ill == what);
        if is(there, Ill::Held) && is(back, Ill::Held) {
            sim.hold(one, other);
        }
        if is(there, Ill::Dropped) {
            sim.partition_oneway(one, other);
        }
        if is(back, Ill::Dropped) {
            sim.partition_oneway(other, one);
        }
        let all = |from: &str, to: &str| {
            let ills = self.ills.get(&(from.to_owned(), to.to_owned()));
            let ills = ills.into_iter().flatten().map(|(number, _)| *number);
            let pair = (from.min(to).to_owned(), from.max(to).to_owned());
            let slow = self.slow.get(&pair).into_iter().flatten();
            ills.chain(slow.map(|(number, _)| *number)).collect()
        };
        trace::block(ip(one), ip(other), all(one, other));
        trace::block(ip(other), ip(one), all(other, one));
    }
}

/// Makes a link of a region slower than it is, or as it is.
fn delay(sim: &Sim<'_>, one: &str, other: &str, by_ms: Option<u64>) {
    match by_ms {
        Some(by_ms) => {
            let latency = HOP_MAX + Duration::from_millis(by_ms);
            sim.set_link_latency(one, other, latency);
        }
        None => {
            sim.set_link_latency(one, other, TICK);
            sim.set_link_max_message_latency(one, other, HOP_MAX);
        }
    }
}
