//! Answers lookups from the views alone: no RPC leaves the gateway.

use kvmesh_client::follow::Link;
use kvmesh_directory::{
    BlockName, DirectoryState, MeshView, Namespace, NamespaceId, RegionId,
    cost::{LinkCost, Prefill, Run, Time, Weighed, weigh},
    view::RegionSet,
};

use crate::{absent::Lacking, coding, context::Gateway, reach::Others, request::Query};

/// How much of one chain is where; counts are chain positions from the query's start.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Match {
    pub(crate) local_blocks: u32,
    pub(crate) local_bytes: u64,
    pub(crate) pending_blocks: u32,
    pub(crate) mesh_blocks: u32,
    pub(crate) remote: Vec<Remote>,
}

/// What one other region has of a chain.
#[derive(Debug, PartialEq)]
pub(crate) struct Remote {
    pub(crate) region: RegionId,
    pub(crate) blocks: u32,
    /// Those that this region lacks.
    pub(crate) fetch_bytes: u64,
    /// Seconds.
    pub(crate) fetch: Time,
    pub(crate) rtt_ms: f64,
    /// Of the blocks that this region lacks; none: nothing is lacking, or no rate is known.
    pub(crate) weighed: Option<Weighed>,
    /// Where prices are known.
    pub(crate) fetch_dollars: Option<f64>,
    pub(crate) recompute_dollars: Option<f64>,
}

/// Looks the chains up.
pub(crate) fn lookup(
    gateway: &Gateway,
    namespace: &Namespace,
    queries: &[Query],
    others: &Others,
) -> Vec<Match> {
    let links = others.asked.iter().map(|(region, link)| {
        let cost = coding::cost(gateway, namespace, region, link);
        (region.clone(), link.clone(), cost)
    });
    let links: Vec<(RegionId, Link, LinkCost)> = links.collect();
    let hashes: usize = queries.iter().map(|it| it.chain.len() - it.start).sum();
    gateway.meters.looked_up(hashes as u64);
    let lacking = gateway.absent.read();
    gateway.views.local.with(|state| {
        gateway.views.mesh.with(|mesh| {
            let sight = Sight {
                state,
                mesh,
                lacking: &lacking,
                links: &links,
                block_tokens: namespace.description.block_tokens,
                prefill: gateway.prefill.speed(namespace),
                dollars_per_gpu_hour: namespace.policy.dollars_per_gpu_hour,
                under_way: &|name| gateway.pending.has(name) || gateway.flights.has(name),
            };
            queries
                .iter()
                .map(|query| sight.look(namespace.id, query))
                .collect()
        })
    })
}

/// What a lookup sees.
pub(crate) struct Sight<'a> {
    pub(crate) state: &'a DirectoryState,
    pub(crate) mesh: &'a MeshView,
    /// What the others just said that they do not have.
    pub(crate) lacking: &'a Lacking<'a>,
    /// To the regions that can be asked.
    pub(crate) links: &'a [(RegionId, Link, LinkCost)],
    pub(crate) block_tokens: u32,
    /// Of the namespace's engines, where it is known.
    pub(crate) prefill: Option<Prefill>,
    /// 0: not known.
    pub(crate) dollars_per_gpu_hour: f64,
    /// Whether a block is being put or fetched here.
    pub(crate) under_way: &'a dyn Fn(&BlockName) -> bool,
}

/// One position of a chain, over all parts.
struct Position {
    local: bool,
    /// Bytes of parts that this region lacks.
    lacking: u64,
    /// Regions that have all parts.
    everywhere: RegionSet,
    /// This region and the others together have all parts.
    somewhere: bool,
}

impl Sight<'_> {
    /// One walk along the chain, for as long as any run goes on.
    pub(crate) fn look(&self, namespace: NamespaceId, query: &Query) -> Match {
        let asked = self.askable();
        let hashes = query.chain.hashes_from(query.start);
        let (held, local_bytes) = self.state.run(namespace, hashes, &query.parts);
        let here = query.start + held;
        let mut found = Match {
            local_blocks: held as u32,
            local_bytes,
            ..Match::default()
        };
        let (mut pending, mut mesh) = (true, true);
        let (mut remote, mut fetch_bytes) = (asked, 0);
        let mut next = query.start;
        while next < query.chain.len() {
            if next < here && remote.is_empty() {
                // Of what is here, nothing is left to find out but how far others' runs go.
                found.mesh_blocks = held as u32;
                next = here;
                continue;
            }
            let index = next;
            next += 1;
            let far = mesh || !remote.is_empty();
            let local = index < here;
            let at = self.position(namespace, query, index, (asked, far), local);
            if !local && pending {
                pending = at.local || self.is_under_way(namespace, query, index);
                found.pending_blocks += u32::from(pending);
            }
            mesh &= at.somewhere;
            found.mesh_blocks += u32::from(mesh);
            let ended = RegionSet(remote.0 & !at.everywhere.0);
            let run = index - query.start;
            self.end_remote(&mut found, query, ended, run, fetch_bytes);
            remote = RegionSet(remote.0 & at.everywhere.0);
            fetch_bytes += at.lacking;
            if !local && !pending && !mesh && remote.is_empty() {
                return found;
            }
        }
        let run = query.chain.len() - query.start;
        self.end_remote(&mut found, query, remote, run, fetch_bytes);
        found
    }

    fn askable(&self) -> RegionSet {
        let mut asked = RegionSet(0);
        // A set names regions by their order of being heard of.
        for (number, (region, _, _)) in self.mesh.regions().enumerate() {
            if self.links.iter().any(|(linked, ..)| linked == region) {
                asked.0 |= 1 << number;
            }
        }
        asked
    }

    /// `local`: this region is known to have all parts.
    fn position(
        &self,
        namespace: NamespaceId,
        query: &Query,
        index: usize,
        (asked, far): (RegionSet, bool),
        local: bool,
    ) -> Position {
        let mut at = Position {
            local: true,
            lacking: 0,
            everywhere: asked,
            somewhere: true,
        };
        let far = far && !asked.is_empty();
        for &part in &query.parts {
            let name = query.chain.name(namespace, index as u32, part);
            let (regions, bytes) = match far {
                true => self.mesh.whereabouts(name.tag()),
                false => (RegionSet(0), 0),
            };
            let regions = self.lacking.less(self.mesh, &name, regions);
            at.everywhere.0 &= regions.0;
            if !local && !self.state.has(&name) {
                at.local = false;
                at.lacking += u64::from(bytes);
                at.somewhere &= regions.0 & asked.0 != 0;
            }
        }
        at
    }

    fn is_under_way(&self, namespace: NamespaceId, query: &Query, index: usize) -> bool {
        query.parts.iter().all(|&part| {
            let name = query.chain.name(namespace, index as u32, part);
            (self.under_way)(&name) || self.state.has(&name)
        })
    }

    fn end_remote(
        &self,
        found: &mut Match,
        query: &Query,
        ended: RegionSet,
        run: usize,
        fetch_bytes: u64,
    ) {
        if ended.is_empty() || run == 0 {
            return;
        }
        // Whatever lies behind the local run has to be computed after it.
        let local = found.local_blocks as usize;
        let lacking = Run {
            behind: (query.start + local) as u64 * u64::from(self.block_tokens),
            blocks: run.saturating_sub(local) as u32,
            block_tokens: self.block_tokens,
            bytes: fetch_bytes,
        };
        let prefill = self.prefill.filter(|_| lacking.blocks > 0);
        // Nearest first, as the links are.
        for (region, link, cost) in self.links {
            if self.mesh.names(ended, region) {
                let weighed = prefill.map(|prefill| weigh(&lacking, cost, &prefill));
                let gpu_second = self.dollars_per_gpu_hour / 3_600.0;
                let recompute = weighed.filter(|_| gpu_second > 0.0);
                found.remote.push(Remote {
                    region: region.clone(),
                    blocks: run as u32,
                    fetch_bytes,
                    fetch: cost.fetch(fetch_bytes as f64),
                    rtt_ms: link.rtt_ms,
                    weighed,
                    fetch_dollars: cost.dollars(fetch_bytes as f64),
                    recompute_dollars: recompute.map(|it| it.recompute * gpu_second),
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "lookup_test.rs"]
mod tests;
