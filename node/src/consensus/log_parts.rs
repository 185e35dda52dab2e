//! How a log entry lies in sled: whole under its index, or in parts.
//!
//! A leaf of sled's tree has at most 17 values before it is split, and what is over an eighth of
//! a mebibyte (a quarter of a segment) goes into a file of its own. So parts are small enough
//! that no leaf gets there. Stored on disk: never change how keys are made.

use std::{io, iter::Peekable};

use bytes::Bytes;

/// Of a part, at most.
const PART_BYTES: usize = 6 << 10;
const LEAF_VALUES_MAX: usize = 17;
/// sled's own limit, with room for keys and heads.
const _: () = assert!(PART_BYTES * LEAF_VALUES_MAX <= (128 << 10) * 9 / 10);

const INDEX_BYTES: usize = 8;

fn damaged() -> io::Error {
    io::Error::other("a key of the log is damaged")
}

/// The index that a key names.
///
/// # Errors
/// When it names none.
pub(super) fn index(key: &[u8]) -> io::Result<u64> {
    let index = key.first_chunk::<INDEX_BYTES>().ok_or_else(damaged)?;
    Ok(u64::from_be_bytes(*index))
}

/// Whether a key is that of an entry or of its first part.
pub(super) fn is_first(key: &[u8]) -> bool {
    key.len() == INDEX_BYTES
}

/// The keys and values of an entry.
///
/// # Errors
/// When it is larger than can be, which is 400 MB.
pub(super) fn parts(index: u64, entry: &[u8]) -> io::Result<Vec<(Vec<u8>, &[u8])>> {
    let (first, rest) = entry.split_at(entry.len().min(PART_BYTES));
    let mut parts = vec![(index.to_be_bytes().to_vec(), first)];
    for (number, part) in (1..).zip(rest.chunks(PART_BYTES)) {
        let number = u16::try_from(number as usize).map_err(io::Error::other)?;
        let mut key = index.to_be_bytes().to_vec();
        key.extend_from_slice(&number.to_be_bytes());
        parts.push((key, part));
    }
    Ok(parts)
}

/// Entries of ascending keys and values.
pub(super) struct Entries<I: Iterator>(Peekable<I>);

impl<K, V, E, I> Entries<I>
where
    I: Iterator<Item = Result<(K, V), E>>,
{
    /// `raw` begins with an entry's first part.
    pub(super) fn new(raw: I) -> Self {
        Self(raw.peekable())
    }
}

impl<K, V, E, I> Iterator for Entries<I>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
    E: Into<io::Error>,
    I: Iterator<Item = Result<(K, V), E>>,
{
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, first) = match self.0.next()? {
            Ok(pair) => pair,
            Err(error) => return Some(Err(error.into())),
        };
        if !is_first(key.as_ref()) {
            return Some(Err(damaged()));
        }
        let mut entry = first.as_ref().to_vec();
        let mut number = 0_u16;
        let is_next = |pair: &Result<(K, V), E>| match pair {
            Ok((key, _)) => !is_first(key.as_ref()),
            Err(_) => true,
        };
        while let Some(part) = self.0.next_if(is_next) {
            let (part_key, part) = match part {
                Ok(pair) => pair,
                Err(error) => return Some(Err(error.into())),
            };
            number = number.wrapping_add(1);
            let wanted = [key.as_ref(), &number.to_be_bytes()].concat();
            if part_key.as_ref() != wanted {
                return Some(Err(damaged()));
            }
            entry.extend_from_slice(part.as_ref());
        }
        Some(Ok(entry.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    struct Never(Infallible);

    impl From<Never> for io::Error {
        fn from(never: Never) -> Self {
            match never.0 {}
        }
    }

    fn entry(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn entries_come_back_from_their_parts_and_keys_are_as_they_are() {
        let sizes = [0, 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES];
        let whole: Vec<Vec<u8>> = sizes.into_iter().map(entry).collect();
        let mut raw = Vec::new();
        for (index, entry) in (7..).zip(&whole) {
            raw.extend(parts(index, entry).unwrap());
        }
        assert!(raw.is_sorted(), "in the order in which a tree has them");
        assert!(raw.iter().all(|(_, part)| part.len() <= PART_BYTES));
        let keys: Vec<_> = raw.iter().map(|(key, _)| key.as_slice()).collect();
        assert_eq!(
            keys[3..5],
            [
                &[0, 0, 0, 0, 0, 0, 0, 10][..],
                &[0, 0, 0, 0, 0, 0, 0, 10, 0, 1],
            ]
        );
        let read = Entries::new(raw.iter().cloned().map(Ok::<_, Never>));
        let read: Vec<Bytes> = read.map(Result::unwrap).collect();
        assert_eq!(read, whole);
        // One part is not there.
        let gone = [raw[..6].to_vec(), raw[7..].to_vec()].concat();
        let read = Entries::new(gone.into_iter().map(Ok::<_, Never>));
        assert!(read.last().unwrap().is_err());
    }
}
