//! What a run did, on its thread: events in order, a hash of the wire, and which fault met
//! which bytes. Everything that makes two runs of one seed comparable is here.

use std::{cell::RefCell, collections::BTreeMap, fmt, net::IpAddr};

use xxhash_rust::xxh3::Xxh3;

/// Of a segment's bytes in its line.
const SHOWN_BYTES: usize = 96;

/// Marks an event: how many came before it in the run. Ordered as they happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(pub u64);

/// What a thread's run did so far.
#[derive(Default)]
pub(crate) struct Trace {
    /// Events as lines, with simulated time; kept when asked for.
    pub lines: Vec<String>,
    keep_lines: bool,
    keep_segments: bool,
    marks: u64,
    history: Xxh3,
    wire: Xxh3,
    /// Segments that were written.
    pub segments: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// Faults by direction of a link.
    blocked: BTreeMap<(IpAddr, IpAddr), Vec<usize>>,
    /// By fault: segments and connections that met it.
    pub met: BTreeMap<usize, u64>,
    /// What no process may do, whatever happens.
    pub bugs: Vec<String>,
}

/// Two runs that agree here did the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of all events.
    pub history: u64,
    /// Of all bytes, with time and direction.
    pub wire: u64,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.history, self.wire)
    }
}

impl Trace {
    /// Of everything so far.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            history: self.history.digest(),
            wire: self.wire.digest(),
        }
    }
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Simulated time, microseconds.
#[must_use]
pub(crate) fn now_us() -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    elapsed.as_micros() as u64
}

/// Begins anew on this thread.
pub(crate) fn begin(keep_lines: bool, keep_segments: bool) {
    TRACE.set(Trace {
        keep_lines,
        keep_segments,
        ..Trace::default()
    });
}

/// Ends, with what there was.
#[must_use]
pub(crate) fn end() -> Trace {
    TRACE.take()
}

/// The next mark, for something that has no line of its own.
#[must_use]
pub(crate) fn mark() -> Mark {
    TRACE.with_borrow_mut(|trace| {
        trace.marks += 1;
        Mark(trace.marks)
    })
}

/// Notes an event at the time of the host that is running.
pub(crate) fn event(what: fmt::Arguments<'_>) -> Mark {
    event_at(now_us(), what)
}

/// Notes an event that the driver makes, which is on no host.
pub(crate) fn event_at(at_us: u64, what: fmt::Arguments<'_>) -> Mark {
    TRACE.with_borrow_mut(|trace| {
        trace.marks += 1;
        let line = format!("{:>10.3} {what}", at_us as f64 / 1e6);
        trace.history.update(line.as_bytes());
        trace.history.update(b"\n");
        if trace.keep_lines {
            trace.lines.push(line);
        }
        Mark(trace.marks)
    })
}

/// Notes what no process may do.
pub(crate) fn bug(what: String) {
    TRACE.with_borrow_mut(|trace| trace.bugs.push(what));
}

/// From now on what goes from one host to another meets these faults.
pub(crate) fn block(from: IpAddr, to: IpAddr, faults: Vec<usize>) {
    TRACE.with_borrow_mut(|trace| trace.blocked.insert((from, to), faults));
}

/// Counts what a fault met other than bytes.
pub(crate) fn meet(fault: usize) {
    TRACE.with_borrow_mut(|trace| *trace.met.entry(fault).or_default() += 1);
}

/// Notes bytes on their way; none: a connection is asked for.
pub(crate) fn sent(from: IpAddr, to: IpAddr, bytes: &[u8]) {
    let at = now_us();
    TRACE.with_borrow_mut(|trace| {
        trace.wire.update(&at.to_le_bytes());
        for ip in [from, to] {
            if let IpAddr::V4(ip) = ip {
                trace.wire.update(&ip.octets());
            }
        }
        trace.wire.update(&(bytes.len() as u64).to_le_bytes());
        trace.wire.update(bytes);
        trace.segments += 1;
        if trace.keep_segments {
            let (at, hash) = (at as f64 / 1e6, xxhash_rust::xxh3::xxh3_64(bytes));
            let (len, begin) = (bytes.len(), &bytes[..bytes.len().min(SHOWN_BYTES)]);
            let shown = begin.escape_ascii();
            let line = format!("{at:>10.3} WIRE {from} to {to}: {len} bytes, {hash:016x} {shown}");
            trace.lines.push(line);
        }
        trace.bytes += bytes.len() as u64;
        for fault in trace.blocked.get(&(from, to)).into_iter().flatten() {
            *trace.met.entry(*fault).or_default() += 1;
        }
    });
}
