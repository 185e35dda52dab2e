//! What became of a command.

use kvmesh_directory::{Incarnation, NamespaceId, NodeId, Outcome, RingEpoch, command::Refusal};
use kvmesh_proto::v1::{self as wire, refusal::Kind};

use super::{FromWire, ToWire, WireError, all, each, optional, region};

impl ToWire for Outcome {
    type Wire = wire::Outcome;
    fn to_wire(&self) -> wire::Outcome {
        wire::Outcome {
            changes: each(&self.changes),
            incarnation: self.incarnation.map_or(0, |it| it.0),
            namespace: self.namespace.as_ref().map(ToWire::to_wire),
            deleted: self.deleted,
            refused: self.refused.as_ref().map(ToWire::to_wire),
        }
    }
}

impl FromWire for Outcome {
    type Wire = wire::Outcome;
    fn from_wire(wire: wire::Outcome) -> Result<Self, WireError> {
        Ok(Self {
            changes: all(wire.changes)?,
            // Incarnations count from 1.
            incarnation: Some(Incarnation(wire.incarnation)).filter(|it| it.0 > 0),
            namespace: optional(wire.namespace)?,
            deleted: wire.deleted,
            refused: optional(wire.refused)?,
        })
    }
}

impl ToWire for Refusal {
    type Wire = wire::Refusal;
    fn to_wire(&self) -> wire::Refusal {
        let mut wire = wire::Refusal::default();
        match self {
            Self::Initialised(region) => {
                wire.set_kind(Kind::Initialised);
                wire.text = region.to_wire();
            }
            Self::NotInitialised => wire.set_kind(Kind::NotInitialised),
            Self::NotMember(node) => {
                wire.set_kind(Kind::NotMember);
                wire.number = node.0;
            }
            Self::NameTaken { name, fields } => {
                wire.set_kind(Kind::NameTaken);
                wire.text.clone_from(name);
                wire.fields.clone_from(fields);
            }
            Self::Full { what, limit } => {
                wire.set_kind(Kind::Full);
                wire.text.clone_from(what);
                wire.number = *limit as u64;
            }
            Self::UnknownNamespace(id) => {
                wire.set_kind(Kind::UnknownNamespace);
                wire.namespace_id = id.to_wire();
            }
            Self::Covered => wire.set_kind(Kind::Covered),
            Self::Namespace(why) => {
                wire.set_kind(Kind::Namespace);
                wire.text.clone_from(why);
            }
            Self::Members(why) => {
                wire.set_kind(Kind::Members);
                wire.text.clone_from(why);
            }
            Self::Join(why) => {
                wire.set_kind(Kind::Join);
                wire.text.clone_from(why);
            }
            Self::Moving(epoch) => {
                wire.set_kind(Kind::Moving);
                wire.number = epoch.0;
            }
            Self::Gone(node) => {
                wire.set_kind(Kind::Gone);
                wire.number = node.0;
            }
            Self::LastMember(node) => {
                wire.set_kind(Kind::LastMember);
                wire.number = node.0;
            }
            Self::StoreLost { node } => {
                wire.set_kind(Kind::StoreLost);
                wire.number = node.0;
            }
            Self::LevelUnknown { node, knows, level } => {
                wire.set_kind(Kind::LevelUnknown);
                wire.number = node.0;
                (wire.knows, wire.level) = (*knows, *level);
            }
        }
        wire
    }
}

impl FromWire for Refusal {
    type Wire = wire::Refusal;
    fn from_wire(wire: wire::Refusal) -> Result<Self, WireError> {
        let unknown = |_| WireError::field("refused.kind", format!("{} is not known", wire.kind));
        Ok(match Kind::try_from(wire.kind).map_err(unknown)? {
            Kind::Unspecified => return Err(WireError::Missing("refused.kind")),
            Kind::Initialised => Self::Initialised(region("refused.text", &wire.text)?),
            Kind::NotInitialised => Self::NotInitialised,
            Kind::NotMember => Self::NotMember(NodeId(wire.number)),
            Kind::NameTaken => Self::NameTaken {
                name: wire.text,
                fields: wire.fields,
            },
            Kind::Full => Self::Full {
                what: wire.text,
                limit: usize::try_from(wire.number)
                    .map_err(|why| WireError::field("refused.number", why))?,
            },
            Kind::UnknownNamespace => {
                Self::UnknownNamespace(NamespaceId::from_wire(wire.namespace_id)?)
            }
            Kind::Covered => Self::Covered,
            Kind::Namespace => Self::Namespace(wire.text),
            Kind::Members => Self::Members(wire.text),
            Kind::Join => Self::Join(wire.text),
            Kind::Moving => Self::Moving(RingEpoch(wire.number)),
            Kind::Gone => Self::Gone(NodeId(wire.number)),
            Kind::LastMember => Self::LastMember(NodeId(wire.number)),
            Kind::StoreLost => Self::StoreLost {
                node: NodeId(wire.number),
            },
            Kind::LevelUnknown => Self::LevelUnknown {
                node: NodeId(wire.number),
                knows: wire.knows,
                level: wire.level,
            },
        })
    }
}
