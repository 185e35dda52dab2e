//! Who asks a gateway, and so which namespaces there are for it.
//!
//! Invariant: a namespace is found by who asks ([`crate::views::Views::namespace`] takes it), so no
//! call can speak of one to a region outside of its residency. Who asks is known from the connection; what
//! the call says counts only where nobody proved anything.

use kvmesh_client::{Problem, channel::Link};
use kvmesh_directory::{Description, RegionId};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Somebody of this region, or an operator.
    Near,
    /// Another region, as its certificate says; without certificates, as it says itself.
    Far(RegionId),
    /// Another region that does not say which.
    Unknown,
}

impl Asker {
    /// Who is at the other end of a connection to a gateway of `here`. Without certificates
    /// everybody is near.
    pub(crate) fn of(here: &RegionId, link: Option<&Link>) -> Self {
        match link.and_then(|link| link.peer.region()) {
            Some(region) if region != here => Self::Far(region.clone()),
            _ => Self::Near,
        }
    }

    /// As [`Self::of`], of a get that came from a gateway (`relayed`) or names a region.
    ///
    /// # Errors
    /// When it names another region than its certificate is of.
    pub(crate) fn of_get(
        here: &RegionId,
        link: Option<&Link>,
        named: Option<RegionId>,
        relayed: bool,
    ) -> Result<Self, Problem> {
        let proved = link.and_then(|link| link.peer.region());
        if let (Some(named), Some(link)) = (&named, link)
            && proved != Some(named)
        {
            let what = format!("{} may not ask in the name of region {named}", link.peer);
            return Err(Problem::Denied(what));
        }
        Ok(match proved.cloned().or(named) {
            Some(region) if region != *here => Self::Far(region),
            Some(_) => Self::Near,
            None if relayed => Self::Unknown,
            None => Self::Near,
        })
    }

    /// Whether there may be such a namespace for it.
    pub(crate) fn may_see(&self, description: &Description) -> bool {
        match self {
            Self::Near => true,
            Self::Far(region) => description.resides_in(region),
            Self::Unknown => description.residency.is_empty(),
        }
    }

    /// Whether this region's nodes serve it, so that it may know where they are.
    pub(crate) fn is_near(&self) -> bool {
        *self == Self::Near
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn link(peer: &str) -> Link {
        let who = |uri: &str| Arc::new(uri.parse().unwrap());
        Link {
            own: who("spiffe://m/region/e/gateway/g"),
            peer: who(peer),
        }
    }

    #[test]
    fn the_certificate_says_who_asks_and_the_call_only_where_there_is_none() {
        let (here, west): (RegionId, RegionId) = ("e".parse().unwrap(), "w".parse().unwrap());
        let (near, far) = (
            link("spiffe://m/region/e/client/c"),
            link("spiffe://m/region/w/client/c"),
        );
        let operator = link("spiffe://m/operator/alice");
        for (link, asker) in [
            (None, Asker::Near),
            (Some(&near), Asker::Near),
            (Some(&operator), Asker::Near),
            (Some(&far), Asker::Far(west.clone())),
        ] {
            assert_eq!(Asker::of(&here, link), asker);
        }
        let of_get = |link, named: &Option<RegionId>, relayed| {
            Asker::of_get(&here, link, named.clone(), relayed).ok()
        };
        let (said_west, said_here) = (Some(west.clone()), Some(here.clone()));
        let is_far = Some(Asker::Far(west));
        assert_eq!(of_get(None, &None, false), Some(Asker::Near));
        assert_eq!(of_get(None, &None, true), Some(Asker::Unknown));
        assert_eq!(of_get(None, &said_west, true), is_far);
        assert_eq!(of_get(None, &said_west, false), is_far);
        for relayed in [false, true] {
            assert_eq!(of_get(Some(&far), &None, relayed), is_far);
            assert_eq!(of_get(Some(&far), &said_west, relayed), is_far);
            assert_eq!(of_get(Some(&far), &said_here, relayed), None);
        }
        assert_eq!(of_get(Some(&near), &None, false), Some(Asker::Near));
        assert_eq!(of_get(Some(&near), &said_west, false), None);
        assert_eq!(of_get(Some(&operator), &None, false), Some(Asker::Near));
    }
}
