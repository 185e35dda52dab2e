//! Every call of every service, as bytes: none is left out, since they are taken from the
//! descriptors, and one for which there is no request is an error.

use std::{fmt, time::Duration};

use anyhow::{Result, bail};
use bytes::{Buf, BufMut, Bytes};
use futures::stream;
use kvmesh_client::{ToWire, channel::Channel};
use kvmesh_directory::{Description, NamespaceId};
use kvmesh_proto::{FILE_DESCRIPTOR_SET, v1 as wire};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::timeout;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

/// Feeds do not end: what they have said by then is what they say.
const BOUND: Duration = Duration::from_secs(2);
/// Of one answer: more than there is to say.
const FRAMES_MAX: usize = 1_000;
const WIDTH: u32 = 32;

/// A call of one method.
#[derive(Clone)]
pub(super) struct Call {
    path: String,
    /// What is sent, message by message.
    messages: Vec<Bytes>,
    /// Who calls whom.
    between: String,
}

/// What came of a call.
pub(super) struct Answer {
    pub(super) call: Call,
    /// The call's code, where it was refused.
    pub(super) refused: Option<Code>,
    frames: Vec<Bytes>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.path, self.between)
    }
}

impl Answer {
    /// Messages, and what errors say.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().map(|frame| &frame[..])
    }
}

impl Call {
    pub(super) fn by(&self, who: &str, address: &str) -> Self {
        Self {
            between: format!("{who} at {address}"),
            ..self.clone()
        }
    }

    /// The method, as in `Cache/Get`.
    pub(super) fn method(&self) -> &str {
        self.path.trim_start_matches("/kvmesh.v1.")
    }

    /// Makes the call, and takes all that comes.
    pub(super) async fn make(self, channel: Channel) -> Answer {
        let (mut frames, mut refused) = (Vec::new(), None);
        if let Ok(Err(status)) = timeout(BOUND, self.take(channel, &mut frames)).await {
            frames.push(Bytes::from(status.message().to_owned()));
            frames.push(Bytes::copy_from_slice(status.details()));
            refused = Some(status.code());
        }
        Answer {
            call: self,
            refused,
            frames,
        }
    }

    async fn take(&self, channel: Channel, frames: &mut Vec<Bytes>) -> Result<(), Status> {
        let mut grpc = Grpc::new(channel);
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::try_from(&self.path);
        let path = path.map_err(|error| Status::internal(error.to_string()))?;
        let request = Request::new(stream::iter(self.messages.clone()));
        let mut answer = grpc.streaming(request, path, Raw).await?.into_inner();
        while let Some(frame) = answer.message().await? {
            frames.push(frame);
            if frames.len() >= FRAMES_MAX {
                break;
            }
        }
        Ok(())
    }
}

/// All calls that may say something of a namespace with this chain, whose home is the first
/// region; the second one is the caller's, which also says that it is the first.
pub(super) fn all(namespace: NamespaceId, hashes: &Bytes, regions: [&str; 2]) -> Result<Vec<Call>> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
    let wanted = Wanted {
        namespace: namespace.to_wire(),
        hashes: hashes.clone(),
        regions,
    };
    let mut calls = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "kvmesh.v1") {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}/{}", service.name(), method.name());
                for messages in wanted.requests(&name)? {
                    calls.push(Call {
                        path: format!("/kvmesh.v1.{name}"),
                        messages,
                        between: String::new(),
                    });
                }
            }
        }
    }
    Ok(calls)
}

/// The calls of `Cache` that are empty among [`all`], since they change something.
pub(super) fn changing(description: &Description, hashes: &Bytes) -> Vec<Call> {
    let call = |method: &str, message: Vec<u8>| Call {
        path: format!("/kvmesh.v1.Cache/{method}"),
        messages: vec![message.into()],
        between: String::new(),
    };
    let open = wire::OpenRequest {
        description: Some(description.to_wire()),
        ..Default::default()
    };
    let delete = wire::DeleteRequest {
        namespace_id: description.id().to_wire(),
        chain: Some(wire::Chain {
            hashes: hashes.clone(),
            width: WIDTH,
        }),
        ..Default::default()
    };
    vec![
        call("Open", open.encode_to_vec()),
        call("Delete", delete.encode_to_vec()),
    ]
}

/// What the caller knows, and wants more of.
struct Wanted<'a> {
    namespace: Bytes,
    hashes: Bytes,
    regions: [&'a str; 2],
}

fn one(message: impl Message) -> Vec<Vec<Bytes>> {
    vec![vec![message.encode_to_vec().into()]]
}

impl Wanted<'_> {
    fn requests(&self, method: &str) -> Result<Vec<Vec<Bytes>>> {
        let said = [self.regions[0], self.regions[1], ""];
        Ok(match method {
            "Cache/Get" => {
                let asks = said
                    .iter()
                    .flat_map(|from| [0, 1].map(|hop| self.get(from, hop)));
                asks.flat_map(one).collect()
            }
            "Cache/Put" => self.put(),
            "Feed/Follow" => {
                let follow = |region: &&str| {
                    let scopes = [wire::FeedScope::Mesh, wire::FeedScope::Region];
                    scopes.map(|scope| wire::FollowRequest {
                        scope: scope.into(),
                        follower_region: (*region).to_owned(),
                        ..Default::default()
                    })
                };
                said.iter().flat_map(follow).flat_map(one).collect()
            }
            "Compare/Digest" => {
                let digest = said.map(|region| wire::DigestRequest {
                    follower_region: region.to_owned(),
                    ..Default::default()
                });
                digest.into_iter().flat_map(one).collect()
            }
            "Compare/Objects" => {
                let objects = said.map(|region| wire::ObjectsRequest {
                    follower_region: region.to_owned(),
                    ..Default::default()
                });
                objects.into_iter().flat_map(one).collect()
            }
            "Compare/Blocks" => {
                let blocks = said.map(|region| wire::BlocksRequest {
                    follower_region: region.to_owned(),
                    ranges: (0..1_024).collect(),
                    ..Default::default()
                });
                blocks.into_iter().flat_map(one).collect()
            }
            _ => self.simple(method)?,
        })
    }

    fn simple(&self, method: &str) -> Result<Vec<Vec<Bytes>>> {
        let namespace_id = self.namespace.clone();
        let chains = vec![self.query()];
        Ok(match method {
            "Cache/Lookup" => one(wire::LookupRequest {
                namespace_id,
                chains,
                ..Default::default()
            }),
            "Cache/Locate" => one(wire::LocateRequest {
                namespace_id,
                chain: Some(self.chain()),
                ..Default::default()
            }),
            "Cache/Prefetch" => one(wire::PrefetchRequest {
                namespace_id,
                chains,
                deadline_ms: 1_000,
                ..Default::default()
            }),
            "Cache/Lease" => one(wire::LeaseRequest {
                namespace_id,
                chains,
                hold_ms: 1_000,
                ..Default::default()
            }),
            "Cache/Watch" => one(wire::WatchRequest {
                namespace_id,
                ..Default::default()
            }),
            "Cache/Report" => one(wire::ReportRequest {
                namespace_id,
                ..Default::default()
            }),
            "Replication/Confirm" => one(wire::ConfirmRequest {
                copies: vec![self.copy()],
                durable: false,
            }),
            "Link/Measure" => one(wire::MeasureRequest { bytes: 4_096 }),
            "RegionSync/Transferred" => one(wire::TransferredRequest {
                transfers: vec![wire::LinkTransfer {
                    region: self.regions[0].to_owned(),
                    ..Default::default()
                }],
            }),
            // What is asked of them needs nothing of the namespace; or it would change the mesh
            // that the test needs, and an empty one is told as much as any.
            "Cache/Open"
            | "Cache/Delete"
            | "Consensus/AppendEntries"
            | "Consensus/Vote"
            | "Consensus/InstallSnapshot"
            | "Consensus/Propose"
            | "Consensus/Attend"
            | "Consensus/Prepare"
            | "Feed/FollowMesh"
            | "Replication/Copy"
            | "Replication/ApplyRemote"
            | "RegionSync/Peers"
            | "RegionSync/Sync"
            | "Topology/InitRegion"
            | "Topology/Show"
            | "Topology/ListRegions"
            | "Topology/ListNamespaces"
            | "Topology/Stats"
            | "Topology/AtRisk"
            | "Topology/Join"
            | "Topology/Leave"
            | "Topology/Upgrade"
            | "Topology/SetPolicy"
            | "Topology/Raise" => vec![vec![Bytes::new()]],
            _ => bail!("nobody says what to ask of {method}: say it here"),
        })
    }

    fn chain(&self) -> wire::Chain {
        wire::Chain {
            hashes: self.hashes.clone(),
            width: WIDTH,
        }
    }

    fn query(&self) -> wire::ChainQuery {
        wire::ChainQuery {
            chain: Some(self.chain()),
            ..Default::default()
        }
    }

    fn get(&self, from: &str, hop: u32) -> wire::GetRequest {
        let blocks = self.hashes.len() as u32 / WIDTH;
        wire::GetRequest {
            namespace_id: self.namespace.clone(),
            chain: Some(self.chain()),
            hop,
            deadline_ms: 2_000,
            select: if hop == 1 {
                (0..blocks).collect()
            } else {
                Vec::new()
            },
            from_region: from.to_owned(),
            lossy: true,
            ..Default::default()
        }
    }

    /// Whether a block is there: it would be told `HAVE`, and its bytes are not sent.
    fn put(&self) -> Vec<Vec<Bytes>> {
        let open = wire::PutOpen {
            namespace_id: self.namespace.clone(),
            deadline_ms: 1_000,
            waits: true,
            ..Default::default()
        };
        let open = wire::PutRequest {
            frame: Some(wire::put_request::Frame::Open(open)),
        };
        vec![vec![open.encode_to_vec().into()]]
    }

    fn copy(&self) -> wire::ListedCopy {
        wire::ListedCopy {
            name: Some(wire::BlockName {
                namespace_id: self.namespace.clone(),
                hash: self.hashes.slice(..WIDTH as usize),
                part: Some(wire::Part::default()),
            }),
            copy: Some(wire::Copy {
                node: 1,
                incarnation: 1,
                copy: 1,
            }),
        }
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
