//! Whose Raft store it is. A node never votes from another one's store.

use std::io;

use kvmesh_directory::NodeId;

/// Format of the record; the first byte.
const VERSION: u8 = 1;

/// Version (1 byte), node (u64, big endian), region's name. Stored on disk: never reorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The node.
    pub(super) node: NodeId,
    /// Its region.
    pub(super) region: String,
}

impl Owner {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = vec![VERSION];
        raw.extend_from_slice(&self.node.0.to_be_bytes());
        raw.extend_from_slice(self.region.as_bytes());
        raw
    }

    pub(super) fn decode(raw: &[u8]) -> io::Result<Self> {
        let damaged = || io::Error::other("its owner record is damaged");
        let rest = raw.strip_prefix(&[VERSION]).ok_or_else(damaged)?;
        let (node, region) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let region = std::str::from_utf8(region).map_err(|_| damaged())?;
        Ok(Self {
            node: NodeId(u64::from_be_bytes(*node)),
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
            region: "us-east".to_owned(),
        };
        assert_eq!(Owner::decode(&owner.encode()).unwrap(), owner);
        assert!(Owner::decode(&owner.encode()[..5]).is_err());
        assert!(Owner::decode(b"\x02").is_err());
    }
}
