//! What is put before anything happens, and who works on it.

use std::sync::{Arc, Mutex};

use anyhow::Context;
use kvmesh_client::client::Chain;
use kvmesh_directory::{FeedPosition, Namespace};

use super::{Place, Plan};
use crate::{
    drill::{
        load::{Acked, DEADLINE, Ledger, Load},
        verify,
    },
    exit,
    replay::settle,
    rpc::Peer,
};

/// Chains that are deleted while the region is cut off: one that others have, and one that only
/// the region has.
const DELETED: [u64; 2] = [1_000_000_000, 1_000_000_001];
/// Chains of the namespace that is raised: one that others have, and one that only the region has.
const RAISED: [u64; 2] = [2_000_000_000, 2_000_000_001];

/// See the module.
pub(super) struct Stage {
    pub(super) load: Load,
    pub(super) namespace: Namespace,
    /// Raised while the region is cut off.
    pub(super) doomed: Namespace,
    /// Chains that every region has.
    pub(super) shared: Vec<u64>,
    /// Chains that only the region has.
    pub(super) alone: Vec<u64>,
    pub(super) deleted: [u64; 2],
    pub(super) raised: [u64; 2],
}

impl Stage {
    /// Opens the namespaces everywhere, puts chains in the region, has the others read the first
    /// half of them, and starts the clients.
    pub(super) async fn set(place: &Place, plan: &Plan) -> anyhow::Result<Self> {
        let site = &place.sites[plan.lost];
        let namespace = open(place, plan, "load").await?;
        let doomed = open(place, plan, "raised").await?;
        let (shared, alone) = (0..plan.chains / 2, plan.chains / 2..plan.chains);
        let (shared, alone): (Vec<u64>, Vec<u64>) = (shared.collect(), alone.collect());
        let mine = shared.iter().chain(&alone).chain(&DELETED);
        let mut after = put(plan, &site.gateway, &namespace, mine).await?;
        after.extend(put(plan, &site.gateway, &doomed, &RAISED).await?);
        let gateways: Vec<Peer> = place.sites.iter().map(|it| it.gateway.clone()).collect();
        // What every view shows is found by every gateway.
        let probe = plan.material.chain(0)?;
        settle::settle(&gateways, &namespace, &probe, &after).await?;
        for chain in shared.iter().chain(&DELETED[..1]) {
            copy(place, plan, &namespace, *chain).await?;
        }
        copy(place, plan, &doomed, RAISED[0]).await?;
        let ledger = Arc::new(Ledger {
            material: plan.material,
            shared: shared.clone(),
            acked: Mutex::default(),
            next: plan.chains.into(),
        });
        for chain in shared.iter().chain(&alone) {
            ledger.acked().push(Acked {
                chain: *chain,
                regions: [site.region.clone()].into(),
            });
        }
        let mut engines = Vec::new();
        for region in 0..place.sites.len() {
            for _ in 0..plan.clients {
                let client = place.client(region)?;
                let alias = plan.material.alias("load");
                let description = plan.material.description("load");
                let opened = client.open(&description, &alias, &plan.template, DEADLINE);
                engines.push((region, opened.await.context("a client cannot begin")?));
            }
        }
        Ok(Self {
            load: Load::start(engines, ledger),
            namespace,
            doomed,
            shared,
            alone,
            deleted: DELETED,
            raised: RAISED,
        })
    }

    /// Takes away what the drill has put, as far as that can be.
    pub(super) async fn clear(&self, place: &Place) {
        let gateway = &place.sites[0].gateway;
        for namespace in [&self.namespace, &self.doomed] {
            if let Err(error) = gateway.raise(namespace.id).await {
                let name = &namespace.name;
                super::say(&format!(
                    "what was put stays: `meshctl namespace raise {name}` ({error})"
                ));
            }
        }
    }
}

/// Makes a namespace of this drill alone known everywhere.
async fn open(place: &Place, plan: &Plan, what: &str) -> anyhow::Result<Namespace> {
    let (description, alias) = (plan.material.description(what), plan.material.alias(what));
    let (mut positions, mut namespace) = (Vec::new(), None);
    for site in &place.sites {
        let opened = site.gateway.open(&description, &alias, &plan.template);
        let opened = opened.await.map_err(|error| {
            exit::set_up(format!(
                "no namespace can be opened in {}: {error}; --template names the policies",
                site.region
            ))
        })?;
        positions.extend(opened.positions());
        namespace = Some(opened.namespace().clone());
    }
    let namespace = namespace.context("there is no gateway: name one per region")?;
    let gateways: Vec<Peer> = place.sites.iter().map(|it| it.gateway.clone()).collect();
    let probe = Chain::new([[0; 32]])?;
    settle::settle(&gateways, &namespace, &probe, &positions).await?;
    Ok(namespace)
}

/// Puts chains by one gateway; gives the positions of views that show them.
async fn put(
    plan: &Plan,
    gateway: &Peer,
    namespace: &Namespace,
    chains: impl IntoIterator<Item = &u64>,
) -> anyhow::Result<Vec<FeedPosition>> {
    let cache = gateway.cache(namespace, &[])?;
    for chain in chains {
        let put = cache.put(&plan.material.blocks(*chain)).await;
        put.with_context(|| format!("no load is possible: {} takes no blocks", gateway.address()))?;
    }
    Ok(cache.positions())
}

/// Has every other region read a chain and keep it.
async fn copy(place: &Place, plan: &Plan, namespace: &Namespace, chain: u64) -> anyhow::Result<()> {
    for site in place.others(plan.lost) {
        let read = verify::read(&site.gateway, namespace, plan.material, chain, true).await?;
        anyhow::ensure!(
            read.whole && read.exact && read.fill_failures == 0,
            "no load is possible: {} got {} blocks of a chain from {}, kept all but {}, and they \
             are {}; does the template's fallback fetch?",
            site.region,
            read.blocks,
            place.sites[plan.lost].region,
            read.fill_failures,
            if read.exact { "right" } else { "wrong" },
        );
    }
    Ok(())
}
