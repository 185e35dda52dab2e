//! How gateways and nodes name leases.

use bytes::Bytes;

use crate::convert::{FromWire, ToWire, WireError};

/// Names a lease on its nodes. The gateway that takes it draws it at random: whoever does
/// not know it cannot renew or release the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub [u8; 16]);

impl FromWire for LeaseId {
    type Wire = Bytes;
    fn from_wire(wire: Bytes) -> Result<Self, WireError> {
        let raw: Result<[u8; 16], _> = wire[..].try_into();
        raw.map(Self).map_err(|_| {
            let why = format!("it has {} bytes, at a node it has 16", wire.len());
            WireError::field("id", why)
        })
    }
}

impl ToWire for LeaseId {
    type Wire = Bytes;
    fn to_wire(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}
