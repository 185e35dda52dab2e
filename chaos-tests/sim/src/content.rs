//! Blocks whose bytes say what they are: every content of a run is put under one name, and
//! recognised when it comes back.

use bytes::Bytes;
use kvmesh_client::Block;
use kvmesh_directory::Description;
use rand::{RngCore, SeedableRng, rngs::SmallRng};

/// Bytes of an engine's hash.
const HASH_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"kvmesh\xff\x01";
/// Magic, name, content and size.
const HEADER_BYTES: usize = 24;

/// A block's name: position in a chain of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace, by its number in the run.
    pub namespace: u8,
    /// Chain of the namespace.
    pub chain: u8,
    /// Position in the chain.
    pub index: u8,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}.{}", self.namespace, self.chain, self.index)
    }
}

impl Name {
    /// The engine's hash.
    #[must_use]
    pub fn hash(self) -> [u8; HASH_BYTES] {
        let mut hash = [0; HASH_BYTES];
        let word = u64::from_le_bytes([self.namespace, self.chain, self.index, 1, 0, 0, 0, 0]);
        SmallRng::seed_from_u64(word).fill_bytes(&mut hash);
        hash
    }
}

/// What was put: a number that is given to one content only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content(pub u32);

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The description of a namespace by its number.
#[must_use]
pub(crate) fn description(namespace: u8) -> Description {
    Description {
        model: format!("model-{namespace}"),
        dtype: "bf16".to_owned(),
        layout: "nhd".to_owned(),
        block_tokens: 16,
        hash_width: HASH_BYTES as u32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: "sim".to_owned(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}

/// The bytes of a content: a header that says what it is, and noise that follows from it.
#[must_use]
pub(crate) fn bytes(name: Name, content: Content, len: usize) -> Bytes {
    let len = len.max(HEADER_BYTES);
    let mut bytes = vec![0; len];
    let seed = u64::from(content.0) << 32 | len as u64;
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&[name.namespace, name.chain, name.index, 0]);
    bytes[12..16].copy_from_slice(&content.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    bytes.into()
}

/// The content that a block is, if it is one of this name, whole.
///
/// # Errors
/// Why it is none.
pub(crate) fn recognise(name: Name, block: &Block) -> Result<Content, String> {
    let got = block.pieces.concat();
    if got.len() < HEADER_BYTES || got[..8] != *MAGIC {
        return Err(format!("{} bytes that nobody put", got.len()));
    }
    let content = Content(u32::from_le_bytes([got[12], got[13], got[14], got[15]]));
    let of = Name {
        namespace: got[8],
        chain: got[9],
        index: got[10],
    };
    if of != name {
        return Err(format!("content {content} of {of}"));
    }
    match bytes(name, content, got.len()) == got {
        true => Ok(content),
        false => Err(format!("content {content}, but with other bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Name = Name {
        namespace: 0,
        chain: 1,
        index: 2,
    };

    #[test]
    fn a_content_is_recognised_whole_and_under_its_name_only() {
        let whole = bytes(NAME, Content(7), 5_000);
        let block = |bytes: &[u8]| Block::of(&Bytes::copy_from_slice(bytes), 0);
        assert_eq!(recognise(NAME, &block(&whole)), Ok(Content(7)));
        let other = Name { index: 3, ..NAME };
        assert!(recognise(other, &block(&whole)).is_err());
        assert!(recognise(NAME, &block(&whole[..4_999])).is_err());
        let mut spoilt = whole.to_vec();
        spoilt[4_000] ^= 1;
        assert!(recognise(NAME, &block(&spoilt)).is_err());
        assert!(recognise(NAME, &block(&[0; 10])).is_err());
    }
}
