//! Gets of byte ranges of blocks: what travels is the pieces that they touch, what is handed
//! out are the bytes that were asked for.

use std::ops::Range;

use bytes::Bytes;
use kvmesh_directory::{Part, RegionId};

use super::{CallError, Chain, GetOptions, GetStream, GetSummary, Opened, Path, gathering::Came};
use crate::{convert::WireError, ranges::Ranges};

/// The wanted bytes of one block, each verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRanges {
    /// Position in the chain.
    pub index: u32,
    /// Slice of the block.
    pub part: Part,
    /// Bytes of the whole block.
    pub block_bytes: u64,
    /// One for each range, in their order; of whole blocks one with all bytes. Bytes that lie
    /// within one piece are not copied, and keep that piece in memory.
    pub ranges: Vec<Bytes>,
    /// Region that they came from.
    pub region: RegionId,
    /// Which way they came.
    pub path: Path,
}

/// All of a get of ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct RangesFetched {
    /// As they came: in chain order, unless any order was allowed or a stream broke.
    pub blocks: Vec<FetchedRanges>,
    /// How it ended. Bytes of its sources are those of the pieces that came.
    pub summary: GetSummary,
}

/// Which blocks' bytes a get copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Scattered {
    /// Positions in the chain, and parts: the buffers of these were filled, no other was written.
    pub filled: Vec<(u32, Part)>,
    /// How it ended.
    pub summary: GetSummary,
}

/// A get of ranges on its way.
pub struct RangesStream {
    stream: GetStream,
    ranges: Ranges,
}

impl Opened {
    /// Gets byte ranges of the wanted blocks of a chain, the same of each.
    ///
    /// # Errors
    /// As [`Self::get`]; and when a block does not have the bytes, which ends the get.
    pub async fn get_ranges(
        &self,
        chain: &Chain,
        ranges: &Ranges,
        options: GetOptions,
    ) -> Result<RangesFetched, CallError> {
        let mut stream = self.get_ranges_stream(chain, ranges, options)?;
        let mut blocks = Vec::new();
        while let Some(block) = stream.next().await? {
            blocks.push(block);
        }
        Ok(RangesFetched {
            blocks,
            summary: stream.into_summary(),
        })
    }

    /// As [`Self::get_ranges`], block by block, as they come.
    ///
    /// # Errors
    /// When the request cannot be.
    pub fn get_ranges_stream(
        &self,
        chain: &Chain,
        ranges: &Ranges,
        options: GetOptions,
    ) -> Result<RangesStream, CallError> {
        Ok(RangesStream {
            stream: self.stream(chain, ranges.clone(), options)?,
            ranges: ranges.clone(),
        })
    }

    /// As [`Self::get_ranges`]; the bytes are copied once, to where they belong. `into` has a
    /// buffer for each range of each wanted block, exactly as long as it: blocks in chain
    /// order, parts within them ascending, ranges innermost. A block's buffers are written only
    /// once all of it that is wanted was verified.
    ///
    /// # Errors
    /// As [`Self::get_ranges`]; and when the buffers are not as many or not as long. Those of
    /// blocks that came before are filled then.
    pub async fn get_ranges_into(
        &self,
        chain: &Chain,
        ranges: &Ranges,
        options: GetOptions,
        into: &mut [&mut [u8]],
    ) -> Result<Scattered, CallError> {
        let mut stream = self.get_ranges_stream(chain, ranges, options)?;
        let each = ranges.as_slice().len().max(1);
        let wanted = stream.stream.wanted();
        check_buffers(ranges, wanted as usize * each, into)?;
        let mut filled = Vec::new();
        while let Some(came) = stream.stream.next_pieces().await? {
            let place = stream.stream.place(came.index, came.part) * each;
            let spans = stream.spans(&came)?;
            for (span, into) in spans.iter().zip(&mut into[place..place + each]) {
                if !came.pieces.copy(span, into) {
                    let why = format!(
                        "a buffer has {} bytes, {span:?} of block {} belong there",
                        into.len(),
                        came.index
                    );
                    return Err(refused("into", why));
                }
            }
            filled.push((came.index, came.part));
        }
        Ok(Scattered {
            filled,
            summary: stream.into_summary(),
        })
    }
}

/// Whether buffers can be those of the ranges; whole blocks say how long they are when they come.
fn check_buffers(ranges: &Ranges, want: usize, into: &[&mut [u8]]) -> Result<(), CallError> {
    if into.len() != want {
        let why = format!("{} buffers are given, {want} are filled", into.len());
        return Err(refused("into", why));
    }
    let spans = ranges.as_slice().iter().cycle();
    for (at, (span, into)) in spans.zip(into).enumerate() {
        if into.len() as u64 != span.end - span.start {
            let why = format!(
                "buffer {at} has {} bytes, its range is {span:?}",
                into.len()
            );
            return Err(refused("into", why));
        }
    }
    Ok(())
}

fn refused(field: &'static str, why: String) -> CallError {
    let source = WireError::field(field, why);
    CallError::Request {
        call: "get",
        source,
    }
}

impl RangesStream {
    /// The wanted bytes of the next block; none: the get has ended, and [`Self::summary`] says
    /// how. Safe to cancel.
    ///
    /// # Errors
    /// As [`Opened::get_ranges`].
    pub async fn next(&mut self) -> Result<Option<FetchedRanges>, CallError> {
        let Some(came) = self.stream.next_pieces().await? else {
            return Ok(None);
        };
        let spans = self.spans(&came)?;
        let cut = spans.iter().filter_map(|span| came.pieces.cut(span));
        Ok(Some(FetchedRanges {
            ranges: cut.collect(),
            index: came.index,
            part: came.part,
            block_bytes: came.pieces.meta.bytes,
            region: came.region,
            path: came.path,
        }))
    }

    /// The ranges of a block that came: it has them.
    fn spans(&self, came: &Came) -> Result<Vec<Range<u64>>, CallError> {
        let spans = self.ranges.of(came.pieces.meta.bytes);
        spans.map_err(|short| CallError::Request {
            call: "get",
            source: short.into(),
        })
    }

    /// How the get ended; none while it goes on.
    #[must_use]
    pub fn summary(&self) -> Option<&GetSummary> {
        self.stream.summary()
    }

    /// How the get ended, or what came so far when it has not: out of time.
    #[must_use]
    pub fn into_summary(self) -> GetSummary {
        self.stream.into_summary()
    }
}
