//! `Lookup` on a node: its applied view of the region.

use kvmesh_client::{Problem, ToWire, convert};
use kvmesh_directory::{
    BlockHash, BlockName, Namespace, Part,
    limits::{LOOKUP_CHAINS_MAX, LOOKUP_HASHES_MAX},
};
use kvmesh_proto::v1 as wire;

use super::{ahead::Ahead, chain_of, namespace_of, positions_of};
use crate::node::Node;

/// One chain of a lookup, from its start on.
struct Query {
    hashes: Vec<BlockHash>,
    parts: Vec<Part>,
}

pub(super) async fn lookup(
    node: &Node,
    request: wire::LookupRequest,
) -> Result<wire::LookupResponse, Problem> {
    if request.hold_ms > 0 {
        let what = "hold_ms above 0 at a node (lease by id and keys, or ask a gateway)";
        return Err(Problem::Unimplemented(what.to_owned()));
    }
    let namespace = namespace_of(node, &request.namespace_id)?;
    let queries = read(&request.chains, &namespace)?;
    let view_behind = !node.reached(&positions_of(request.at_least)?).await;
    // Without the lease a delete may be unknown here: nothing is present then.
    let answers = !view_behind && node.consensus.lease_valid();
    let found = |query: &Query| match answers {
        true => find(node, &namespace, query),
        false => wire::ChainMatch::default(),
    };
    let matches = match view_behind {
        true => Vec::new(),
        false => queries.iter().map(found).collect(),
    };
    let age_ms = match node.consensus.lease_valid() {
        true => 0,
        false => node.settings.now().serve_lease_ms,
    };
    Ok(wire::LookupResponse {
        matches,
        position: Some(node.position()?.to_wire()),
        age_ms,
        regions: Vec::new(),
        view_behind,
        ..Default::default()
    })
}

fn read(chains: &[wire::ChainQuery], namespace: &Namespace) -> Result<Vec<Query>, Problem> {
    if chains.len() > LOOKUP_CHAINS_MAX {
        let why = format!("{} chains, the limit is {LOOKUP_CHAINS_MAX}", chains.len());
        return Err(Problem::invalid("chains", why));
    }
    let mut left = LOOKUP_HASHES_MAX;
    let mut queries = Vec::with_capacity(chains.len());
    for query in chains {
        let mut hashes = chain_of(query.chain.as_ref(), namespace)?;
        left = left.checked_sub(hashes.len()).ok_or_else(|| {
            let why = format!("over {LOOKUP_HASHES_MAX} hashes together: split the lookup");
            Problem::invalid("chains", why)
        })?;
        let start = super::range_of(query.start, 0, hashes.len())?.start;
        let parts = convert::parts(&query.parts, &namespace.description)?;
        hashes.drain(..start);
        queries.push(Query { hashes, parts });
    }
    Ok(queries)
}

fn find(node: &Node, namespace: &Namespace, query: &Query) -> wire::ChainMatch {
    let names = |hash: BlockHash| {
        let namespace = namespace.id;
        query.parts.iter().map(move |part| BlockName {
            namespace,
            hash,
            part: *part,
        })
    };
    let directory = &node.directory;
    let (run, bytes) = directory.with(|state| state.run(namespace.id, &query.hashes, &query.parts));
    let pending = query.hashes[run..].iter().take_while(|hash| {
        names(**hash)
            .all(|name| node.flights.contains(&name) || directory.with(|state| state.has(&name)))
    });
    // Who looks up a chain comes for what was found of it.
    let found = &query.hashes[..run];
    Ahead::of(node, namespace, found, &query.parts, &[]).from(0);
    let blocks = u32::try_from(run).unwrap_or(u32::MAX);
    wire::ChainMatch {
        local_blocks: blocks,
        local_bytes: bytes,
        pending_blocks: u32::try_from(pending.count()).unwrap_or(u32::MAX),
        mesh_blocks: blocks,
        ..Default::default()
    }
}
