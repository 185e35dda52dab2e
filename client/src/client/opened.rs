//! A namespace that is open: where blocks are looked up, got and put.

use std::{sync::Arc, time::Duration};

use kvmesh_directory::{Namespace, Part, RingEpoch};
use tokio::time::{Instant, sleep};

use super::{
    CallError, Chain, ChainQuery, Client, Deleted, Fetched, GetOptions, GetStream, Located,
    LookupAnswer, PutBlock, PutOptions, PutResult, Shared, put,
};
use crate::{convert::WireError, ranges::Ranges, rpc::Range};

/// Between two questions to a view that is behind what was written.
pub(super) const VIEW_BEHIND_WAIT: Duration = Duration::from_millis(20);

/// A namespace of one [`Client`]. Cheap to clone.
#[derive(Clone)]
pub struct Opened {
    client: Client,
    namespace: Arc<Namespace>,
}

impl Opened {
    pub(super) fn new(client: Client, namespace: Namespace) -> Self {
        Self {
            client,
            namespace: Arc::new(namespace),
        }
    }

    /// The namespace as it stood when it was opened.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The client that it belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How much of each chain is present, here and in other regions.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time. A view that
    /// stays behind what was written is not an error, but [`LookupAnswer::view_behind`].
    pub async fn lookup(
        &self,
        queries: &[ChainQuery],
        deadline: Duration,
    ) -> Result<LookupAnswer, CallError> {
        self.check_queries(queries)?;
        let deadline = Instant::now() + deadline;
        loop {
            let shared = &self.client.shared;
            let answer = shared.ask_at("lookup", deadline, |rpc, left| {
                let at_least = shared.at_least();
                async move {
                    let id = self.namespace.id;
                    rpc.lookup(id, queries, &at_least, left).await
                }
            });
            let (answer, at) = answer.await?;
            if let Some(position) = &answer.position {
                shared.gateways.resides(at, &position.region);
            }
            let again = answer.view_behind && !self.client.shared.once;
            if !again || Instant::now() + VIEW_BEHIND_WAIT >= deadline {
                return Ok(answer);
            }
            sleep(VIEW_BEHIND_WAIT).await;
        }
    }

    /// Gets the wanted range of a chain, whole.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time and no block
    /// came before. Blocks that are missing are not an error: the summary says so.
    pub async fn get(&self, chain: &Chain, options: GetOptions) -> Result<Fetched, CallError> {
        let mut stream = self.get_stream(chain, options)?;
        let mut blocks = Vec::new();
        while let Some(block) = stream.next().await? {
            blocks.push(block);
        }
        Ok(Fetched {
            blocks,
            summary: stream.into_summary(),
        })
    }

    /// Gets the wanted range of a chain block by block, as they come.
    ///
    /// # Errors
    /// When the request cannot be.
    pub fn get_stream(&self, chain: &Chain, options: GetOptions) -> Result<GetStream, CallError> {
        self.stream(chain, Ranges::default(), options)
    }

    /// A get of `ranges` of each block.
    pub(super) fn stream(
        &self,
        chain: &Chain,
        ranges: Ranges,
        options: GetOptions,
    ) -> Result<GetStream, CallError> {
        self.check("get", chain, &options.parts)?;
        if options.start >= chain.len() || options.count > chain.len() - options.start {
            let why = format!("the chain has {} blocks", chain.len());
            return Err(request("get", "start", why));
        }
        let shared = Arc::clone(&self.client.shared);
        Ok(GetStream::new(
            shared,
            &self.namespace,
            chain,
            ranges,
            options,
        ))
    }

    /// Puts blocks; says of each what became of it, in the order given.
    ///
    /// # Errors
    /// When a block cannot be put as it is, or no gateway takes any of them.
    pub async fn put(
        &self,
        blocks: &[PutBlock],
        options: PutOptions,
    ) -> Result<Vec<PutResult>, CallError> {
        for (index, block) in blocks.iter().enumerate() {
            let wrong = |source| CallError::Block { index, source };
            block.block.meta.check().map_err(wrong)?;
            self.check_width("put", block.hash.len())?;
            self.check_parts("put", &[block.part])?;
        }
        put::put(&self.client.shared, &self.namespace, blocks, options).await
    }

    /// Makes the blocks of a range unreadable: no read that begins after the answer returns
    /// them. `count` 0: to the end of the chain; no `parts`: all of them.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time. It may have
    /// been done then.
    pub async fn delete(
        &self,
        chain: &Chain,
        start: u32,
        count: u32,
        parts: &[Part],
        deadline: Duration,
    ) -> Result<Deleted, CallError> {
        self.check("delete", chain, parts)?;
        let range = self.range(chain, start, count, parts);
        let deadline = Instant::now() + deadline;
        let shared = &self.client.shared;
        let deleted = shared.ask_at("delete", deadline, |rpc, left| {
            rpc.delete(range.clone(), left)
        });
        let (deleted, at) = deleted.await?;
        shared.gateways.resides(at, &deleted.position.region);
        self.client.observe(&deleted.position);
        Ok(deleted)
    }

    /// Which nodes own each block of a chain. `epoch` 0: whatever is current.
    ///
    /// # Errors
    /// When the gateways refuse, cannot be reached, or do not answer in time.
    pub async fn locate(
        &self,
        chain: &Chain,
        parts: &[Part],
        epoch: RingEpoch,
        deadline: Duration,
    ) -> Result<Located, CallError> {
        self.check("locate", chain, parts)?;
        let range = self.range(chain, 0, 0, parts);
        let deadline = Instant::now() + deadline;
        let located = self.client.shared.ask("locate", deadline, |rpc, left| {
            rpc.locate(range.clone(), epoch, None, left)
        });
        located.await.map(|(located, _)| located)
    }

    fn range(&self, chain: &Chain, start: u32, count: u32, parts: &[Part]) -> Range {
        Range {
            namespace: self.namespace.id,
            chain: chain.clone(),
            start,
            count,
            parts: parts.to_vec(),
        }
    }

    pub(super) fn check_queries(&self, queries: &[ChainQuery]) -> Result<(), CallError> {
        let mut queries = queries.iter();
        queries.try_for_each(|query| self.check("lookup", &query.chain, &query.parts))
    }

    /// Calls that fail are not made again.
    pub(super) fn is_once(&self) -> bool {
        self.client.shared.once
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.client.shared)
    }

    pub(super) fn check(
        &self,
        call: &'static str,
        chain: &Chain,
        parts: &[Part],
    ) -> Result<(), CallError> {
        self.check_width(call, chain.width() as usize)?;
        self.check_parts(call, parts)
    }

    fn check_width(&self, call: &'static str, got: usize) -> Result<(), CallError> {
        let want = self.namespace.description.hash_width;
        if got == want as usize {
            return Ok(());
        }
        let why = format!("it is {got}, the namespace's hash_width is {want}");
        Err(request(call, "chain.width", why))
    }

    fn check_parts(&self, call: &'static str, parts: &[Part]) -> Result<(), CallError> {
        let description = &self.namespace.description;
        match parts.iter().find(|part| !description.has_part(**part)) {
            None => Ok(()),
            Some(part) => {
                let why = format!(
                    "({}, {}) is not a part of the namespace",
                    part.shard, part.group
                );
                Err(request(call, "parts", why))
            }
        }
    }
}

fn request(call: &'static str, field: &'static str, why: String) -> CallError {
    let source = WireError::field(field, why);
    CallError::Request { call, source }
}
