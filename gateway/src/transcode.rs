//! Blocks on their way to another region that are rounded, where their namespace's policy is
//! lossy on both sides.
//!
//! What decoding gives is another content: its checksums are announced before its first piece, so
//! a block is held until it is whole. What came is held against its own checksums first: new ones
//! would make damage good. A block that was rounded before is not rounded anew; it travels
//! encoded where that gives back the very same bytes.
//!
//! Not here: whether rounding pays (`coding`), and what the other side does with it (`far`).

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use kvmesh_client::{BlockMeta, Encoding};
use kvmesh_directory::{Checksum, NamespaceId};

use crate::{
    budget::Share,
    coding,
    context::Gateway,
    frame::{Frame, Header},
};

/// Larger blocks travel without loss: so much of a get is held at most.
const TRANSCODED_BYTES_MAX: u64 = 64 << 20;

/// A block that is not whole yet.
struct Held {
    header: Header,
    pieces: Vec<Bytes>,
}

/// A piece, and how it travels.
struct Made {
    checksum: Checksum,
    travels: Option<Vec<u8>>,
    /// Decoding gives other bytes.
    changed: bool,
    bytes: u64,
}

/// What is done with whole blocks.
struct Rounding {
    gateway: Arc<Gateway>,
    namespace: NamespaceId,
    encoding: Encoding,
}

struct Transcoder<S> {
    rounding: Rounding,
    frames: S,
    held: Option<Held>,
    /// Of the block that is held or was last.
    share: Option<Share>,
    ready: VecDeque<Frame>,
}

/// The frames of a get with its blocks rounded, as far as they can be.
pub(crate) fn stream(
    gateway: Arc<Gateway>,
    namespace: NamespaceId,
    encoding: Encoding,
    frames: impl Stream<Item = Frame> + Send + Unpin + 'static,
) -> impl Stream<Item = Frame> + Send {
    let transcoder = Transcoder {
        rounding: Rounding {
            gateway,
            namespace,
            encoding,
        },
        frames,
        held: None,
        share: None,
        ready: VecDeque::new(),
    };
    stream::unfold(transcoder, |mut transcoder| async {
        let frame = transcoder.next().await?;
        Some((frame, transcoder))
    })
}

impl<S: Stream<Item = Frame> + Unpin> Transcoder<S> {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let frame = self.frames.next().await?;
            self.take(frame).await;
        }
    }

    async fn take(&mut self, frame: Frame) {
        let (piece, whole) = match frame {
            Frame::Block {
                header: Some(header),
                piece,
                whole,
                ..
            } if self.holds(&header) => {
                let pieces = Vec::with_capacity(header.meta.pieces.len());
                self.held = Some(Held { header, pieces });
                (piece, whole)
            }
            Frame::Block {
                header: None,
                piece,
                whole,
                ..
            } if self.held.is_some() => (piece, whole),
            // Nobody knows yet that it had begun.
            Frame::Aborted(None) if let Some(held) = self.held.take() => {
                let place = (held.header.index, held.header.part);
                self.ready.push_back(Frame::Aborted(Some(place)));
                return;
            }
            other => return self.ready.push_back(other),
        };
        let Some(held) = &mut self.held else { return };
        held.pieces.extend(piece);
        if whole && let Some(held) = self.held.take() {
            let frames = self.rounding.frames_of(held).await;
            self.ready.extend(frames);
        }
    }

    /// Whether a block that begins is held: all of it comes, and there is room.
    fn holds(&mut self, header: &Header) -> bool {
        self.share = None;
        let bytes = header.meta.bytes;
        let may = bytes <= TRANSCODED_BYTES_MAX && header.pieces.is_empty();
        if may && self.rounding.may() {
            let room = &self.rounding.gateway.get_bytes;
            self.share = room.take_now(bytes).ok();
        }
        self.share.is_some()
    }
}

impl Rounding {
    /// Whether the policy allows it now.
    fn may(&self) -> bool {
        self.gateway.views.takes_lossy(self.namespace)
    }

    async fn frames_of(&self, held: Held) -> Vec<Frame> {
        let announced = held.header.meta.pieces.iter().copied();
        let pieces: Vec<_> = held.pieces.iter().cloned().zip(announced).collect();
        let work = pieces.into_iter().map(|(piece, announced)| {
            let (gateway, with) = (Arc::clone(&self.gateway), self.encoding);
            let made = move || make(with, &piece, announced);
            async move { gateway.coding.work(made).await }
        });
        let work = stream::iter(work).buffered(coding::AT_ONCE);
        let made: Vec<Option<Made>> = work.map(Option::flatten).collect().await;
        let made: Option<Vec<Made>> = made.into_iter().collect();
        // Read anew: it may have taken a while.
        let may = self.may();
        let made = made.filter(|made| may && made.len() == held.header.meta.pieces.len());
        let meta = made.as_ref().and_then(|made| {
            let meta = &held.header.meta;
            announcement(meta, self.encoding, made)
        });
        match (meta, made) {
            (Some(meta), Some(made)) => self.encoded(held, meta, made),
            _ => frames(held.header, held.pieces.into_iter().map(|it| (it, None))),
        }
    }

    fn encoded(&self, held: Held, meta: BlockMeta, made: Vec<Made>) -> Vec<Frame> {
        let meters = &self.gateway.meters;
        let pieces = held.pieces.into_iter().zip(made);
        let pieces = pieces.map(|(piece, made)| match made.travels {
            Some(encoded) => {
                let wire = encoded.len() as u64;
                meters.coded("sent", self.encoding.name(), made.bytes, wire);
                (Bytes::from(encoded), Some(self.encoding))
            }
            None => (piece, None),
        });
        let header = Header {
            meta,
            ..held.header
        };
        frames(header, pieces)
    }
}

/// None: the piece is not what was announced.
fn make(with: Encoding, piece: &[u8], announced: Checksum) -> Option<Made> {
    if Checksum::of(piece) != announced {
        return None;
    }
    let mut made = Made {
        checksum: announced,
        travels: with.encode(piece),
        changed: false,
        bytes: piece.len() as u64,
    };
    if let Some(encoded) = &made.travels {
        let decoded = with.decode(encoded, piece.len()).ok()?;
        made.changed = decoded != piece;
        made.checksum = Checksum::of(&decoded);
    }
    Some(made)
}

/// What is announced of a rounded block; none: it travels as it is, without loss.
fn announcement(meta: &BlockMeta, with: Encoding, made: &[Made]) -> Option<BlockMeta> {
    let changed = made.iter().any(|made| made.changed);
    let shorter = made.iter().any(|made| made.travels.is_some());
    match meta.transcoded {
        Some(before) => (before == with && shorter && !changed).then(|| meta.clone()),
        None => changed.then(|| {
            let pieces: Vec<Checksum> = made.iter().map(|made| made.checksum).collect();
            BlockMeta {
                checksum: Checksum::over(&pieces),
                pieces,
                transcoded: Some(with),
                ..meta.clone()
            }
        }),
    }
}

/// The frames of a whole block.
fn frames(header: Header, pieces: impl Iterator<Item = (Bytes, Option<Encoding>)>) -> Vec<Frame> {
    let mut header = Some(header);
    let frame = |(piece, encoding)| Frame::Block {
        header: header.take(),
        piece: Some(piece),
        encoding,
        whole: false,
    };
    let mut frames: Vec<Frame> = pieces.map(frame).collect();
    if let Some(Frame::Block { whole, .. }) = frames.last_mut() {
        *whole = true;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH: Encoding = Encoding::Bf16Fp8;

    fn made(bf16: &[u16]) -> (Vec<u8>, Made) {
        let piece: Vec<u8> = bf16.iter().flat_map(|it| it.to_le_bytes()).collect();
        let made = make(WITH, &piece, Checksum::of(&piece)).unwrap();
        (piece, made)
    }

    #[test]
    fn what_is_announced_is_what_decoding_gives() {
        let (piece, rounded) = made(&[0x3f8f; 300]);
        let meta = BlockMeta::of(&piece, 3);
        let announced = announcement(&meta, WITH, &[rounded]).unwrap();
        let encoded = WITH.encode(&piece).unwrap();
        let decoded = WITH.decode(&encoded, piece.len()).unwrap();
        let want = BlockMeta {
            transcoded: Some(WITH),
            ..BlockMeta::of(&decoded, 3)
        };
        assert_eq!(announced, want);
        assert_ne!(announced.checksum, meta.checksum);
    }

    #[test]
    fn what_was_rounded_before_keeps_its_announcement() {
        let (piece, again) = made(&[0x3f90; 300]);
        assert!(again.travels.is_some() && !again.changed);
        let before = |transcoded| BlockMeta {
            transcoded,
            ..BlockMeta::of(&piece, 3)
        };
        let meta = before(Some(WITH));
        assert_eq!(announcement(&meta, WITH, &[again]), Some(meta));
        // By another encoding; and not at all, so that it is exact.
        for transcoded in [Some(Encoding::F16Fp8), None] {
            let (_, again) = made(&[0x3f90; 300]);
            assert_eq!(announcement(&before(transcoded), WITH, &[again]), None);
        }
        let (_, rounded) = made(&[0x3f8f; 300]);
        assert_eq!(announcement(&before(Some(WITH)), WITH, &[rounded]), None);
    }

    #[test]
    fn damage_is_not_made_good() {
        let piece = [0x3f_u8; 600];
        assert!(make(WITH, &piece, Checksum::of(&piece[1..])).is_none());
    }
}
