//! Which regions may ever hold a namespace's bytes or see its hashes: what a region takes in.
//!
//! What it tells others is in `view::projection`. Both ask [`Description::resides_in`]; what is
//! not known is denied on both sides, so a region outside of a residency has nothing of the
//! namespace that it could tell.
//!
//! [`Description::resides_in`]: crate::Description::resides_in

use crate::{
    command::Command,
    namespace::Namespace,
    state::DirectoryState,
    words::{NamespaceId, RegionId},
};

/// A namespace that may not be in this region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the residency of namespace {namespace} does not name region {region}")]
pub struct NotResident {
    /// Which one.
    pub namespace: NamespaceId,
    /// The region that was to take it.
    pub region: RegionId,
}

/// Whether a region may have a namespace, which is what its description says it is.
///
/// # Errors
/// When it may not.
pub fn check(namespace: &Namespace, region: &RegionId) -> Result<(), NotResident> {
    match namespace.description.resides_in(region) {
        true => Ok(()),
        false => Err(NotResident {
            namespace: namespace.id,
            region: region.clone(),
        }),
    }
}

/// What a region may take of a command that another process proposes. Of another region's
/// effects, those about namespaces that both may know: no region outside of a residency changes,
/// deletes or raises anything of it, and what is about an unknown namespace is left out.
///
/// # Errors
/// When the command opens a namespace that may not be here.
pub fn admitted(command: Command, state: &DirectoryState) -> Result<Command, NotResident> {
    let Some(own) = state.region() else {
        return Ok(command);
    };
    match command {
        Command::OpenNamespace(namespace) => {
            check(&namespace, own)?;
            Ok(Command::OpenNamespace(namespace))
        }
        Command::RemoteEffects {
            position,
            mut namespaces,
            mut deletes,
            mut raises,
        } => {
            let from = &position.region;
            namespaces.retain(|theirs| shared(theirs, own, from));
            let known = |id: NamespaceId| {
                let opened = namespaces.iter().find(|opened| opened.id == id);
                let namespace = opened.or_else(|| state.namespace(id));
                namespace.is_some_and(|namespace| shared(namespace, own, from))
            };
            deletes.retain(|deletion| known(deletion.namespace));
            raises.retain(|(id, _)| known(*id));
            Ok(Command::RemoteEffects {
                position,
                namespaces,
                deletes,
                raises,
            })
        }
        other => Ok(other),
    }
}

/// Whether both regions may know of a namespace, and it is what its id says.
fn shared(namespace: &Namespace, own: &RegionId, from: &RegionId) -> bool {
    let description = &namespace.description;
    description.id() == namespace.id && description.resides_in(own) && description.resides_in(from)
}
