//! Which region a get comes from, and whether it may see what it asks for.

use kvmesh_client::{Problem, channel::Link, convert};
use kvmesh_directory::{Namespace, RegionId};
use kvmesh_proto::v1 as wire;

use crate::context::Gateway;

/// Who asks.
pub(super) enum Asker {
    /// Somebody of this region.
    Near,
    /// Another region, as its certificate says; without certificates, as it says itself.
    Far(RegionId),
    /// Another region that does not say which.
    Unknown,
}

/// Who asks, by the connection and the request.
///
/// # Errors
/// When a gateway asks in the name of another region than its certificate is of.
pub(super) fn asker(
    gateway: &Gateway,
    link: Option<&Link>,
    request: &wire::GetRequest,
) -> Result<Asker, Problem> {
    let named = match request.from_region.as_str() {
        "" => None,
        name => Some(convert::region("from_region", name)?),
    };
    let proved = link.and_then(|link| link.peer.region());
    if let (Some(named), Some(link)) = (&named, link)
        && proved != Some(named)
    {
        let what = format!("{} may not ask in the name of region {named}", link.peer);
        return Err(Problem::Denied(what));
    }
    Ok(match proved.cloned().or(named) {
        Some(region) if region != gateway.region => Asker::Far(region),
        Some(_) => Asker::Near,
        None if request.hop == 0 => Asker::Near,
        None => Asker::Unknown,
    })
}

/// Refuses a region outside of the namespace's residency, with the words that an unknown
/// namespace is refused with: it does not learn that there is one.
pub(super) fn check(namespace: &Namespace, asker: &Asker) -> Result<(), Problem> {
    let description = &namespace.description;
    let may = match asker {
        Asker::Near => true,
        Asker::Far(region) => description.resides_in(region),
        Asker::Unknown => description.residency.is_empty(),
    };
    match may {
        true => Ok(()),
        false => Err(Problem::UnknownNamespace(namespace.id.to_string())),
    }
}
