//! The part of a get that the region's nodes hold, asked of themselves: a stream from each
//! node and part, taken in the order of the chain.
//!
//! Whatever does not go as planned ends this part, and a gateway is asked for the rest.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::future::join_all;
use kvmesh_directory::Part;
use tokio::time::{Instant, timeout_at};

use super::{
    Chain, Located, Shared,
    locating::{Of, locate},
};
use crate::rpc::{CacheRpc, GetFrame, GetFrames, GetRequest, RpcError};

/// A node that sends nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Who sends which blocks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    calls: Vec<Call>,
    /// Calls by the blocks that are wanted next: chain order, parts innermost.
    order: Vec<usize>,
}

/// What one node is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    address: String,
    part: Part,
    /// Places in the chain, ascending.
    wanted: Vec<u32>,
    touched: Vec<u32>,
}

impl Plan {
    /// The run of blocks from `start` on, `count` at most, that nodes hold in all `parts`.
    /// `located` is of the whole chain; `usable` says who may be asked. What comes before
    /// `start` is touched.
    fn new(
        located: &Located,
        (start, count): (u32, u32),
        parts: &[Part],
        usable: impl Fn(&str) -> bool,
    ) -> Self {
        let mut plan = Self::default();
        let holder = |index: u32, part: usize| {
            let at = index as usize * parts.len() + part;
            let owners = located.blocks.get(at)?;
            // The primary first: others have its blocks too, and not its place in their caches.
            let in_turn = owners.owners.iter().chain(&owners.holders);
            let holding = in_turn.filter(|node| owners.holders.contains(node));
            let addresses = holding.filter_map(|node| located.nodes.get(*node));
            let mut addresses = addresses.map(|node| node.address.as_str());
            addresses.find(|address| usable(address))
        };
        for index in start..start + count {
            let held: Option<Vec<&str>> =
                (0..parts.len()).map(|part| holder(index, part)).collect();
            let Some(held) = held else { break };
            for (address, part) in held.into_iter().zip(parts) {
                let call = plan.call(address, *part);
                plan.calls[call].wanted.push(index);
                plan.order.push(call);
            }
        }
        if plan.order.is_empty() {
            return plan;
        }
        for index in 0..start {
            for (at, part) in parts.iter().enumerate() {
                if let Some(address) = holder(index, at) {
                    let call = plan.call(address, *part);
                    plan.calls[call].touched.push(index);
                }
            }
        }
        plan
    }

    fn call(&mut self, address: &str, part: Part) -> usize {
        let same = |call: &Call| call.address == address && call.part == part;
        match self.calls.iter().position(same) {
            Some(at) => at,
            None => {
                self.calls.push(Call {
                    address: address.to_owned(),
                    part,
                    wanted: Vec::new(),
                    touched: Vec::new(),
                });
                self.calls.len() - 1
            }
        }
    }

    /// Blocks of the run, in chain positions.
    fn run(&self, parts: usize) -> u32 {
        (self.order.len() / parts.max(1)) as u32
    }
}

/// Streams from nodes.
pub(super) struct FromNodes {
    shared: Arc<Shared>,
    streams: Vec<NodeStream>,
    order: VecDeque<usize>,
}

struct NodeStream {
    address: String,
    frames: GetFrames,
    /// Places in the chain of what is still to come.
    to_come: VecDeque<u32>,
}

impl FromNodes {
    /// Locates the blocks of a get and asks for those that nodes hold; none: that is not the
    /// way for this get.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        request: &GetRequest,
        replicas: u32,
        gateway: (usize, CacheRpc),
        deadline: Instant,
    ) -> Option<Self> {
        let nodes = shared.nodes.as_ref()?;
        let mut parts = request.parts.clone();
        if parts.is_empty() {
            parts.push(Part::default());
        }
        let chain = request.chain.first(request.start + request.count);
        let of = Of {
            namespace: request.namespace,
            replicas,
        };
        // Whether the run is long enough must be known before anything is sent.
        let guess = request.blocks_min <= 1;
        let located = locate(shared, gateway, (of, guess), (&chain, &parts), deadline).await?;
        let wanted = (request.start, request.count);
        let plan = Plan::new(&located, wanted, &parts, |address| nodes.is_usable(address));
        let run = plan.run(parts.len());
        // A gateway may find the rest elsewhere, and then the whole is long enough.
        if run == 0 || run < request.blocks_min.min(request.count) {
            return None;
        }
        let until = deadline.min(Instant::now() + SILENCE_MAX);
        let opening = plan.calls.into_iter().map(|call| async {
            let address = call.address.clone();
            let opened = timeout_at(until, ask(shared, request, &chain, call)).await;
            match opened {
                Ok(Ok(stream)) => Some(stream),
                // The node is well; a gateway says it to the caller.
                Ok(Err(error)) if error.is_invalid() => None,
                Ok(Err(error)) => {
                    nodes.failed(&address, &error);
                    None
                }
                Err(_) => {
                    nodes.failed(&address, &"it does not answer");
                    None
                }
            }
        });
        let streams: Option<Vec<_>> = join_all(opening).await.into_iter().collect();
        Some(Self {
            shared: Arc::clone(shared),
            streams: streams?,
            order: plan.order.into(),
        })
    }

    /// The next frame, in the order of the chain; none: no more comes this way. May be
    /// dropped at any time.
    pub(super) async fn next(&mut self) -> Option<GetFrame> {
        let Some(&next) = self.order.front() else {
            let streams = mem::take(&mut self.streams).into_iter();
            join_all(streams.map(|stream| stream.frames.end())).await;
            return None;
        };
        let stream = &mut self.streams[next];
        let nodes = self.shared.nodes.as_ref()?;
        let next = timeout_at(Instant::now() + SILENCE_MAX, stream.frames.next()).await;
        let mut frame = match next {
            // With a summary it has less than was thought, or is in no state to say.
            Ok(Ok(Some(frame))) if frame.summary.is_none() => frame,
            Ok(Ok(_)) => return self.misled(),
            Ok(Err(error)) if error.is_invalid() => return None,
            Ok(Err(error)) => {
                nodes.failed(&stream.address, &error);
                return None;
            }
            Err(_) => {
                nodes.failed(&stream.address, &"it has fallen silent");
                return None;
            }
        };
        if let Some(header) = &mut frame.header {
            // What is not there after all may be elsewhere.
            if header.meta.is_none() {
                return self.misled();
            }
            header.index = stream.to_come.pop_front()?;
        }
        if frame.end.is_some() {
            self.order.pop_front();
            nodes.answered(&stream.address);
        }
        Some(frame)
    }

    /// A node has less than was thought.
    fn misled<T>(&self) -> Option<T> {
        self.shared.ring.misled();
        None
    }
}

async fn ask(
    shared: &Shared,
    request: &GetRequest,
    chain: &Chain,
    call: Call,
) -> Result<NodeStream, RpcError> {
    let nodes = shared
        .nodes
        .as_ref()
        .and_then(|nodes| nodes.rpc(&call.address));
    let unreachable = || tonic::Status::unavailable("its address cannot be");
    let rpc = nodes.ok_or_else(unreachable)?;
    let places = call.wanted.iter().chain(&call.touched);
    let mut hashes = BytesMut::with_capacity(places.clone().count() * chain.width() as usize);
    places.for_each(|index| hashes.extend_from_slice(&chain.hash(*index)));
    let wanted = call.wanted.len() as u32;
    let request = GetRequest {
        chain: Chain::packed(hashes.freeze(), chain.width() as usize)?,
        start: 0,
        count: 0,
        parts: vec![call.part],
        blocks_min: 0,
        await_fill: false,
        overrides: true,
        select: (0..wanted).collect(),
        touch: (wanted..wanted + call.touched.len() as u32).collect(),
        ..request.clone()
    };
    Ok(NodeStream {
        frames: rpc.get(&request).await?,
        address: call.address,
        to_come: call.wanted.into(),
    })
}

#[cfg(test)]
#[path = "from_nodes_test.rs"]
mod from_nodes_test;
