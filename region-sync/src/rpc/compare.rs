//! Asks nodes of another region what this one is to have of them.

use std::time::Duration;

use kvmesh_client::{
    FromWire, ToWire, WireError,
    channel::{AddressError, Channel},
    convert::{
        self,
        mesh::{MeshPart, unpack_digest},
        required,
    },
    follow::Source,
};
use kvmesh_directory::{
    BlockName, FeedPosition, RegionId,
    limits::{MESSAGE_BYTES_MAX, NAMESPACES_MAX, TOMBSTONES_MAX},
    view::Digest,
};
use kvmesh_proto::v1::{
    self as wire, compare_client::CompareClient, feed_client::FeedClient, feed_frame::Kind,
};
use tokio::time::{error::Elapsed, timeout};
use tonic::{Code, Request, Status};

use crate::effects::Effects;

/// How long an answer may take: a node takes its time over a large directory.
const ASK_MAX: Duration = Duration::from_secs(130);
/// How long the first frame of a feed may take.
const FIRST_FRAME_MAX: Duration = Duration::from_secs(5);
/// Blocks that a region may have put into some ranges since it counted them.
const NEW_BLOCKS_MAX: usize = 1 << 18;

/// Why a node's answer is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It does not know the call, or lets nobody make it.
    #[error("the nodes of region {0} do not compare: they are of an earlier version")]
    Unknown(RegionId),
    /// A setting is wrong.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It refused, is busy, or cannot be reached.
    #[error("a node answered {}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// It took too long.
    #[error("a node did not answer in time")]
    Late(#[from] Elapsed),
    /// The answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Wire(#[from] WireError),
    /// It ended before the last frame.
    #[error("the answer ended early")]
    EndedEarly,
    /// More came than was asked for.
    #[error("more came than there can be")]
    TooMany,
}

impl From<Status> for AskError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Blocks of some ranges, and the position at which they are all.
pub(crate) type Blocks = (FeedPosition, Vec<(BlockName, u32)>);

/// What a region has, in short, and the position at which it is that.
pub(crate) struct Counted {
    pub(crate) position: FeedPosition,
    pub(crate) blocks: Digest,
    /// Another number where namespaces or deleted names differ. None: of an earlier version.
    pub(crate) objects: Option<u64>,
}

/// The nodes of another region; each is as good as the others.
pub(crate) struct PeerNodes {
    pub(crate) own: RegionId,
    pub(crate) region: RegionId,
    pub(crate) source: Source,
}

impl PeerNodes {
    /// What the region has for this one, in short, at a position or a later one.
    pub(crate) async fn digest(&self, at_least: &FeedPosition) -> Result<Counted, AskError> {
        self.ask(|channel| async move {
            let request = request(wire::DigestRequest {
                follower_region: self.own.to_wire(),
                at_least: Some(at_least.to_wire()),
            });
            let answer = client(channel).digest(request).await?.into_inner();
            let position = self.position(answer.position, at_least)?;
            Ok(Counted {
                position,
                blocks: unpack_digest(&answer.ranges)?,
                objects: answer.objects,
            })
        })
        .await
    }

    /// The blocks of some ranges, about so many, at a position or a later one.
    pub(crate) async fn blocks(
        &self,
        ranges: &[usize],
        about: usize,
        at_least: &FeedPosition,
    ) -> Result<Blocks, AskError> {
        self.ask(|channel| async move {
            let request = request(wire::BlocksRequest {
                follower_region: self.own.to_wire(),
                at_least: Some(at_least.to_wire()),
                ranges: ranges.iter().map(|range| *range as u32).collect(),
            });
            let mut frames = client(channel).blocks(request).await?.into_inner();
            let mut blocks: Vec<(BlockName, u32)> = Vec::new();
            loop {
                let frame = frames.message().await?.ok_or(AskError::EndedEarly)?;
                blocks.extend(convert::all::<(BlockName, u32)>(frame.blocks)?);
                if blocks.len() > about + NEW_BLOCKS_MAX {
                    return Err(AskError::TooMany);
                }
                if frame.last {
                    return Ok((self.position(frame.position, at_least)?, blocks));
                }
            }
        })
        .await
    }

    /// The namespaces and deleted names, at a position or a later one.
    pub(crate) async fn objects(
        &self,
        at_least: &FeedPosition,
    ) -> Result<(FeedPosition, Effects), AskError> {
        self.ask(|channel| async move {
            let request = request(wire::ObjectsRequest {
                follower_region: self.own.to_wire(),
                at_least: Some(at_least.to_wire()),
            });
            let mut parts = client(channel).objects(request).await?.into_inner();
            let (mut namespaces, mut tombstones) = (Vec::new(), Vec::new());
            loop {
                let part = parts.message().await?.ok_or(AskError::EndedEarly)?;
                let (position, last) = (part.position.clone(), part.last);
                let part = MeshPart::from_wire(part)?;
                namespaces.extend(part.namespaces);
                tombstones.extend(part.tombstones);
                if namespaces.len() > NAMESPACES_MAX || tombstones.len() > TOMBSTONES_MAX {
                    return Err(AskError::TooMany);
                }
                if last {
                    let position = self.position(position, at_least)?;
                    return Ok((position, Effects::of_snapshot(namespaces, tombstones)));
                }
            }
        })
        .await
    }

    /// Whether the region's feed can be followed again from a position on.
    pub(crate) async fn reaches_back_to(&self, after: &FeedPosition) -> Result<bool, AskError> {
        self.ask(|channel| async move {
            let mut client = FeedClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let request = request(wire::FollowRequest {
                scope: wire::FeedScope::Mesh.into(),
                after: Some(after.to_wire()),
                follower_region: self.own.to_wire(),
            });
            let mut frames = client.follow(request).await?.into_inner();
            let first = timeout(FIRST_FRAME_MAX, frames.message()).await??;
            let kind = first.and_then(|frame| frame.kind);
            let kind = kind.ok_or(AskError::EndedEarly)?;
            Ok(!matches!(kind, Kind::MeshSnapshot(_)))
        })
        .await
    }

    /// Asks one node after the other until one answers.
    async fn ask<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, AskError>>,
    {
        let mut last = AskError::EndedEarly;
        for address in &self.source.addresses {
            let channel = self.source.channels.to(address)?;
            let asked = timeout(ASK_MAX, call(channel)).await;
            match asked.map_err(AskError::from).flatten() {
                Ok(answer) => return Ok(answer),
                Err(AskError::Status(status)) if is_unknown(&status) => {
                    last = AskError::Unknown(self.region.clone());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn position(
        &self,
        raw: Option<wire::FeedPosition>,
        at_least: &FeedPosition,
    ) -> Result<FeedPosition, AskError> {
        let position: FeedPosition = required("position", raw)?;
        let same_log = position.log_incarnation == at_least.log_incarnation;
        if position.region != self.region || same_log && !position.covers(at_least) {
            let why = format!("it is {position:?}, asked for was {at_least:?} or later");
            return Err(WireError::field("position", why).into());
        }
        Ok(position)
    }
}

/// A node of an earlier version has no such call; with certificates it has no row for who may.
fn is_unknown(status: &Status) -> bool {
    matches!(status.code(), Code::Unimplemented | Code::PermissionDenied)
}

fn request<T>(body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.set_timeout(ASK_MAX);
    request
}

fn client(channel: Channel) -> CompareClient<Channel> {
    CompareClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
