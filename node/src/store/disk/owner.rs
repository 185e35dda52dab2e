//! Whose disk it is. A node never serves from another one's.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use kvmesh_directory::{Checksum, NodeId};

const MAGIC: [u8; 8] = *b"kvmdisk\x01";
const FILE: &str = "owner";

/// Magic and version (8 bytes), node (u64, big endian), store (16 bytes), region's name, and
/// over these an xxh3-128. Stored on disk: never reorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) node: NodeId,
    pub(super) region: String,
    /// Random, made with the store; a secret of the node.
    pub(super) store: [u8; 16],
}

impl Owner {
    fn encode(&self) -> Vec<u8> {
        let mut raw = MAGIC.to_vec();
        raw.extend_from_slice(&self.node.0.to_be_bytes());
        raw.extend_from_slice(&self.store);
        raw.extend_from_slice(self.region.as_bytes());
        let checksum = Checksum::of(&raw);
        raw.extend_from_slice(&checksum.0);
        raw
    }

    fn decode(raw: &[u8]) -> Option<Self> {
        let (covered, checksum) = raw.split_last_chunk::<16>()?;
        if Checksum::of(covered).0 != *checksum {
            return None;
        }
        let (magic, rest) = covered.split_first_chunk::<8>()?;
        let (node, rest) = rest.split_first_chunk()?;
        let (store, region) = rest.split_first_chunk()?;
        (*magic == MAGIC).then_some(Self {
            node: NodeId(u64::from_be_bytes(*node)),
            store: *store,
            region: String::from_utf8(region.to_vec()).ok()?,
        })
    }

    /// The owner of a directory; this one from now on when it has none and is empty.
    pub(super) fn of(dir: &Path, new: Self) -> io::Result<Self> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(raw) => Self::decode(&raw).ok_or_else(|| io::Error::other("its owner is damaged")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let begun = dir.join("owner.new");
                let mut file = File::create(&begun)?;
                file.write_all(&new.encode())?;
                file.sync_all()?;
                fs::rename(&begun, &path)?;
                File::open(dir)?.sync_all()?;
                Ok(new)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_owner_stays_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let owner = |node| Owner {
            node: NodeId(node),
            region: "us-east".to_owned(),
            store: [node as u8; 16],
        };
        assert_eq!(Owner::of(dir.path(), owner(7)).unwrap(), owner(7));
        assert_eq!(Owner::of(dir.path(), owner(8)).unwrap(), owner(7));
        let path = dir.path().join(FILE);
        let mut raw = fs::read(&path).unwrap();
        for at in 0..raw.len() {
            raw[at] ^= 1;
            fs::write(&path, &raw).unwrap();
            assert!(Owner::of(dir.path(), owner(7)).is_err());
            raw[at] ^= 1;
        }
        fs::write(&path, &raw[..10]).unwrap();
        assert!(Owner::of(dir.path(), owner(7)).is_err());
    }
}
