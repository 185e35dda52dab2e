//! Byte ranges of blocks.

use kvmesh_directory::limits::RANGES_MAX;
use kvmesh_proto::v1 as wire;

use super::WireError;
use crate::ranges::{Ranges, RangesError};

/// Field of a get that carries them.
const FIELD: &str = "ranges";

/// Reads the byte ranges of a get.
///
/// # Errors
/// When one cannot be, they are not in order, or there are too many.
pub fn ranges(wire: &[wire::ByteRange]) -> Result<Ranges, WireError> {
    if wire.len() > RANGES_MAX {
        return Err(RangesError::TooMany.into());
    }
    let span = |range: &wire::ByteRange| {
        let start = range.offset;
        let end = start.checked_add(range.length);
        Ok(start..end.ok_or(RangesError::TooLong { start })?)
    };
    let spans = wire.iter().map(span);
    Ok(Ranges::new(
        spans.collect::<Result<Vec<_>, RangesError>>()?,
    )?)
}

/// Writes the byte ranges of a get.
#[must_use]
pub fn ranges_of(ranges: &Ranges) -> Vec<wire::ByteRange> {
    let spans = ranges.as_slice().iter();
    let span = |span: &std::ops::Range<u64>| wire::ByteRange {
        offset: span.start,
        length: span.end - span.start,
    };
    spans.map(span).collect()
}

impl From<RangesError> for WireError {
    fn from(error: RangesError) -> Self {
        Self::field(FIELD, error)
    }
}
