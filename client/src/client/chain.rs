//! The block hashes of one sequence, as the engine makes them.

use bytes::{Bytes, BytesMut};
use kvmesh_directory::limits::{CHAIN_BLOCKS_MAX, HASH_WIDTH_MAX, HASH_WIDTH_MIN};

use crate::convert::WireError;

/// The hashes of one sequence, in order, packed. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    hashes: Bytes,
    width: usize,
}

impl Chain {
    /// Of hashes that are all as wide as the first.
    ///
    /// # Errors
    /// When there is none, there are too many, or one has another or an impossible width.
    pub fn new<H: AsRef<[u8]>>(hashes: impl IntoIterator<Item = H>) -> Result<Self, WireError> {
        let mut packed = BytesMut::new();
        let mut width = 0;
        for hash in hashes {
            let hash = hash.as_ref();
            if width == 0 {
                width = hash.len();
            }
            if hash.len() != width || hash.is_empty() {
                let why = format!("a hash has {} bytes, the first has {width}", hash.len());
                return Err(WireError::field("chain.hashes", why));
            }
            packed.extend_from_slice(hash);
        }
        Self::packed(packed.freeze(), width)
    }

    /// Of hashes that are packed already, `width` bytes each.
    ///
    /// # Errors
    /// When there is none, there are too many, or the width is impossible.
    pub fn packed(hashes: Bytes, width: usize) -> Result<Self, WireError> {
        if hashes.is_empty() {
            return Err(WireError::field("chain.hashes", "name at least one block"));
        }
        if !(HASH_WIDTH_MIN..=HASH_WIDTH_MAX).contains(&width) {
            let why = format!("it is {width}: {HASH_WIDTH_MIN} to {HASH_WIDTH_MAX} bytes");
            return Err(WireError::field("chain.width", why));
        }
        let blocks = hashes.len() / width;
        if blocks * width != hashes.len() || blocks > CHAIN_BLOCKS_MAX {
            let why = format!(
                "{} bytes are not 1 to {CHAIN_BLOCKS_MAX} hashes of {width} bytes",
                hashes.len()
            );
            return Err(WireError::field("chain.hashes", why));
        }
        Ok(Self { hashes, width })
    }

    /// Blocks of the chain.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no chain is empty")]
    pub fn len(&self) -> u32 {
        // At most `CHAIN_BLOCKS_MAX`.
        (self.hashes.len() / self.width) as u32
    }

    /// Bytes of one hash.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width as u32
    }

    /// The hash at an index.
    ///
    /// # Panics
    /// When the chain is not so long.
    #[must_use]
    pub fn hash(&self, index: u32) -> Bytes {
        let start = index as usize * self.width;
        self.hashes.slice(start..start + self.width)
    }

    /// The blocks before an index; all of them, when the chain is not so long.
    ///
    /// # Panics
    /// When `index` is 0: no chain is empty.
    #[must_use]
    pub fn first(&self, index: u32) -> Self {
        assert!(index > 0, "no chain is empty");
        let bytes = (index as usize * self.width).min(self.hashes.len());
        Self {
            hashes: self.hashes.slice(..bytes),
            width: self.width,
        }
    }

    /// All hashes, packed.
    #[must_use]
    pub fn hashes(&self) -> &Bytes {
        &self.hashes
    }
}
