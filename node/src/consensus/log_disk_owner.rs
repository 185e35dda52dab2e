//! Whose Raft store it is. A node never votes from another one's store.

use std::io;

use kvmesh_directory::NodeId;

/// Format of the record that is written; the first byte. Format 1 had no store.
const VERSION: u8 = 2;

/// Version (1 byte), node and store (u64, big endian), region's name. Stored on disk: never
/// reorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The node.
    pub(super) node: NodeId,
    /// Random, made with the store; 0: made before stores had numbers.
    pub(super) store: u64,
    /// Its region.
    pub(super) region: String,
}

fn number(raw: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = raw.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

impl Owner {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = vec![VERSION];
        raw.extend_from_slice(&self.node.0.to_be_bytes());
        raw.extend_from_slice(&self.store.to_be_bytes());
        raw.extend_from_slice(self.region.as_bytes());
        raw
    }

    pub(super) fn decode(raw: &[u8]) -> io::Result<Self> {
        let damaged = || io::Error::other("its owner record is damaged");
        let (version, rest) = raw.split_first().ok_or_else(damaged)?;
        let (node, rest) = number(rest).ok_or_else(damaged)?;
        let (store, region) = match *version {
            1 => (0, rest),
            VERSION => number(rest).ok_or_else(damaged)?,
            _ => return Err(damaged()),
        };
        let region = std::str::from_utf8(region).map_err(|_| damaged())?;
        Ok(Self {
            node: NodeId(node),
            store,
            region: region.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_record_round_trips_and_a_damaged_one_is_refused() {
        let owner = Owner {
            node: NodeId(7),
            store: 0x0102_0304_0506_0708,
            region: "us-east".to_owned(),
        };
        assert_eq!(Owner::decode(&owner.encode()).unwrap(), owner);
        for damaged in [&owner.encode()[..5], &owner.encode()[..12], b"\x03", b""] {
            assert!(Owner::decode(damaged).is_err());
        }
    }

    #[test]
    fn a_record_of_before_stores_had_numbers_is_read() {
        let old = b"\x01\0\0\0\0\0\0\0\x07us-east";
        let owner = Owner {
            node: NodeId(7),
            store: 0,
            region: "us-east".to_owned(),
        };
        assert_eq!(Owner::decode(old).unwrap(), owner);
    }
}
