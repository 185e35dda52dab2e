//! Frames of a get become verified blocks. Pure: no IO, no clock.

use std::collections::{BTreeMap, BTreeSet};

use kvmesh_directory::{Part, RegionId};

use super::{GetSummary, Path, SourceCount};
use crate::{
    ranges::{Pieces, PiecesAssembler, PiecesError, Ranges, RangesError},
    rpc::{GetFrame, Header},
};

/// What is wanted of a block, every byte of it verified.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) index: u32,
    pub(super) part: Part,
    pub(super) pieces: Pieces,
    pub(super) region: RegionId,
    pub(super) path: Path,
}

/// What a frame brought.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing whole yet.
    Nothing,
    /// A block.
    Block(Came),
    /// A block that was aborted, or whose bytes are not what was announced.
    Lost,
    /// A block does not have the bytes that are wanted of each.
    Short(RangesError),
    /// The end.
    Summary(GetSummary),
}

/// The stream is not as the protocol says.
pub(super) type Broken = &'static str;

/// A block on its way.
struct Open {
    index: u32,
    part: Part,
    region: RegionId,
    /// None: what came of it is wrong; the rest of it is skipped.
    assembler: Option<PiecesAssembler>,
}

/// What is wanted, what is there, and the block on its way.
pub(super) struct Gathering {
    first: u32,
    end: u32,
    parts: Vec<Part>,
    ranges: Ranges,
    have: BTreeSet<(u32, Part)>,
    /// Chain positions from `first` on that are there in all parts.
    run: u32,
    sources: BTreeMap<RegionId, (u32, u64)>,
    open: Option<Open>,
    path: Path,
}

impl Gathering {
    /// Wants `ranges` of positions `first..end` in all of `parts`.
    pub(super) fn new(first: u32, end: u32, mut parts: Vec<Part>, ranges: Ranges) -> Self {
        if parts.is_empty() {
            parts.push(Part::default());
        }
        parts.sort_unstable();
        parts.dedup();
        Self {
            first,
            end,
            parts,
            ranges,
            have: BTreeSet::new(),
            run: 0,
            sources: BTreeMap::new(),
            open: None,
            path: Path::Gateway,
        }
    }

    /// A new stream begins: the block on its way comes again.
    pub(super) fn restart(&mut self, path: Path) {
        self.open = None;
        self.path = path;
    }

    /// First chain position that is not there in all parts, and how many are wanted from it on.
    pub(super) fn rest(&self) -> (u32, u32) {
        let next = self.first + self.run;
        (next, self.end - next)
    }

    pub(super) fn run(&self) -> u32 {
        self.run
    }

    pub(super) fn is_empty(&self) -> bool {
        self.have.is_empty()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.first + self.run == self.end
    }

    /// Blocks that came, by region.
    pub(super) fn sources(&self) -> Vec<SourceCount> {
        let count = |(region, (blocks, bytes)): (&RegionId, &(u32, u64))| SourceCount {
            region: region.clone(),
            blocks: *blocks,
            bytes: *bytes,
        };
        self.sources.iter().map(count).collect()
    }

    pub(super) fn on_frame(&mut self, frame: GetFrame) -> Result<Step, Broken> {
        if let Some(summary) = frame.summary {
            return match self.open {
                Some(_) => Err("the summary came within a block"),
                None => Ok(Step::Summary(summary)),
            };
        }
        if let Some(header) = frame.header {
            if self.open.is_some() {
                return Err("a block began within another one");
            }
            if header.meta.is_none() {
                return match frame.end {
                    Some(false) => Ok(Step::Lost),
                    _ => Err("a block came without its size and checksums"),
                };
            }
            match self.begin(header)? {
                Ok(open) => self.open = Some(open),
                Err(short) => return Ok(Step::Short(short)),
            }
        }
        if let Some(piece) = frame.piece {
            let open = self
                .open
                .as_mut()
                .ok_or("a piece came outside of a block")?;
            let taken = open.assembler.as_mut().map(|block| block.push(piece));
            if let Some(Err(error)) = taken {
                tracing::warn!(index = open.index, %error, "block dropped");
                open.assembler = None;
            }
        }
        match frame.end {
            None => Ok(Step::Nothing),
            Some(whole) => {
                let open = self.open.take().ok_or("an end came outside of a block")?;
                Ok(self.finish(open, whole))
            }
        }
    }

    fn begin(&self, header: Header) -> Result<Result<Open, RangesError>, Broken> {
        let wanted = (self.first..self.end).contains(&header.index);
        if !wanted || self.parts.binary_search(&header.part).is_err() {
            return Err("a block came that was not asked for");
        }
        let region = header.region.ok_or("a block came without its region")?;
        let meta = header
            .meta
            .ok_or("a block came without its size and checksums")?;
        let assembler = PiecesAssembler::new(meta, &self.ranges, &header.pieces);
        match &assembler {
            Err(PiecesError::Range(short)) => return Ok(Err(short.clone())),
            Err(error) => tracing::warn!(index = header.index, %error, "block dropped"),
            Ok(_) => {}
        }
        Ok(Ok(Open {
            index: header.index,
            part: header.part,
            region,
            assembler: assembler.ok(),
        }))
    }

    fn finish(&mut self, open: Open, whole: bool) -> Step {
        let pieces = open.assembler.filter(|_| whole);
        let Some(Ok(pieces)) = pieces.map(PiecesAssembler::finish) else {
            return Step::Lost;
        };
        let from = (&open.region, self.path);
        let taken = self.take(open.index, open.part, from, pieces);
        taken.map_or(Step::Nothing, Step::Block)
    }

    /// What is wanted of a block, verified. None: it is there already.
    pub(super) fn take(
        &mut self,
        index: u32,
        part: Part,
        (region, path): (&RegionId, Path),
        pieces: Pieces,
    ) -> Option<Came> {
        if !self.have.insert((index, part)) {
            return None;
        }
        self.count(region, pieces.bytes());
        let region = region.clone();
        Some(Came {
            index,
            part,
            pieces,
            region,
            path,
        })
    }

    /// What is wanted of each position.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn count(&mut self, region: &RegionId, came: u64) {
        let (blocks, bytes) = self.sources.entry(region.clone()).or_default();
        *blocks += 1;
        *bytes += came;
        let there = |run: u32| {
            let index = self.first + run;
            let held = |part: &Part| self.have.contains(&(index, *part));
            index < self.end && self.parts.iter().all(held)
        };
        while there(self.run) {
            self.run += 1;
        }
    }
}
