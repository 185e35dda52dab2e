//! Reads calls. Every field that cannot be is refused by its name.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{Encoding, FromWire, Problem, ToWire, convert};
use kvmesh_directory::{
    FeedPosition, Namespace, NamespaceId, Part,
    limits::{LOOKUP_CHAINS_MAX, LOOKUP_HASHES_MAX},
    namespace::AckLevel,
};
use kvmesh_proto::v1 as wire;

use crate::{
    asker::Asker,
    chain::Chain,
    context::Gateway,
    deadline::Deadline,
    request::{Query, Want},
    rpc::control::Deletion,
    way::Class,
};

/// Blocks times parts that one call may be about.
const BLOCKS_TIMES_PARTS_MAX: usize = 1 << 18;
/// Blocks times parts that one locate may be about, so that its answer fits a message.
const LOCATED_MAX: usize = 1 << 16;

pub(super) fn namespace_of(
    gateway: &Gateway,
    asker: &Asker,
    id: bytes::Bytes,
) -> Result<Namespace, Problem> {
    let id = NamespaceId::from_wire(id)?;
    gateway.views.namespace(id, asker)
}

pub(super) fn positions(wire: Vec<wire::FeedPosition>) -> Result<Vec<FeedPosition>, Problem> {
    Ok(convert::all(wire)?)
}

fn chain_of(wire: Option<wire::Chain>, namespace: &Namespace) -> Result<Chain, Problem> {
    let chain = wire.ok_or_else(|| Problem::invalid("chain", "it is missing"))?;
    let width = namespace.description.width_where(chain.width);
    let hashes = convert::chain(&chain, width)?;
    Ok(Chain::new(chain.hashes, chain.width, hashes))
}

fn bounded(blocks: usize, parts: &[Part], limit: usize) -> Result<(), Problem> {
    if blocks.saturating_mul(parts.len()) > limit {
        let why = format!(
            "{blocks} blocks of {} parts are too many, the limit is {limit}: split the call",
            parts.len()
        );
        return Err(Problem::invalid("parts", why));
    }
    Ok(())
}

/// The range of `count` (0: all) places from `start`.
fn range(chain: &Chain, start: u32, count: u32) -> Result<std::ops::Range<u32>, Problem> {
    let len = chain.len() as u32;
    if start > len {
        let why = format!("it is {start}, the chain has {len} blocks");
        return Err(Problem::invalid("start", why));
    }
    if count > len - start {
        let why = format!("{count} blocks from {start} go past the chain's {len}");
        return Err(Problem::invalid("count", why));
    }
    let end = if count == 0 { len } else { start + count };
    Ok(start..end)
}

/// Places that a call names; strictly ascending.
fn places(field: &'static str, places: Vec<u32>, chain: &Chain) -> Result<Vec<u32>, Problem> {
    let ascending = places.is_sorted_by(|a, b| a < b);
    if !ascending
        || places
            .last()
            .is_some_and(|&last| last as usize >= chain.len())
    {
        let why = format!(
            "name places of the chain (0 to {}), ascending",
            chain.len() - 1
        );
        return Err(Problem::invalid(field, why));
    }
    Ok(places)
}

pub(super) fn want(
    gateway: &Gateway,
    asker: &Asker,
    request: wire::GetRequest,
    deadline: Deadline,
) -> Result<Want, Problem> {
    let namespace = namespace_of(gateway, asker, request.namespace_id)?;
    let chain = chain_of(request.chain, &namespace)?;
    let parts = convert::parts(&request.parts, &namespace.description)?;
    let ranges = convert::ranges(&request.ranges)?;
    let selects = !request.select.is_empty() || !request.touch.is_empty();
    let (indexes, touch) = if selects {
        let select = places("select", request.select, &chain)?;
        let touch = match request.touch.is_empty() {
            // Hashes that are copied elsewhere need not be of one chain.
            true if request.aside => Vec::new(),
            true => (0..select.first().copied().unwrap_or(0)).collect(),
            false => places("touch", request.touch, &chain)?,
        };
        (select, touch)
    } else {
        let range = range(&chain, request.start, request.count)?;
        (range.clone().collect(), (0..range.start).collect())
    };
    bounded(chain.len(), &parts, BLOCKS_TIMES_PARTS_MAX)?;
    let dtype = &namespace.description.dtype;
    let encoding = Encoding::of_dtype(dtype);
    let from_afar = request.hop > 0;
    let lossy = namespace.policy.lossy && (request.lossy || !from_afar);
    let lossy_encoding = Encoding::lossy_of_dtype(dtype).filter(|_| lossy);
    // A gateway of a later version may know more of them.
    let takes = |it: &Encoding| from_afar && request.encodings.contains(&it.to_wire());
    Ok(Want {
        class: Class::Demand,
        encoding: encoding.filter(takes),
        lossy_encoding: lossy_encoding.filter(takes),
        lossy,
        namespace: Arc::new(namespace),
        chain,
        indexes,
        parts,
        touch,
        ranges,
        blocks_min: request.blocks_min,
        any_order: request.any_order,
        await_fill: request.await_fill,
        from_afar,
        aside: request.aside && from_afar,
        deadline,
    })
}

pub(super) fn queries(
    chains: Vec<wire::ChainQuery>,
    namespace: &Namespace,
) -> Result<Vec<Query>, Problem> {
    if chains.len() > LOOKUP_CHAINS_MAX {
        let why = format!("{} chains, the limit is {LOOKUP_CHAINS_MAX}", chains.len());
        return Err(Problem::invalid("chains", why));
    }
    let (mut hashes, mut names) = (0, 0);
    let mut queries = Vec::with_capacity(chains.len());
    for query in chains {
        let chain = chain_of(query.chain, namespace)?;
        let start = range(&chain, query.start, 0)?.start as usize;
        let parts = convert::parts(&query.parts, &namespace.description)?;
        hashes += chain.len();
        names += chain.len() * parts.len();
        queries.push(Query {
            chain,
            start,
            parts,
        });
    }
    if hashes > LOOKUP_HASHES_MAX {
        let why = format!("{hashes} hashes over all, the limit is {LOOKUP_HASHES_MAX}");
        return Err(Problem::invalid("chains", why));
    }
    if names > BLOCKS_TIMES_PARTS_MAX {
        let why = format!("{names} blocks times parts, the limit is {BLOCKS_TIMES_PARTS_MAX}");
        return Err(Problem::invalid("chains.parts", why));
    }
    Ok(queries)
}

pub(super) fn located(
    request: wire::LocateRequest,
    namespace: &Namespace,
) -> Result<Query, Problem> {
    let chain = chain_of(request.chain, namespace)?;
    let parts = convert::parts(&request.parts, &namespace.description)?;
    bounded(chain.len(), &parts, LOCATED_MAX)?;
    Ok(Query {
        chain,
        start: 0,
        parts,
    })
}

pub(super) fn deletion(
    request: wire::DeleteRequest,
    namespace: &Namespace,
) -> Result<Deletion, Problem> {
    let chain = chain_of(request.chain, namespace)?;
    let range = range(&chain, request.start, request.count)?;
    if range.is_empty() {
        return Err(Problem::invalid(
            "start",
            "no block is left to delete after it",
        ));
    }
    let description = &namespace.description;
    let parts = match request.parts.is_empty() {
        true => description.parts().collect(),
        false => convert::parts(&request.parts, description)?,
    };
    bounded(range.len(), &parts, BLOCKS_TIMES_PARTS_MAX)?;
    Ok(Deletion {
        namespace: namespace.id,
        hashes: chain.pick(range),
        width: chain.width(),
        parts,
    })
}

/// The level of a put.
pub(super) fn level(raw: i32, namespace: &Namespace) -> Result<AckLevel, Problem> {
    Ok(convert::ack_level(raw)?.unwrap_or(namespace.policy.ack))
}

pub(super) fn millis(raw: u32, default_ms: u64) -> Duration {
    match raw {
        0 => Duration::from_millis(default_ms),
        raw => Duration::from_millis(raw.into()),
    }
}
