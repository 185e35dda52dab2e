//! Prefetches: what other regions hold of chains is brought into this region, and nobody is
//! sent any bytes.
//!
//! A prefetch is a task of its own, with its own end; callers attach to it and leave it as
//! they like. It shares fetches with gets (`flight`) and keeps blocks by the same queue
//! (`fill`), a few at a time, so that it does not fill the queue that gets need.

mod pushed;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use kvmesh_client::{Problem, Ranges};
use kvmesh_directory::{
    BlockKey, FeedPosition, Namespace, NamespaceId, Part, RegionId,
    namespace::{Fallback, ReplicationMode},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use pushed::bring_hot;

use crate::{
    chain::Chain,
    context::{Gateway, exhausted},
    deadline::Deadline,
    far,
    flight::{Event, Ticket},
    reach::{self, Others},
    read::{self, Slot, Source},
    request::{Query, Want},
    way::Class,
};

/// Prefetches that run at a time.
const RUNNING_MAX: usize = 16;
/// No more than so many run when one is begun for what is hot: whoever asks for one comes first.
const RUNNING_HOT_MAX: usize = 4;
/// Prefetches that are known, those that have ended included.
const KNOWN_MAX: usize = 256;
/// Blocks of one prefetch, over all chains and parts.
const BLOCKS_MAX: usize = 65_536;
/// The longest that a prefetch may take.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(600);
/// Bytes and blocks that are fetched by one call.
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_BLOCKS: usize = 64;
/// Calls under way at a time.
const BATCHES_AT_ONCE: usize = 2;
const _: () = assert!(RUNNING_HOT_MAX < RUNNING_MAX && RUNNING_MAX < KNOWN_MAX);

/// How a prefetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Partial,
    Cancelled,
    OutOfTime,
}

/// How far a prefetch is; blocks are counted over all parts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) done: u32,
    pub(crate) total: u32,
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) failed: u32,
    pub(crate) end: Option<End>,
    /// Covers all that is kept so far.
    pub(crate) position: Option<FeedPosition>,
}

/// One prefetch.
pub(crate) struct Prefetch {
    pub(crate) handle: String,
    namespace: NamespaceId,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

/// What is to be prefetched.
pub(crate) struct Order {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) queries: Vec<Query>,
    /// Instead of chains: blocks that `region` is known to have. They are pushed.
    pub(crate) keys: Vec<BlockKey>,
    /// The only region to fetch from; none: any.
    pub(crate) region: Option<RegionId>,
    pub(crate) limit: Duration,
}

/// Blocks that one call fetches.
struct Batch {
    want: Arc<Want>,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Table {
    begun: u64,
    known: BTreeMap<u64, Arc<Prefetch>>,
}

/// All prefetches of this gateway that run, or ran a moment ago.
pub(crate) struct Prefetches {
    /// Sets the handles of this gateway apart from those of others, and of earlier starts.
    origin: String,
    table: Mutex<Table>,
}

impl Prefetch {
    /// How far it is, and its changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Ends it, unless it has ended.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    fn is_over(&self) -> bool {
        self.progress.borrow().end.is_some()
    }

    fn kept(&self, bytes: u64, position: Option<FeedPosition>) {
        self.progress.send_modify(|progress| {
            progress.done += 1;
            progress.done_bytes += bytes;
            let newest = progress.position.as_ref().map_or(0, |at| at.index);
            if position.as_ref().is_some_and(|at| at.index > newest) {
                progress.position = position;
            }
        });
    }

    fn failed(&self) {
        self.progress.send_modify(|progress| progress.failed += 1);
    }

    fn end(&self, end: Option<End>) {
        self.progress.send_modify(|progress| {
            let tried = match progress.failed {
                0 => End::Complete,
                _ => End::Partial,
            };
            progress.end = Some(end.unwrap_or(tried));
        });
    }
}

impl Prefetches {
    /// `instance` names the process, `start_ms` its start.
    pub(crate) fn new(instance: &str, start_ms: u64) -> Self {
        Self {
            origin: format!("{instance}/{start_ms:x}/"),
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The prefetch of a handle; a namespace sees its own ones only.
    pub(crate) fn find(
        &self,
        handle: &str,
        namespace: NamespaceId,
    ) -> Result<Arc<Prefetch>, Problem> {
        let number = handle.strip_prefix(&self.origin);
        let number = number.and_then(|number| u64::from_str_radix(number, 16).ok());
        let table = self.table();
        let known = number.and_then(|number| table.known.get(&number));
        known
            .filter(|known| known.namespace == namespace)
            .cloned()
            .ok_or_else(|| Problem::UnknownHandle(handle.to_owned()))
    }

    fn begin(
        &self,
        namespace: NamespaceId,
        progress: Progress,
        stop: &CancellationToken,
        running_max: usize,
    ) -> Result<Arc<Prefetch>, Problem> {
        let mut table = self.table();
        let running = table
            .known
            .values()
            .filter(|known| !known.is_over())
            .count();
        if running >= running_max {
            return Err(exhausted("prefetches that run at a time (16)"));
        }
        if table.known.len() >= KNOWN_MAX {
            let over = table.known.iter().find(|(_, known)| known.is_over());
            if let Some(oldest) = over.map(|(number, _)| *number) {
                table.known.remove(&oldest);
            }
        }
        table.begun += 1;
        let number = table.begun;
        let prefetch = Arc::new(Prefetch {
            handle: format!("{}{number:x}", self.origin),
            namespace,
            progress: watch::Sender::new(progress),
            cancel: stop.child_token(),
        });
        table.known.insert(number, Arc::clone(&prefetch));
        Ok(prefetch)
    }
}

/// Begins a prefetch.
pub(crate) fn begin(gateway: &Arc<Gateway>, order: Order) -> Result<Arc<Prefetch>, Problem> {
    let policy = &order.namespace.policy;
    // What is pushed is not a get: whether gets go to other regions does not matter.
    let never = policy.fallback == Fallback::Never && order.keys.is_empty();
    if never || policy.replication == ReplicationMode::None {
        let why = "the namespace's policy keeps nothing from other regions (fallback never, or \
                   replication none)";
        return Err(Problem::invalid("namespace_id", why));
    }
    let others = others(gateway, &order.namespace, order.region.as_ref())?;
    let until = Instant::now() + order.limit.min(TIME_MAX);
    let planned = match (order.keys.is_empty(), &order.region) {
        (false, Some(region)) => {
            pushed::plan(gateway, &order.keys, &order.namespace, region, until)
        }
        _ => plan(gateway, order.queries, &order.namespace, &others, until)?,
    };
    start(gateway, order.namespace.id, planned, until, RUNNING_MAX)
}

/// Batches, and what they are over all.
struct Planned {
    batches: VecDeque<Batch>,
    total: u32,
    total_bytes: u64,
}

fn start(
    gateway: &Arc<Gateway>,
    namespace: NamespaceId,
    planned: Planned,
    until: Instant,
    running_max: usize,
) -> Result<Arc<Prefetch>, Problem> {
    let progress = Progress {
        total: planned.total,
        total_bytes: planned.total_bytes,
        ..Progress::default()
    };
    let prefetches = &gateway.prefetches;
    let prefetch = prefetches.begin(namespace, progress, &gateway.stop, running_max)?;
    let (gateway, shared) = (Arc::clone(gateway), Arc::clone(&prefetch));
    let tasks = gateway.tasks.clone();
    tasks.spawn(run(gateway, shared, planned.batches, until));
    Ok(prefetch)
}

/// Whom to ask.
fn others(
    gateway: &Gateway,
    namespace: &Namespace,
    only: Option<&RegionId>,
) -> Result<Others, Problem> {
    let mut others = reach::others(gateway, namespace);
    let Some(only) = only else {
        return Ok(others);
    };
    if *only == gateway.region || gateway.views.mesh.link(only).is_none() {
        let why = format!("{only} is no other region of the mesh");
        return Err(Problem::invalid("region", why));
    }
    if !namespace.description.resides_in(only) {
        return Err(Problem::Denied(format!(
            "the namespace's residency does not name region {only}"
        )));
    }
    others.asked.retain(|(region, _)| region == only);
    match others.asked.is_empty() {
        true => Err(Problem::unavailable(format!(
            "region {only} does not answer now"
        ))),
        false => Ok(others),
    }
}

/// What this region lacks of the chains and the others have, in batches; also blocks and bytes.
fn plan(
    gateway: &Gateway,
    queries: Vec<Query>,
    namespace: &Arc<Namespace>,
    others: &Others,
    until: Instant,
) -> Result<Planned, Problem> {
    let (mut batches, mut total, mut total_bytes) = (VecDeque::new(), 0, 0);
    for query in queries {
        let indexes = query.start as u32..query.chain.len() as u32;
        let (chain, parts) = (query.chain, query.parts);
        let want = Arc::new(wanting(namespace, chain, indexes.collect(), parts, until));
        let mut slots = read::plan_from_views(gateway, &want, others).slots;
        slots.retain(|slot| matches!(slot.sources.front(), Some(Source::Region(_))));
        total += slots.len();
        if total > BLOCKS_MAX {
            let why = format!(
                "over {BLOCKS_MAX} blocks over all parts are to be fetched: split the call"
            );
            return Err(Problem::invalid("chains", why));
        }
        total_bytes += slots.iter().map(|slot| slot.bytes).sum::<u64>();
        batches.extend(cut(&want, slots, BATCH_BYTES));
    }
    let total = total as u32;
    Ok(Planned {
        batches,
        total,
        total_bytes,
    })
}

/// A get whose blocks nobody is sent.
fn wanting(
    namespace: &Arc<Namespace>,
    chain: Chain,
    indexes: Vec<u32>,
    parts: Vec<Part>,
    until: Instant,
) -> Want {
    Want {
        namespace: Arc::clone(namespace),
        chain,
        indexes,
        parts,
        touch: Vec::new(),
        ranges: Ranges::default(),
        blocks_min: 0,
        any_order: true,
        await_fill: true,
        from_afar: false,
        aside: false,
        class: Class::Demand,
        encoding: None,
        lossy_encoding: None,
        lossy: namespace.policy.lossy,
        deadline: Deadline {
            at: until,
            named: true,
        },
    }
}

fn cut(want: &Arc<Want>, slots: Vec<Slot>, bytes_max: u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut bytes = 0;
    for slot in slots {
        bytes += slot.bytes;
        match batches.last_mut() {
            Some(batch) if bytes <= bytes_max && batch.slots.len() < BATCH_BLOCKS => {
                batch.slots.push(slot);
            }
            _ => {
                bytes = slot.bytes;
                batches.push(Batch {
                    want: Arc::clone(want),
                    slots: vec![slot],
                });
            }
        }
    }
    batches
}

async fn run(
    gateway: Arc<Gateway>,
    prefetch: Arc<Prefetch>,
    batches: VecDeque<Batch>,
    until: Instant,
) {
    let brought = futures::stream::iter(batches)
        .map(|batch| bring(&gateway, &prefetch, batch, until))
        .buffered(BATCHES_AT_ONCE)
        .for_each(|()| std::future::ready(()));
    let end = tokio::select! {
        biased;
        () = prefetch.cancel.cancelled() => Some(End::Cancelled),
        () = brought => None,
        () = sleep_until(until) => Some(End::OutOfTime),
    };
    prefetch.end(end);
    let progress = prefetch.progress.borrow();
    gateway
        .meters
        .prefetched(progress.done.into(), progress.failed.into());
}

/// Fetches the blocks of a batch, each from the next region when one does not have it.
async fn bring(gateway: &Arc<Gateway>, prefetch: &Prefetch, batch: Batch, until: Instant) {
    let mut open = batch.slots;
    while !open.is_empty() {
        if batch.want.class == Class::Pushed {
            pushed::give_way(gateway, &batch.want, &open).await;
        }
        let mut by_region: BTreeMap<RegionId, Vec<Slot>> = BTreeMap::new();
        for slot in open {
            let here = gateway
                .views
                .local
                .with(|state| state.entry(&slot.name).is_some());
            match slot.sources.front() {
                _ if here => prefetch.kept(slot.bytes, gateway.views.local.position()),
                Some(Source::Region(region)) => {
                    by_region.entry(region.clone()).or_default().push(slot);
                }
                Some(Source::Node(_)) | None => prefetch.failed(),
            }
        }
        let mut fetched: Vec<(Slot, Ticket)> = Vec::new();
        for (region, slots) in by_region {
            let wanted: Vec<&Slot> = slots.iter().collect();
            let (tickets, _) = far::join(gateway, &batch.want, &region, &wanted, until);
            tickets.iter().for_each(Ticket::keep);
            fetched.extend(slots.into_iter().zip(tickets));
        }
        open = Vec::new();
        let mut fills = Vec::new();
        for (mut slot, mut ticket) in fetched {
            match arrives(&mut ticket).await {
                true => fills.push((slot.bytes, ticket.filled())),
                false => {
                    slot.sources.pop_front();
                    open.push(slot);
                }
            }
        }
        for (bytes, filled) in fills {
            let kept = match filled {
                Some(filled) => filled.wait(until).await,
                None => None,
            };
            match kept {
                Some(position) => prefetch.kept(bytes, Some(position)),
                None => prefetch.failed(),
            }
        }
    }
}

/// Whether a block comes whole. Its bytes go to the fill, not here.
async fn arrives(ticket: &mut Ticket) -> bool {
    loop {
        match ticket.next().await {
            Event::Header(..) | Event::Piece(_) => {}
            Event::Whole => return true,
            Event::Missing | Event::Lost => return false,
        }
    }
}
