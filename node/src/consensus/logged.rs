//! A command as the log has it: read, and as the bytes that go to every member and disk.

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::{FromWire, ToWire, WireError};
use kvmesh_directory::Command;
use kvmesh_proto::v1 as wire;
use prost::Message;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    command: Arc<Command>,
    encoded: Bytes,
}

impl Logged {
    /// For a command that is proposed here.
    pub(super) fn new(command: impl Into<Arc<Command>>) -> Self {
        let command = command.into();
        let encoded = command.to_wire().encode_to_vec().into();
        Self { command, encoded }
    }

    /// For one that came; none: of a kind that only a later build knows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn decode(encoded: &[u8]) -> Result<Option<Self>, WireError> {
        // Not a part of what it came in: the log keeps it longer, and counts it alone.
        let encoded = Bytes::copy_from_slice(encoded);
        let wire = wire::Command::decode(encoded.clone());
        let wire = wire.map_err(|why| WireError::field("command", why))?;
        if wire.kind.is_none() {
            return Ok(None);
        }
        let command = match Command::from_wire(wire) {
            Err(WireError::Version { .. }) => return Ok(None),
            command => Arc::new(command?),
        };
        Ok(Some(Self { command, encoded }))
    }

    pub(super) fn command(&self) -> &Command {
        &self.command
    }

    pub(super) fn into_command(self) -> Arc<Command> {
        self.command
    }

    /// The bytes of a [`wire::Command`].
    pub(super) fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }
}
