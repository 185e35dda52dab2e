//! Calls of the service `Cache`, made by the engines' client.
//!
//! Each call is made once, so that what goes wrong is seen and not mended; reads show what
//! the caller says, whatever was called before.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use kvmesh_client::{
    Ranges, RefusalReason,
    client::{
        self, Acked, Chain, ChainQuery, Client, Deleted, FetchedBlock, FetchedRanges, GetOptions,
        GetSummary, LeaseAnswer, Located, LookupAnswer, Opened, PutBlock, PutOptions, PutResult,
    },
};
use kvmesh_directory::{Description, FeedPosition, Namespace, RingEpoch, namespace::AckLevel};
use tonic::Code;

use super::{CallError, Peer};

/// A namespace as one gateway serves it.
pub struct Cache {
    pub(super) peer: Peer,
    pub(super) opened: Opened,
}

/// A block that is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Repeating does not help, or did not help in time.
    #[error("block {depth} was refused ({reason}): {message}")]
    Refused {
        /// Position in the chain.
        depth: u32,
        /// Name of the reason.
        reason: &'static str,
        /// The gateway's words.
        message: String,
    },
    /// The gateway did not say.
    #[error("block {depth} was not answered for ({why}): raise --timeout, or put it again")]
    Unanswered {
        /// Position in the chain.
        depth: u32,
        /// What went wrong.
        why: String,
    },
}

impl Peer {
    /// Makes a namespace known, with a policy template of the gateway.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn open(
        &self,
        description: &Description,
        name: &str,
        template: &str,
    ) -> Result<Cache, CallError> {
        let client = self.client()?;
        let opened = client.open(description, name, template, self.timeout);
        Ok(Cache {
            opened: opened.await.map_err(self.explain())?,
            peer: self.clone(),
        })
    }

    /// A namespace that is open; reads show what a view at `at_least` shows.
    ///
    /// # Errors
    /// Never for a peer that could be made: its address is possible.
    pub fn cache(
        &self,
        namespace: &Namespace,
        at_least: &[FeedPosition],
    ) -> Result<Cache, CallError> {
        let client = self.client()?;
        at_least
            .iter()
            .for_each(|position| client.observe(position));
        Ok(Cache {
            opened: client.namespace(namespace.clone()),
            peer: self.clone(),
        })
    }

    /// As [`Self::cache`], for who is on a node's host: `place` is its socket, or a folder of them.
    /// What does not go there goes straight to nodes, and is tried again as engines do.
    ///
    /// # Errors
    /// When the gateway does not say which region it is of.
    pub async fn cache_on_host(
        &self,
        namespace: &Namespace,
        at_least: &[FeedPosition],
        place: &Path,
    ) -> Result<Cache, CallError> {
        let gateways = vec![self.address.to_string()];
        let client = Client::connect(gateways, self.channels.clone()).map_err(self.explain())?;
        let client = client.with_local(place);
        at_least
            .iter()
            .for_each(|position| client.observe(position));
        let opened = client.open(&namespace.description, &namespace.name, "", self.timeout);
        Ok(Cache {
            opened: opened.await.map_err(self.explain())?,
            peer: self.clone(),
        })
    }

    /// Knows nothing of earlier calls.
    fn client(&self) -> Result<Client, CallError> {
        Client::connect_once(&self.address, self.channels.clone()).map_err(self.explain())
    }

    pub(super) fn explain(&self) -> impl Fn(client::CallError) -> CallError {
        let (address, limit) = (self.address.to_string(), self.timeout);
        move |error| explain(error, address.clone(), limit)
    }
}

impl Cache {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        self.opened.namespace()
    }

    /// What reads show: as asked for, and what was written by this value.
    #[must_use]
    pub fn positions(&self) -> Vec<FeedPosition> {
        self.opened.client().positions()
    }

    /// How much of a chain is present from `start` on.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn lookup(&self, chain: &Chain, start: u32) -> Result<LookupAnswer, CallError> {
        let queries = [query(chain, start)];
        let answer = self.opened.lookup(&queries, self.peer.timeout).await;
        self.matched(answer.map_err(self.peer.explain())?)
    }

    fn matched(&self, answer: LookupAnswer) -> Result<LookupAnswer, CallError> {
        if answer.matches.is_empty() && !answer.view_behind {
            return Err(self.peer.broken("lookup", "an answer without a match"));
        }
        Ok(answer)
    }

    /// As [`Self::lookup`]; what the region has is leased for `hold`, by the name that comes.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn lookup_held(
        &self,
        chain: &Chain,
        start: u32,
        hold: Duration,
    ) -> Result<(LookupAnswer, Option<Bytes>), CallError> {
        let queries = [query(chain, start)];
        let held = self.opened.lookup_held(&queries, hold, self.peer.timeout);
        let held = held.await.map_err(self.peer.explain())?;
        let name = held.lease.map(|lease| lease.name().clone());
        Ok((self.matched(held.answer)?, name))
    }

    /// Holds a lease for longer.
    ///
    /// # Errors
    /// When it has ended, or the gateway refuses or does not answer.
    pub async fn renew(&self, name: Vec<u8>, hold: Duration) -> Result<LeaseAnswer, CallError> {
        let mut lease = self.opened.lease(name.into());
        let renewed = lease.renew(hold, self.peer.timeout).await;
        renewed.map_err(self.peer.explain())
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn release(&self, name: Vec<u8>) -> Result<LeaseAnswer, CallError> {
        let lease = self.opened.lease(name.into());
        let released = lease.release(self.peer.timeout).await;
        released.map_err(self.peer.explain())
    }

    /// Gets blocks in chain order and hands each to `on_block` once it is whole and verified.
    ///
    /// # Errors
    /// When the gateway refuses, does not answer in time, or sends what is not as announced;
    /// and whatever `on_block` says.
    pub async fn get(
        &self,
        chain: &Chain,
        options: GetOptions,
        mut on_block: impl FnMut(FetchedBlock) -> anyhow::Result<()>,
    ) -> anyhow::Result<GetSummary> {
        let explain = self.peer.explain();
        let mut next = options.start;
        let options = GetOptions {
            deadline: Some(self.peer.timeout),
            ..options
        };
        let mut blocks = self.opened.get_stream(chain, options).map_err(&explain)?;
        while let Some(block) = blocks.next().await.map_err(&explain)? {
            self.due(&mut next, block.index)?;
            on_block(block)?;
        }
        Ok(blocks.into_summary())
    }

    /// As [`Self::get`], of byte ranges of each block.
    ///
    /// # Errors
    /// As [`Self::get`]; and when a block does not have the bytes.
    pub async fn get_ranges(
        &self,
        chain: &Chain,
        ranges: &Ranges,
        options: GetOptions,
        mut on_block: impl FnMut(FetchedRanges) -> anyhow::Result<()>,
    ) -> anyhow::Result<GetSummary> {
        let explain = self.peer.explain();
        let mut next = options.start;
        let options = GetOptions {
            deadline: Some(self.peer.timeout),
            ..options
        };
        let blocks = self.opened.get_ranges_stream(chain, ranges, options);
        let mut blocks = blocks.map_err(&explain)?;
        while let Some(block) = blocks.next().await.map_err(&explain)? {
            self.due(&mut next, block.index)?;
            on_block(block)?;
        }
        Ok(blocks.into_summary())
    }

    /// Blocks come in chain order.
    fn due(&self, next: &mut u32, index: u32) -> Result<(), CallError> {
        if index < *next {
            let how = format!("block {index} came after block {next} was due");
            return Err(self.peer.broken("get", how));
        }
        *next = index + 1;
        Ok(())
    }

    /// Stores blocks at the namespace's level; answers come in the order of `blocks`.
    /// What the gateway refuses for the moment is offered again until the time is up.
    ///
    /// # Errors
    /// When a block cannot be stored, or the gateway does not answer in time.
    pub async fn put(&self, blocks: &[PutBlock]) -> anyhow::Result<Vec<Acked>> {
        self.put_at(blocks, None).await
    }

    /// As [`Self::put`], at a level; none: the namespace's.
    ///
    /// # Errors
    /// When a block cannot be stored, or the gateway does not answer in time.
    pub async fn put_at(
        &self,
        blocks: &[PutBlock],
        ack: Option<AckLevel>,
    ) -> anyhow::Result<Vec<Acked>> {
        let options = PutOptions {
            ack,
            deadline: Some(self.peer.timeout),
        };
        let results = self.opened.put(blocks, options).await;
        let results = results.map_err(self.peer.explain())?;
        let acked = blocks.iter().zip(results).map(|(block, result)| {
            let depth = block.block.meta.depth;
            match result {
                PutResult::Acked(acked) => Ok(acked),
                PutResult::Refused(refused) => Err(PutError::Refused {
                    depth,
                    reason: reason(refused.reason),
                    message: refused.message,
                }),
                PutResult::Unanswered { why } => Err(PutError::Unanswered { depth, why }),
            }
        });
        Ok(acked.collect::<Result<_, _>>()?)
    }

    /// Makes blocks of a chain unreadable; `count` 0 means to its end.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn delete(
        &self,
        chain: &Chain,
        start: u32,
        count: u32,
    ) -> Result<Deleted, CallError> {
        let deleted = self
            .opened
            .delete(chain, start, count, &[], self.peer.timeout);
        deleted.await.map_err(self.peer.explain())
    }

    /// Owners and holders of each block of a chain, in the region that answers.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn locate(&self, chain: &Chain) -> Result<Located, CallError> {
        let located = self
            .opened
            .locate(chain, &[], RingEpoch(0), self.peer.timeout);
        located.await.map_err(self.peer.explain())
    }
}

fn query(chain: &Chain, start: u32) -> ChainQuery {
    ChainQuery {
        start,
        ..chain.clone().into()
    }
}

fn explain(error: client::CallError, address: String, limit: std::time::Duration) -> CallError {
    use client::CallError as E;
    let refused = |what, code: Code, message| CallError::Refused {
        what,
        address: address.clone(),
        code: format!("{code:?}"),
        message,
    };
    match error {
        E::Status {
            call: what,
            status,
            broken,
        } => match (status.code(), broken) {
            (Code::Unavailable, Some(why)) => CallError::Unreachable { address, why },
            (Code::DeadlineExceeded | Code::Cancelled, _) => CallError::OutOfTime {
                what,
                address,
                limit,
            },
            (code, _) => {
                let said = status.message();
                let own = said.strip_prefix(&format!("{address}: ")).unwrap_or(said);
                refused(what, code, own.to_owned())
            }
        },
        E::OutOfTime { call: what, .. } => CallError::OutOfTime {
            what,
            address,
            limit,
        },
        E::Answer { call, source, .. } => CallError::Broken {
            what: call,
            address,
            how: source.to_string(),
        },
        E::Protocol { call, what, .. } => CallError::Broken {
            what: call,
            address,
            how: what.to_owned(),
        },
        E::Request { call, source } => refused(call, Code::InvalidArgument, source.to_string()),
        E::Block { index, source } => {
            let message = format!("block {index} of those given: {source}");
            refused("put", Code::InvalidArgument, message)
        }
        E::NoGateway | E::Address(_) => {
            refused("connecting", Code::InvalidArgument, error.to_string())
        }
    }
}

fn reason(reason: RefusalReason) -> &'static str {
    use RefusalReason as R;
    match reason {
        R::Invalid => "invalid",
        R::TooLarge => "too large",
        R::Checksum => "checksum",
        R::NoSpace => "no space",
        R::Unavailable => "unavailable",
        R::StaleEpoch => "stale epoch",
        R::Overtaken => "overtaken by a delete",
        R::Truncated => "truncated",
        R::OutOfTime => "out of time",
    }
}
