//! The client for engines: looks chains up, gets and puts blocks through the gateways given.
//!
//! Every byte that it returns was verified. It asks another gateway when one fails, inside
//! of the deadline, and by itself reads what it wrote, whichever gateway answers.

mod answers;
mod attempts;
mod chain;
mod error;
mod from_nodes;
mod gathering;
mod get;
mod get_ranges;
mod lease;
mod locating;
mod opened;
mod path;
mod positions;
mod prefetch;
mod put;
mod put_attempt;
mod to_nodes;
mod watch;

#[cfg(test)]
mod fake_gateway_test;
#[cfg(test)]
mod get_ranges_test;
#[cfg(test)]
mod get_test;
#[cfg(test)]
mod lease_test;
#[cfg(test)]
mod put_test;
#[cfg(test)]
mod unary_test;

pub use answers::{
    Advice, BlockOwners, ChainMatch, ChainQuery, Deleted, GetOutcome, GetSummary, LeftOut,
    LeftOutReason, Located, LookupAnswer, NodeEndpoint, OpenAnswer, RemoteRun, RemoteView,
    SourceCount,
};
pub use chain::Chain;
pub use error::CallError;
pub use get::{Fetched, FetchedBlock, GetOptions, GetStream};
pub use get_ranges::{FetchedRanges, RangesFetched, RangesStream, Scattered};
pub(crate) use lease::Wish;
pub use lease::{Held, Lease, LeaseAnswer};
pub use opened::Opened;
pub use path::Path;
pub use prefetch::{PrefetchEnd, PrefetchOptions, PrefetchProgress, PrefetchStream};
pub use put::{Acked, PutBlock, PutOptions, PutResult, Refused};
pub use watch::{RequestReport, WatchStream, Watched};

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kvmesh_directory::{Description, FeedPosition, Namespace};
use tokio::time::{Instant, timeout_at};

use self::{attempts::Attempts, path::Nodes, positions::Positions};
use crate::{
    channel::Channels,
    local::Local,
    rpc::{CacheRpc, RpcError},
    tls::{Expected, Role},
};

/// A client of one mesh. Cheap to clone; clones share channels and what was written.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    gateways: Vec<String>,
    channels: Channels,
    /// Where the next call starts: past the gateways that failed last.
    first: AtomicUsize,
    positions: Positions,
    instance: String,
    /// A call that failed is not made again.
    once: bool,
    /// None: blocks go through gateways only.
    nodes: Option<Nodes>,
    /// Nodes on this host.
    local: OnceLock<Local>,
}

impl Client {
    /// A client of the gateways at these `host:port` addresses, the nearest first.
    /// Connections are made when they are first used.
    ///
    /// Blocks that the region holds come straight from its nodes, and go straight to them;
    /// a node that is not reached is logged once, and gateways stand in for it.
    ///
    /// # Errors
    /// When there is no address, or one cannot be.
    pub fn connect(gateways: Vec<String>, channels: Channels) -> Result<Self, CallError> {
        Self::connect_as("client", gateways, channels)
    }

    /// As [`Self::connect`]; `instance` is a label of the client's metrics.
    ///
    /// # Errors
    /// When there is no address, or one cannot be.
    pub fn connect_as(
        instance: &str,
        gateways: Vec<String>,
        channels: Channels,
    ) -> Result<Self, CallError> {
        Self::new(instance, gateways, channels, (false, true))
    }

    /// As [`Self::connect`], for where nodes are not to be reached, or not to be asked: all
    /// blocks go through the gateways.
    ///
    /// # Errors
    /// When there is no address, or one cannot be.
    pub fn connect_through(gateways: Vec<String>, channels: Channels) -> Result<Self, CallError> {
        Self::new("client", gateways, channels, (false, false))
    }

    /// A client of one gateway that makes each call once: the first failure is the answer,
    /// and so is a view that is behind. For those who want to see a failure, not to have it
    /// mended. Blocks that were refused for the moment are still put again.
    ///
    /// # Errors
    /// When the address cannot be.
    pub fn connect_once(gateway: &str, channels: Channels) -> Result<Self, CallError> {
        Self::new("client", vec![gateway.to_owned()], channels, (true, false))
    }

    fn new(
        instance: &str,
        gateways: Vec<String>,
        channels: Channels,
        (once, direct): (bool, bool),
    ) -> Result<Self, CallError> {
        if gateways.is_empty() {
            return Err(CallError::NoGateway);
        }
        let nodes = channels.or_expecting(Expected::role(Role::Node));
        let channels = channels.or_expecting(Expected::role(Role::Gateway));
        for address in &gateways {
            channels.to(address)?;
        }
        let shared = Shared {
            gateways,
            channels,
            first: AtomicUsize::new(0),
            positions: Positions::default(),
            instance: instance.to_owned(),
            once,
            nodes: direct.then(|| Nodes::new(nodes)),
            local: OnceLock::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// From now on blocks that a node on this host holds are read where they lie; `place` is
    /// the node's `local_socket`, or a folder of them. What cannot be read so comes over gRPC.
    /// Once told, a client is not told another place.
    #[must_use]
    pub fn with_local(self, place: impl Into<PathBuf>) -> Self {
        let local = Local::new(place.into(), &self.shared.instance);
        let _ = self.shared.local.set(local);
        self
    }

    /// Makes a namespace known, or finds it. `name` is an alias, empty: derived from the id;
    /// `template` names policies of the operator, empty: the default ones.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time.
    pub async fn open(
        &self,
        description: &Description,
        name: &str,
        template: &str,
        deadline: Duration,
    ) -> Result<Opened, CallError> {
        let deadline = Instant::now() + deadline;
        let answer = self.shared.ask("open", deadline, |rpc, left| {
            rpc.open(description, name, template, left)
        });
        let answer = answer.await?;
        if let Some(position) = &answer.position {
            self.observe(position);
        }
        if let Some(local) = self.shared.local.get() {
            local.settle(&answer.region);
        }
        Ok(Opened::new(self.clone(), answer.namespace))
    }

    /// A namespace that is known to be open.
    #[must_use]
    pub fn namespace(&self, namespace: Namespace) -> Opened {
        Opened::new(self.clone(), namespace)
    }

    /// From now on reads show everything that a view at `position` shows. The client notes by
    /// itself what it wrote; this is for what others wrote.
    pub fn observe(&self, position: &FeedPosition) {
        self.shared.positions.note(position);
    }

    /// What reads ask for: the newest position of each region, ascending by region.
    #[must_use]
    pub fn positions(&self) -> Vec<FeedPosition> {
        self.shared.positions.all()
    }
}

impl Shared {
    /// Asks one gateway after another until one answers, inside of the deadline.
    async fn ask<T, F>(
        self: &Arc<Self>,
        call: &'static str,
        deadline: Instant,
        ask: impl Fn(CacheRpc, Duration) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let mut attempts = Attempts::new(Arc::clone(self), call, deadline);
        loop {
            let at = attempts.begin()?;
            match timeout_at(deadline, ask(at.rpc, at.left)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => attempts.failed(error).await?,
                Err(_) => return Err(attempts.out_of_time()),
            }
        }
    }

    fn address(&self, turn: usize) -> &str {
        &self.gateways[turn % self.gateways.len()]
    }

    /// The gateway of a turn failed: the next call starts past it.
    fn skip(&self, turn: usize) {
        self.first.store(
            turn.wrapping_add(1) % self.gateways.len(),
            Ordering::Relaxed,
        );
    }
}
