//! What this gateway knows: its own region's directory and the mesh view, as their feeds say.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    Problem,
    follow::{SharedMeshView, SharedRegionView},
};
use kvmesh_directory::{FeedPosition, Namespace, NamespaceId, NodeId, RegionId, Ring};
use kvmesh_process::settings::Live;
use tokio::time::{Instant, timeout_at};

use crate::{asker::Asker, settings::Settings};

/// Both views.
#[derive(Clone)]
pub(crate) struct Views {
    region: RegionId,
    pub(crate) local: SharedRegionView,
    pub(crate) mesh: SharedMeshView,
    settings: Live<Settings>,
}

impl Views {
    pub(crate) fn new(
        region: RegionId,
        local: SharedRegionView,
        mesh: SharedMeshView,
        settings: Live<Settings>,
    ) -> Self {
        Self {
            region,
            local,
            mesh,
            settings,
        }
    }

    /// Refuses while the region view is too old to answer from, or shows no region.
    pub(crate) fn fresh(&self) -> Result<FeedPosition, Problem> {
        let age = self.local.age();
        if age > Duration::from_millis(self.settings.now().view_age_max_ms) {
            let what = format!(
                "the region's feed was not heard for {} s: ask another gateway",
                age.as_secs()
            );
            return Err(Problem::unavailable(what));
        }
        self.local
            .position()
            .ok_or_else(|| match self.local.is_unformed() {
                true => Problem::NotInitialised,
                // Nothing is known of the region, not even whether there is one.
                false => Problem::unavailable("the region's feed was not heard yet: ask again"),
            })
    }

    /// A namespace by id, as `asker` may know of it.
    ///
    /// # Errors
    /// [`Problem::UnknownNamespace`], in the same words where there is none and where there is
    /// one that may not be where the asker is.
    pub(crate) fn namespace(&self, id: NamespaceId, asker: &Asker) -> Result<Namespace, Problem> {
        let known = self.local.with(|state| {
            let mut known = state.namespace(id).cloned()?;
            // Older members would take what was rounded for what was put.
            known.policy.lossy = state.takes_lossy(id);
            Some(known)
        });
        // One that may not be here is none, whatever a log says.
        let known = known.filter(|known| {
            let description = &known.description;
            description.resides_in(&self.region) && asker.may_see(description)
        });
        known.ok_or_else(|| Problem::UnknownNamespace(id.to_string()))
    }

    /// Whether blocks of a namespace may go through a lossy encoding, as its policy is now.
    pub(crate) fn takes_lossy(&self, id: NamespaceId) -> bool {
        self.local.with(|state| state.takes_lossy(id))
    }

    /// Waits until both views show all of `positions`; false: they do not in time.
    pub(crate) async fn at_least(&self, positions: &[FeedPosition], until: Instant) -> bool {
        for position in positions {
            let reached = if position.region == self.region {
                self.local.wait_for(position, until).await
            } else {
                self.mesh.wait_for(position, until).await
            };
            if !reached {
                return false;
            }
        }
        true
    }

    /// The ring of the current epoch.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        self.local.ring()
    }

    /// Waits until the ring's epoch fits; false: it does not in time.
    pub(crate) async fn epoch(&self, fits: impl Fn(u64) -> bool, until: Instant) -> bool {
        let mut changes = self.local.changes();
        let fit = changes.wait_for(|_| fits(self.local.ring().epoch().0));
        matches!(timeout_at(until, fit).await, Ok(Ok(_)))
    }

    /// Where a node of the region serves.
    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        self.local.with(|state| {
            let member = state.topology().member(node)?;
            Some(member.address.clone())
        })
    }

    /// Addresses of all nodes that live, and as many more as `first` names.
    pub(crate) fn node_addresses(&self, first: &[String]) -> Vec<String> {
        let mut addresses = self.local.with(|state| {
            let alive = |node| state.node(node).is_some_and(|record| record.alive);
            let members = state.topology().members.iter();
            let living = members.filter(|member| alive(member.node));
            living
                .map(|member| member.address.clone())
                .collect::<Vec<_>>()
        });
        for address in first {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }
}
