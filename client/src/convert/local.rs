//! What a node and a client on its host say to one another, each message one packet.

use bytes::Bytes;
use kvmesh_directory::{BlockKey, FeedPosition, NamespaceId, NodeId, RegionId};
use kvmesh_proto::v1::{self as wire, local_request::Ask as WireAsk, local_response};
use prost::Message;

use super::{FromWire, ToWire, WireError, all, each, region, required};
use crate::block::BlockMeta;

/// What a client says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The answer has it, too; 0: nothing is answered.
    pub id: u64,
    /// What it asks.
    pub ask: Option<Ask>,
    /// Leases that end.
    pub release: Vec<u64>,
    /// Names whose recency is renewed.
    pub touch: Vec<BlockKey>,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// First: for which namespace the connection is.
    Hello {
        /// Of the wire protocol.
        version: u32,
        /// Which one.
        namespace: NamespaceId,
        /// It is for puts.
        puts: bool,
    },
    /// The blocks of these names, until the first that is not to be had.
    Get {
        /// Which blocks.
        keys: Vec<BlockKey>,
        /// What the node's view must cover.
        at_least: Vec<FeedPosition>,
    },
    /// A part of a put.
    Put(PutPart),
}

/// What a put over gRPC says in messages of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutPart {
    /// The first part has it.
    pub open: Option<wire::PutOpen>,
    /// Blocks that are offered.
    pub offers: Vec<wire::PutOffer>,
    /// Id of the block and first byte of each piece that lies in staging.
    pub pieces: Vec<(u64, u64)>,
}

/// What a node says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Of the request.
    pub id: u64,
    /// Id and size of the segments whose descriptors come with it, in this order.
    pub segments: Vec<(u64, u64)>,
    /// Segments that are to be unmapped.
    pub retired: Vec<u64>,
    /// The answer; none: only what is above.
    pub answer: Option<Answer>,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a hello.
    Welcome {
        /// Which node.
        node: NodeId,
        /// Of which region.
        region: RegionId,
        /// Bytes of the memory that comes with it, to put blocks into; 0: there is none.
        staging: u64,
    },
    /// To a get.
    Blocks {
        /// From the first one on.
        blocks: Vec<Mapped>,
        /// Why there are no more.
        end: End,
    },
    /// The connection is closed, and why.
    Refused(String),
    /// To parts of a put.
    Puts {
        /// As over gRPC.
        answers: Vec<wire::PutResponse>,
        /// Places in staging that can be filled anew.
        taken: Vec<u64>,
    },
    /// A put ended, and the connection with it: a gRPC status.
    Failed {
        /// Its code.
        code: i32,
        /// What people read.
        message: String,
        /// What programs read.
        details: Bytes,
    },
}

/// A block that the client may read where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// To be released when it was read.
    pub lease: u64,
    /// Its size and checksums.
    pub meta: BlockMeta,
    /// Segment and first byte of each piece.
    pub places: Vec<(u64, u64)>,
}

impl Mapped {
    /// At most so many bytes of a packet.
    #[must_use]
    pub fn packed_bytes_max(&self) -> usize {
        const HEAD: usize = 96;
        // A checksum, and two numbers of at most ten bytes.
        const PIECE: usize = 36;
        HEAD + PIECE * self.places.len()
    }
}

/// Why an answer has no further block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All are there.
    Complete,
    /// The packet is full.
    More,
    /// The node does not have the next one.
    Missing,
    /// The client holds as much as it may.
    Held,
    /// The memory that can be mapped is used up.
    NoRoom,
    /// The node's view does not cover what was asked for.
    ViewBehind,
}

impl Request {
    /// As a packet.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let ask = self.ask.as_ref().map(|ask| match ask {
            Ask::Hello {
                version,
                namespace,
                puts,
            } => WireAsk::Hello(wire::LocalHello {
                protocol_version: *version,
                namespace_id: namespace.to_wire(),
                puts: *puts,
            }),
            Ask::Get { keys, at_least } => WireAsk::Get(wire::LocalGet {
                keys: each(keys),
                at_least: each(at_least),
            }),
            Ask::Put(part) => WireAsk::Put(part.to_wire()),
        });
        let message = wire::LocalRequest {
            id: self.id,
            ask,
            release: self.release.clone(),
            touch: each(&self.touch),
        };
        message.encode_to_vec()
    }

    /// Of a packet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unpack(packet: &[u8]) -> Result<Self, WireError> {
        let message = wire::LocalRequest::decode(packet).map_err(broken)?;
        let ask = match message.ask {
            None => None,
            Some(WireAsk::Hello(hello)) => Some(Ask::Hello {
                version: hello.protocol_version,
                namespace: NamespaceId::from_wire(hello.namespace_id)?,
                puts: hello.puts,
            }),
            Some(WireAsk::Get(get)) => Some(Ask::Get {
                keys: all(get.keys)?,
                at_least: all(get.at_least)?,
            }),
            Some(WireAsk::Put(put)) => Some(Ask::Put(PutPart {
                open: put.open,
                offers: put.offers,
                pieces: put.pieces.iter().map(|it| (it.id, it.offset)).collect(),
            })),
        };
        Ok(Self {
            id: message.id,
            ask,
            release: message.release,
            touch: all(message.touch)?,
        })
    }
}

impl Response {
    /// As a packet.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let segment = |&(id, bytes): &(u64, u64)| wire::LocalSegment { id, bytes };
        let message = wire::LocalResponse {
            id: self.id,
            segments: self.segments.iter().map(segment).collect(),
            retired: self.retired.clone(),
            answer: self.answer.as_ref().map(ToWire::to_wire),
        };
        message.encode_to_vec()
    }

    /// Of a packet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unpack(packet: Bytes) -> Result<Self, WireError> {
        let message = wire::LocalResponse::decode(packet).map_err(broken)?;
        let segments = message.segments.iter();
        Ok(Self {
            id: message.id,
            segments: segments.map(|it| (it.id, it.bytes)).collect(),
            retired: message.retired,
            answer: message.answer.map(Answer::from_wire).transpose()?,
        })
    }
}

fn broken(why: prost::DecodeError) -> WireError {
    WireError::field("packet", why)
}

impl ToWire for PutPart {
    type Wire = wire::LocalPut;
    fn to_wire(&self) -> wire::LocalPut {
        let piece = |&(id, offset): &(u64, u64)| wire::LocalPiece { id, offset };
        wire::LocalPut {
            open: self.open.clone(),
            offers: self.offers.clone(),
            pieces: self.pieces.iter().map(piece).collect(),
        }
    }
}

impl ToWire for Answer {
    type Wire = local_response::Answer;
    fn to_wire(&self) -> local_response::Answer {
        match self {
            Self::Welcome {
                node,
                region,
                staging,
            } => local_response::Answer::Welcome(wire::LocalWelcome {
                node: node.0,
                region: region.to_wire(),
                staging_bytes: *staging,
            }),
            Self::Blocks { blocks, end } => local_response::Answer::Blocks(wire::LocalBlocks {
                blocks: each(blocks),
                end: end.to_wire().into(),
            }),
            Self::Refused(why) => local_response::Answer::Refused(why.clone()),
            Self::Puts { answers, taken } => local_response::Answer::Puts(wire::LocalPuts {
                answers: answers.clone(),
                taken: taken.clone(),
            }),
            Self::Failed {
                code,
                message,
                details,
            } => local_response::Answer::Failed(wire::LocalFailed {
                code: *code,
                message: message.clone(),
                details: details.clone(),
            }),
        }
    }
}

impl FromWire for Answer {
    type Wire = local_response::Answer;
    fn from_wire(answer: local_response::Answer) -> Result<Self, WireError> {
        Ok(match answer {
            local_response::Answer::Welcome(welcome) => Self::Welcome {
                node: NodeId(welcome.node),
                region: region("welcome.region", &welcome.region)?,
                staging: welcome.staging_bytes,
            },
            local_response::Answer::Blocks(found) => Self::Blocks {
                end: match found.end() {
                    wire::LocalEnd::Complete => End::Complete,
                    wire::LocalEnd::More => End::More,
                    wire::LocalEnd::Missing => End::Missing,
                    wire::LocalEnd::Held => End::Held,
                    wire::LocalEnd::NoRoom => End::NoRoom,
                    wire::LocalEnd::ViewBehind => End::ViewBehind,
                    wire::LocalEnd::Unspecified => return Err(WireError::Missing("blocks.end")),
                },
                blocks: all(found.blocks)?,
            },
            local_response::Answer::Refused(why) => Self::Refused(why),
            local_response::Answer::Puts(puts) => Self::Puts {
                answers: puts.answers,
                taken: puts.taken,
            },
            local_response::Answer::Failed(failed) => Self::Failed {
                code: failed.code,
                message: failed.message,
                details: failed.details,
            },
        })
    }
}

impl End {
    fn to_wire(self) -> wire::LocalEnd {
        match self {
            Self::Complete => wire::LocalEnd::Complete,
            Self::More => wire::LocalEnd::More,
            Self::Missing => wire::LocalEnd::Missing,
            Self::Held => wire::LocalEnd::Held,
            Self::NoRoom => wire::LocalEnd::NoRoom,
            Self::ViewBehind => wire::LocalEnd::ViewBehind,
        }
    }
}

impl ToWire for Mapped {
    type Wire = wire::LocalBlock;
    fn to_wire(&self) -> wire::LocalBlock {
        let (segments, offsets) = self.places.iter().copied().unzip();
        wire::LocalBlock {
            lease: self.lease,
            meta: Some(self.meta.to_wire()),
            segments,
            offsets,
        }
    }
}

impl FromWire for Mapped {
    type Wire = wire::LocalBlock;
    fn from_wire(wire: wire::LocalBlock) -> Result<Self, WireError> {
        if wire.segments.len() != wire.offsets.len() {
            let why = "it has as many entries as segments";
            return Err(WireError::field("offsets", why));
        }
        Ok(Self {
            lease: wire.lease,
            meta: required("meta", wire.meta)?,
            places: wire.segments.into_iter().zip(wire.offsets).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{BlockHash, Part};

    use super::*;

    #[test]
    fn packets_say_what_was_said_and_are_no_larger_than_counted() {
        let keys = |from: u8| {
            let key = move |byte| BlockKey {
                hash: BlockHash([byte; 32]),
                part: Part { shard: 1, group: 0 },
            };
            (from..from + 3).map(key).collect::<Vec<_>>()
        };
        let get = Ask::Get {
            keys: keys(1),
            at_least: Vec::new(),
        };
        let hello = Ask::Hello {
            version: 1,
            namespace: NamespaceId([7; 16]),
            puts: true,
        };
        let put = Ask::Put(PutPart {
            open: Some(wire::PutOpen::default()),
            offers: vec![wire::PutOffer::default(); 2],
            pieces: vec![(1, u64::MAX), (2, 0)],
        });
        for ask in [None, Some(hello), Some(get), Some(put)] {
            let request = Request {
                id: 3,
                ask,
                release: vec![1, u64::MAX],
                touch: keys(9),
            };
            assert_eq!(Request::unpack(&request.pack()).unwrap(), request);
        }
        let block = Mapped {
            lease: u64::MAX,
            meta: BlockMeta {
                put_hlc: kvmesh_directory::Hlc(u64::MAX),
                ..BlockMeta::of(&vec![1; 3 << 20], 4)
            },
            places: vec![(u64::MAX, u64::MAX); 3],
        };
        let wire = block.to_wire().encoded_len() + 12;
        assert!(wire <= block.packed_bytes_max(), "{wire}");
        let ends = [
            End::Complete,
            End::More,
            End::Missing,
            End::Held,
            End::NoRoom,
            End::ViewBehind,
        ];
        for end in ends {
            let response = Response {
                id: 3,
                segments: vec![(1, 2), (3, 4)],
                retired: vec![5],
                answer: Some(Answer::Blocks {
                    blocks: vec![block.clone()],
                    end,
                }),
            };
            assert_eq!(Response::unpack(response.pack().into()).unwrap(), response);
        }
        let puts = Answer::Puts {
            answers: vec![wire::PutResponse::default(); 2],
            taken: vec![0, 4_096],
        };
        let failed = Answer::Failed {
            code: 9,
            message: "why".to_owned(),
            details: Bytes::from_static(b"more"),
        };
        for answer in [puts, failed] {
            let response = Response {
                answer: Some(answer),
                ..Response::default()
            };
            assert_eq!(Response::unpack(response.pack().into()).unwrap(), response);
        }
        assert!(Request::unpack(&[0xff; 9]).is_err());
    }
}
