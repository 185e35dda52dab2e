//! Hashes and bytes of replayed blocks, both made from the trace's ids, so that every byte
//! that comes back can be verified.

use bytes::Bytes;

const HASH_CONTEXT: &str = "kvmesh 2026-11 replay block hash v1";
const BYTES_CONTEXT: &str = "kvmesh 2026-11 replay block bytes v1";

/// The hash that stands for an id: BLAKE3 over the id's text. The ids of a trace name
/// prefixes already, so hashes of them do.
#[must_use]
pub fn hash(id: &str) -> [u8; 32] {
    blake3::derive_key(HASH_CONTEXT, id.as_bytes())
}

/// The bytes of the block with a hash: BLAKE3's output stream over the hash.
#[must_use]
pub fn bytes(hash: &[u8], len: usize) -> Bytes {
    let mut raw = vec![0; len];
    let mut hasher = blake3::Hasher::new_derive_key(BYTES_CONTEXT);
    hasher.update(hash).finalize_xof().fill(&mut raw);
    raw.into()
}

/// Whether pieces are exactly the bytes of the block with a hash.
#[must_use]
pub fn is_exact(hash: &[u8], len: usize, pieces: &[Bytes]) -> bool {
    let want = bytes(hash, len);
    let mut rest = &want[..];
    for piece in pieces {
        match rest.split_at_checked(piece.len()) {
            Some((head, tail)) if head == piece => rest = tail,
            _ => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn every_byte_counts() {
        let block = bytes(&hash("7"), 100);
        assert!(is_exact(
            &hash("7"),
            100,
            &[block.slice(..60), block.slice(60..)]
        ));
        assert!(
            !is_exact(&hash("8"), 100, from_ref(&block)),
            "another block"
        );
        assert!(
            !is_exact(&hash("7"), 100, &[block.slice(..99)]),
            "too short"
        );
        assert!(!is_exact(&hash("7"), 99, from_ref(&block)), "too long");
        let mut bent = block.to_vec();
        bent[99] ^= 1;
        assert!(!is_exact(&hash("7"), 100, &[bent.into()]));
    }
}
