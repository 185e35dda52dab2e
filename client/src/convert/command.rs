//! A region's log. Stored on disk: what was written is read by every later build.

use kvmesh_directory::{
    BlockName, ChangeKind, Checksum, Command, Hlc, Incarnation, LogIncarnation, NamespaceId,
    NodeId, RingEpoch,
    command::{BlockChange, Claim, Deletion},
};
use kvmesh_proto::v1::{self as wire, block_change, command::Kind};

use super::{FORMAT, FromWire, ToWire, WireError, all, check_version, each, region, required};

impl ToWire for Command {
    type Wire = wire::Command;
    fn to_wire(&self) -> wire::Command {
        wire::Command {
            version: FORMAT,
            kind: Some(kind_to_wire(self)),
        }
    }
}

fn kind_to_wire(command: &Command) -> Kind {
    match command {
        Command::InitRegion {
            region,
            log_incarnation,
            members,
            feature_level,
        } => Kind::InitRegion(wire::InitRegion {
            region: region.to_wire(),
            log_incarnation: log_incarnation.0,
            members: each(members),
            feature_level: *feature_level,
        }),
        Command::BeginIncarnation {
            node,
            nonce,
            store,
            level,
        } => Kind::BeginIncarnation(wire::BeginIncarnation {
            node: node.0,
            nonce: *nonce,
            store: *store,
            feature_level: *level,
        }),
        Command::MarkDead { node, incarnation } => {
            let (node, incarnation) = (node.0, incarnation.0);
            Kind::MarkDead(wire::MarkDead { node, incarnation })
        }
        Command::JoinNode { member } => Kind::JoinNode(wire::JoinNode {
            member: Some(member.to_wire()),
        }),
        Command::LeaveNode { node, forget } => {
            let (node, forget) = (node.0, *forget);
            Kind::LeaveNode(wire::LeaveNode { node, forget })
        }
        Command::FinishMove { epoch } => Kind::FinishMove(wire::FinishMove {
            ring_epoch: epoch.0,
        }),
        Command::Blocks(changes) => Kind::Blocks(wire::BlockChanges {
            changes: each(changes),
        }),
        Command::OpenNamespace(namespace) => Kind::OpenNamespace(wire::OpenNamespace {
            namespace: Some(namespace.to_wire()),
        }),
        Command::Delete(deletion) => Kind::DeleteBlocks(deletion.to_wire()),
        Command::RaiseGeneration { namespace, hlc } => {
            Kind::RaiseGeneration((*namespace, *hlc).to_wire())
        }
        Command::RaiseFeatureLevel { level } => {
            let feature_level = *level;
            Kind::RaiseFeatureLevel(wire::RaiseFeatureLevel { feature_level })
        }
        Command::DropTombstones { up_to } => {
            Kind::DropTombstones(wire::DropTombstones { up_to_hlc: up_to.0 })
        }
        Command::RemoteEffects {
            position,
            namespaces,
            deletes,
            raises,
        } => Kind::RemoteEffects(wire::RemoteEffects {
            position: Some(position.to_wire()),
            namespaces: each(namespaces),
            deletes: each(deletes),
            raises: each(raises),
        }),
    }
}

impl FromWire for Command {
    type Wire = wire::Command;
    fn from_wire(wire: wire::Command) -> Result<Self, WireError> {
        check_version("a command", wire.version)?;
        match wire.kind.ok_or(WireError::Missing("kind"))? {
            Kind::InitRegion(raw) => Ok(Self::InitRegion {
                region: region("region", &raw.region)?,
                log_incarnation: LogIncarnation(raw.log_incarnation),
                members: all(raw.members)?,
                feature_level: raw.feature_level,
            }),
            Kind::BeginIncarnation(raw) => Ok(Self::BeginIncarnation {
                node: NodeId(raw.node),
                nonce: raw.nonce,
                store: raw.store,
                level: raw.feature_level,
            }),
            Kind::MarkDead(raw) => Ok(Self::MarkDead {
                node: NodeId(raw.node),
                incarnation: Incarnation(raw.incarnation),
            }),
            Kind::JoinNode(raw) => Ok(Self::JoinNode {
                member: required("member", raw.member)?,
            }),
            Kind::LeaveNode(raw) => Ok(Self::LeaveNode {
                node: NodeId(raw.node),
                forget: raw.forget,
            }),
            Kind::FinishMove(raw) => Ok(Self::FinishMove {
                epoch: RingEpoch(raw.ring_epoch),
            }),
            Kind::Blocks(raw) => Ok(Self::Blocks(all(raw.changes)?)),
            Kind::OpenNamespace(raw) => {
                Ok(Self::OpenNamespace(required("namespace", raw.namespace)?))
            }
            Kind::DeleteBlocks(raw) => Ok(Self::Delete(Deletion::from_wire(raw)?)),
            Kind::RaiseGeneration(raw) => {
                let (namespace, hlc) = FromWire::from_wire(raw)?;
                Ok(Self::RaiseGeneration { namespace, hlc })
            }
            Kind::RaiseFeatureLevel(raw) => Ok(Self::RaiseFeatureLevel {
                level: raw.feature_level,
            }),
            Kind::DropTombstones(raw) => Ok(Self::DropTombstones {
                up_to: Hlc(raw.up_to_hlc),
            }),
            Kind::RemoteEffects(raw) => remote_effects(raw),
        }
    }
}

/// Reads what another region did, as region-sync hands it over.
///
/// # Errors
/// When a field is missing or cannot be.
pub fn remote_effects(wire: wire::RemoteEffects) -> Result<Command, WireError> {
    Ok(Command::RemoteEffects {
        position: required("position", wire.position)?,
        namespaces: all(wire.namespaces)?,
        deletes: all(wire.deletes)?,
        raises: all(wire.raises)?,
    })
}

impl ToWire for Deletion {
    type Wire = wire::DeleteBlocks;
    fn to_wire(&self) -> wire::DeleteBlocks {
        wire::DeleteBlocks {
            namespace_id: self.namespace.to_wire(),
            keys: each(&self.keys),
            hlc: self.hlc.0,
        }
    }
}

impl FromWire for Deletion {
    type Wire = wire::DeleteBlocks;
    fn from_wire(wire: wire::DeleteBlocks) -> Result<Self, WireError> {
        Ok(Self {
            namespace: NamespaceId::from_wire(wire.namespace_id)?,
            keys: all(wire.keys)?,
            hlc: Hlc(wire.hlc),
        })
    }
}

impl ToWire for (NamespaceId, Hlc) {
    type Wire = wire::RaiseGeneration;
    fn to_wire(&self) -> wire::RaiseGeneration {
        wire::RaiseGeneration {
            namespace_id: self.0.to_wire(),
            hlc: self.1.0,
        }
    }
}

impl FromWire for (NamespaceId, Hlc) {
    type Wire = wire::RaiseGeneration;
    fn from_wire(wire: wire::RaiseGeneration) -> Result<Self, WireError> {
        Ok((NamespaceId::from_wire(wire.namespace_id)?, Hlc(wire.hlc)))
    }
}

impl ToWire for BlockChange {
    type Wire = wire::BlockChange;
    fn to_wire(&self) -> wire::BlockChange {
        let kind = match &self.kind {
            ChangeKind::Claim(claim) => block_change::Kind::Claim(claim.to_wire()),
            ChangeKind::Evict(copy) => block_change::Kind::Evict(copy.to_wire()),
            ChangeKind::Retract(copy) => block_change::Kind::Retract(copy.to_wire()),
            ChangeKind::Release(copy) => block_change::Kind::Release(copy.to_wire()),
        };
        wire::BlockChange {
            name: Some(self.name.to_wire()),
            kind: Some(kind),
        }
    }
}

impl FromWire for BlockChange {
    type Wire = wire::BlockChange;
    fn from_wire(wire: wire::BlockChange) -> Result<Self, WireError> {
        let name: BlockName = required("name", wire.name)?;
        let kind = match wire.kind.ok_or(WireError::Missing("kind"))? {
            block_change::Kind::Claim(raw) => ChangeKind::Claim(Claim::from_wire(raw)?),
            block_change::Kind::Evict(raw) => ChangeKind::Evict(FromWire::from_wire(raw)?),
            block_change::Kind::Retract(raw) => ChangeKind::Retract(FromWire::from_wire(raw)?),
            block_change::Kind::Release(raw) => ChangeKind::Release(FromWire::from_wire(raw)?),
        };
        Ok(Self { name, kind })
    }
}

impl ToWire for Claim {
    type Wire = wire::Claim;
    fn to_wire(&self) -> wire::Claim {
        wire::Claim {
            put_hlc: self.put_hlc.0,
            checksum: self.checksum.to_wire(),
            bytes: self.bytes,
            depth: self.depth,
            replicas: self.replicas,
            copies: each(&self.copies),
        }
    }
}

impl FromWire for Claim {
    type Wire = wire::Claim;
    fn from_wire(wire: wire::Claim) -> Result<Self, WireError> {
        Ok(Self {
            put_hlc: Hlc(wire.put_hlc),
            checksum: Checksum::from_wire(wire.checksum)?,
            bytes: wire.bytes,
            depth: wire.depth,
            replicas: wire.replicas,
            copies: all(wire.copies)?,
        })
    }
}
