//! Chains of block hashes: made from a file's bytes, and kept in files, one hash a line.
//!
//! A block's hash is BLAKE3 over (previous hash ‖ block bytes), cut to the namespace's
//! width; the first block has no previous hash.
//!
//! A chain file also says from which feed position on its blocks can be seen, so that who
//! reads them in another region waits for them instead of missing them.

use std::{fmt::Write, fs, path::Path};

use bytes::Bytes;
use kvmesh_client::client::Chain;
use kvmesh_directory::{
    FeedPosition, LogIncarnation,
    limits::{CHAIN_BLOCKS_MAX, HASH_WIDTH_MAX, HASH_WIDTH_MIN},
};

use crate::exit;

/// Begins the line of a chain file that names a position: region, log incarnation, index.
const AFTER: &str = "# after ";

/// What a chain file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFile {
    /// The hashes.
    pub chain: Chain,
    /// Positions from which on the blocks can be seen.
    pub after: Vec<FeedPosition>,
}

/// A text that is not a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A line is not hexadecimal.
    #[error("line {line} is not a hash: write 16 to 128 hexadecimal digits, one hash a line")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A line names a position that is none.
    #[error("line {line} is no position: write `# after REGION LOG-INCARNATION INDEX`, or drop it")]
    Position {
        /// Counted from 1.
        line: usize,
    },
    /// Hashes of one chain have one width.
    #[error("line {line} has a hash of {got} bytes, the lines before have {want}")]
    Width {
        /// Counted from 1.
        line: usize,
        /// Its bytes.
        got: usize,
        /// Bytes of the others.
        want: usize,
    },
    /// No hash at all.
    #[error("there is no hash in it: write one hash a line")]
    Empty,
    /// More than a chain may have.
    #[error("it has more than {CHAIN_BLOCKS_MAX} hashes: cut the sequence into larger blocks")]
    Long,
}

impl ChainFile {
    /// From text: one hexadecimal hash a line; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The first line that is not as it must be.
    pub fn parse(text: &str) -> Result<Self, ChainError> {
        let mut hashes: Vec<Vec<u8>> = Vec::new();
        let mut after = Vec::new();
        for (at, raw) in text.lines().enumerate() {
            let (line, raw) = (at + 1, raw.trim());
            if let Some(position) = raw.strip_prefix(AFTER) {
                after.push(position_of(position).ok_or(ChainError::Position { line })?);
            }
            if raw.is_empty() || raw.starts_with('#') {
                continue;
            }
            let hash = from_hex(raw).ok_or(ChainError::Line { line })?;
            if let Some(first) = hashes.first()
                && first.len() != hash.len()
            {
                let (got, want) = (hash.len(), first.len());
                return Err(ChainError::Width { line, got, want });
            }
            hashes.push(hash);
        }
        if hashes.is_empty() {
            return Err(ChainError::Empty);
        }
        // Widths were checked, so that only the length is left.
        let chain = Chain::new(hashes).map_err(|_| ChainError::Long)?;
        Ok(Self { chain, after })
    }

    /// From a chain file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a chain.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            exit::set_up(format!(
                "chain file {} cannot be read: {error}",
                path.display()
            ))
        })?;
        Self::parse(&text)
            .map_err(|error| exit::set_up(format!("chain file {}: {error}", path.display())))
    }

    /// As [`ChainFile::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let after = self.after.iter().map(|position| {
            let (log, index) = (position.log_incarnation, position.index);
            format!("{AFTER}{} {log} {index}\n", position.region)
        });
        let hashes = hashes(&self.chain).map(|hash| hex(&hash) + "\n");
        after.chain(hashes).collect()
    }
}

/// The hashes of a chain, in order.
pub fn hashes(chain: &Chain) -> impl Iterator<Item = Bytes> {
    (0..chain.len()).map(|index| chain.hash(index))
}

fn position_of(text: &str) -> Option<FeedPosition> {
    let mut words = text.split_whitespace();
    let position = FeedPosition {
        region: words.next()?.parse().ok()?,
        log_incarnation: LogIncarnation(words.next()?.parse().ok()?),
        index: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(position)
}

/// Chains the blocks of one sequence by their bytes.
#[derive(Debug)]
pub struct Chainer {
    previous: Bytes,
    width: usize,
}

impl Chainer {
    /// Before the first block; hashes get `width` bytes.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self {
            previous: Bytes::new(),
            width,
        }
    }

    /// The hash of the next block.
    pub fn next(&mut self, block: &[u8]) -> Bytes {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.previous).update(block);
        let mut hash = vec![0; self.width];
        hasher.finalize_xof().fill(&mut hash);
        self.previous = hash.into();
        self.previous.clone()
    }
}

/// Lowercase hexadecimal.
#[must_use]
pub fn hex(raw: &[u8]) -> String {
    raw.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes of a hash in hexadecimal; none when it is no hash.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.len() / 2;
    let fits = text.len().is_multiple_of(2) && (HASH_WIDTH_MIN..=HASH_WIDTH_MAX).contains(&bytes);
    if !fits || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    (0..bytes)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_names_everything_before_it() {
        let chain = |blocks: [&[u8]; 3]| {
            let mut chainer = Chainer::new(32);
            Chain::new(blocks.iter().map(|block| chainer.next(block))).unwrap()
        };
        let (one, other) = (chain([b"a", b"b", b"c"]), chain([b"a", b"x", b"c"]));
        assert_eq!(one.hash(0), other.hash(0));
        assert_ne!(one.hash(1), other.hash(1));
        assert_ne!(one.hash(2), other.hash(2), "same block, other prefix");
        assert_eq!(one.hash(0), blake3::hash(b"a").as_bytes()[..]);
    }

    #[test]
    fn text_round_trips() {
        for width in [8, 32, 64] {
            let mut chainer = Chainer::new(width);
            let chain = Chain::new((0..5_u8).map(|n| chainer.next(&[n]))).unwrap();
            assert_eq!(chain.width() as usize, width);
            let after = vec![position_of("us-east 18446744073709551615 7").unwrap()];
            let file = ChainFile { chain, after };
            assert_eq!(ChainFile::parse(&file.to_text()), Ok(file));
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = "00112233445566778899aabbccddeeff";
        let text = format!("# a comment\n\n{good}\nzz");
        assert_eq!(ChainFile::parse(&text), Err(ChainError::Line { line: 4 }));
        let text = format!("{good}\n{good}00");
        let (got, want) = (17, 16);
        assert_eq!(
            ChainFile::parse(&text),
            Err(ChainError::Width { line: 2, got, want })
        );
        let text = format!("# after us-east 1\n{good}");
        assert_eq!(
            ChainFile::parse(&text),
            Err(ChainError::Position { line: 1 })
        );
        assert_eq!(ChainFile::parse("# nothing\n"), Err(ChainError::Empty));
    }
}
