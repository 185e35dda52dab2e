//! The client for engines: looks chains up, gets and puts blocks through the gateways given.
//!
//! Every byte that it returns was verified. It asks another gateway when one fails, inside
//! of the deadline, and by itself reads what it wrote, whichever gateway answers.

mod answers;
mod attempts;
mod chain;
mod error;
mod from_nodes;
mod gateways;
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
mod ring;
mod through_memory;
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
    sync::{Arc, OnceLock},
    time::Duration,
};

use kvmesh_directory::{Description, FeedPosition, Namespace, RingEpoch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::DropGuard;

use self::{
    attempts::Attempts, gateways::Gateways, path::Nodes, positions::Positions, ring::KnownRing,
};
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
    gateways: Arc<Gateways>,
    /// Nobody tries lost gateways any more when the client is gone.
    _trying: DropGuard,
    positions: Positions,
    instance: String,
    /// A call that failed is not made again.
    once: bool,
    /// None: blocks go through gateways only.
    nodes: Option<Nodes>,
    /// Where the blocks of that region belong whose gateway was asked last.
    ring: KnownRing,
    /// Nodes on this host.
    local: OnceLock<Local>,
}

impl Client {
    /// A client of the gateways at these `host:port` addresses, the preferred one first: those of
    /// the own region, then one of another region, if it is to go on when its own is lost.
    /// Connections are made when they are first used.
    ///
    /// A gateway that cannot be reached, does not serve, or takes a call and falls silent is
    /// lost: all calls go to the next one, and come back when it has answered for a while.
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
        let (gateways, trying) = Gateways::new(gateways, channels, instance)?;
        let shared = Shared {
            gateways,
            _trying: trying,
            positions: Positions::default(),
            instance: instance.to_owned(),
            once,
            nodes: direct.then(|| Nodes::new(nodes)),
            ring: KnownRing::default(),
            local: OnceLock::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// From now on blocks that a node on this host holds are read where they lie, and those that
    /// it is to own are put into memory that it shares; `place` is the node's `local_socket`, or
    /// a folder of them. What cannot go so goes over gRPC.
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
        let answer = self.shared.ask_at("open", deadline, |rpc, left| {
            rpc.open(description, name, template, left)
        });
        let (answer, at) = answer.await?;
        self.shared.gateways.resides(at, &answer.region);
        if let Some(position) = &answer.position {
            self.observe(position);
        }
        // Nodes of a region that is not the client's own are not for it, wherever they are.
        let is_own = answer.ring_epoch != RingEpoch(0);
        if let Some(local) = self.shared.local.get().filter(|_| is_own) {
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

    /// The gateway that the next call asks first.
    #[must_use]
    pub fn gateway(&self) -> &str {
        let gateways = &self.shared.gateways;
        gateways.address(gateways.first())
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
        let answered = self.ask_at(call, deadline, ask).await;
        answered.map(|(answer, _)| answer)
    }

    /// As [`Self::ask`]; says which gateway it was.
    async fn ask_at<T, F>(
        self: &Arc<Self>,
        call: &'static str,
        deadline: Instant,
        ask: impl Fn(CacheRpc, Duration) -> F,
    ) -> Result<(T, usize), CallError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let mut attempts = Attempts::new(Arc::clone(self), call, deadline);
        loop {
            let at = attempts.begin()?;
            let answer = attempts.watched(ask(at.rpc, at.left));
            match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => return Ok((answer, attempts.answered())),
                Ok(Err(error)) => attempts.failed(error).await?,
                Err(_) => return Err(attempts.out_of_time()),
            }
        }
    }

    /// What reads ask for. What was written to a region that is lost cannot be waited for: it
    /// is there again when the region is.
    fn at_least(&self) -> Vec<FeedPosition> {
        let (mut all, lost) = (self.positions.all(), self.gateways.lost_regions());
        all.retain(|position| !lost.contains(&position.region));
        all
    }
}
