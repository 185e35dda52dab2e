//! `Compare`: what this region has for another one, in short, range by range, and all of its
//! namespaces and deleted names.
//!
//! A directory is frozen, which costs a few pointers, and walked bit by bit: nothing that goes
//! on waits for it. One walk at a time, and it takes its time.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    Problem, ToWire,
    channel::Link,
    convert::{
        self,
        mesh::{MeshPart, pack_digest},
        snapshot::CHUNK_RECORDS_MAX,
    },
};
use kvmesh_directory::{
    BlockName, FeedPosition,
    limits::DIGEST_RANGES,
    view::{Digest, MeshWalk, ObjectsDigest, range_of},
};
use kvmesh_process::access;
use kvmesh_proto::v1::{self as wire, compare_server::Compare};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::feed::{STUCK_AFTER, follower_of, mesh};
use crate::{Settings, node::Node};

/// Walks at a time; who comes meanwhile is told to come again.
const WALKS_MAX: usize = 1;
/// Blocks that are looked at before others may run.
const LOOK_AT: usize = 4_096;
/// Blocks that a walk looks at in a second: about a quarter of a core.
const BLOCKS_PER_SECOND: u64 = 2_000_000;
/// When to come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Frames that wait for a slow caller.
const FRAMES_MAX: usize = 4;
/// A walk for one caller takes no longer, whatever waits.
const WALK_MAX: Duration = Duration::from_secs(120);

pub(super) struct CompareService {
    node: Arc<Node>,
    room: Arc<Semaphore>,
}

/// One pass over a frozen directory, at its own pace.
struct Walk {
    frozen: MeshWalk,
    position: FeedPosition,
    pace: Pace,
    _turn: OwnedSemaphorePermit,
}

/// No more is looked at in a second than may be.
struct Pace {
    begun: Instant,
    looked_at: u64,
}

impl Pace {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            looked_at: 0,
        }
    }

    /// Waits until so many more may be looked at.
    async fn look_at(&mut self, more: usize) {
        let due = Duration::from_micros(self.looked_at * 1_000_000 / BLOCKS_PER_SECOND);
        sleep_until(self.begun + due).await;
        self.looked_at += more as u64;
    }
}

impl Walk {
    /// The next blocks that the follower may know of; none at the end.
    async fn next(&mut self) -> Option<Vec<(BlockName, u32)>> {
        self.pace.look_at(LOOK_AT).await;
        self.frozen.step(LOOK_AT)
    }

    async fn objects(&mut self) -> ObjectsDigest {
        let mut digest = ObjectsDigest::default();
        for namespace in self.frozen.namespaces() {
            digest.add_namespace(namespace);
        }
        for (at, (name, tombstone)) in self.frozen.tombstones().enumerate() {
            if at % LOOK_AT == 0 {
                self.pace.look_at(LOOK_AT).await;
            }
            digest.add_tombstone(&name, tombstone);
        }
        digest
    }

    /// Sends namespaces and deleted names; an error: the caller is gone.
    async fn send_objects(
        &self,
        frames: &mpsc::Sender<Result<wire::MeshSnapshot, Status>>,
    ) -> Result<(), ()> {
        let send = async |part: MeshPart| {
            let sent = frames.send_timeout(Ok(part.to_wire()), STUCK_AFTER).await;
            sent.map_err(|_| ())
        };
        let namespaces = self.frozen.namespaces().cloned();
        for part in mesh::parts(&self.position, namespaces, |part| &mut part.namespaces) {
            send(part).await?;
        }
        let tombstones = self.frozen.tombstones();
        for part in mesh::parts(&self.position, tombstones, |part| &mut part.tombstones) {
            send(part).await?;
        }
        send(mesh::last(self.position.clone())).await
    }

    async fn digest(&mut self) -> Digest {
        let mut digest = Digest::default();
        while let Some(blocks) = self.next().await {
            for (name, bytes) in blocks {
                digest.add(name.tag(), bytes);
            }
        }
        digest
    }

    /// Sends the blocks of the ranges that are wanted; an error: the caller is gone.
    async fn send(
        &mut self,
        wanted: &[bool],
        frames: &mpsc::Sender<Result<wire::BlocksFrame, Status>>,
    ) -> Result<(), ()> {
        let mut found = Vec::new();
        loop {
            let next = self.next().await;
            let last = next.is_none();
            let is_wanted = |(name, _): &(BlockName, u32)| wanted[range_of(name.tag())];
            found.extend(next.into_iter().flatten().filter(is_wanted));
            while found.len() >= CHUNK_RECORDS_MAX || last {
                let rest = found.split_off(found.len().min(CHUNK_RECORDS_MAX));
                let ends = last && rest.is_empty();
                let frame = wire::BlocksFrame {
                    position: Some(self.position.to_wire()),
                    blocks: convert::each(&found),
                    last: ends,
                };
                let sent = frames.send_timeout(Ok(frame), STUCK_AFTER).await;
                sent.map_err(|_| ())?;
                found = rest;
                if ends {
                    return Ok(());
                }
            }
        }
    }
}

impl CompareService {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let room = Arc::new(Semaphore::new(WALKS_MAX));
        Self { node, room }
    }

    /// Freezes what a follower is to have, at a position that it names or a later one.
    async fn walk(
        &self,
        link: Option<Link>,
        follower: String,
        at_least: Option<wire::FeedPosition>,
    ) -> Result<Walk, Problem> {
        let follower = follower_of(follower, link.as_ref())?;
        let own = self.node.position()?;
        let at_least: Option<FeedPosition> = convert::optional(at_least)?;
        if let Some(at_least) = at_least.filter(|at| at.log_incarnation == own.log_incarnation) {
            let wait = Settings::millis(self.node.settings.now().epoch_wait_ms);
            if !self.node.applied(at_least.index, wait).await {
                let what = "this node has not reached the caller's position: ask another one";
                return Err(Problem::unavailable(what));
            }
        }
        let turn = Arc::clone(&self.room).try_acquire_owned();
        let turn = turn.map_err(|_| Problem::Exhausted {
            limit: "the bound of one comparison at a time".to_owned(),
            retry_after: RETRY_AFTER,
        })?;
        let frozen = self.node.directory.freeze();
        Ok(Walk {
            position: frozen.position().ok_or(Problem::NotInitialised)?,
            frozen: MeshWalk::new(frozen, follower),
            pace: Pace::new(),
            _turn: turn,
        })
    }

    /// Streams what is sent, until all is, the caller goes, or this node ends. A caller that
    /// gets no last frame knows that it is not whole.
    fn stream<T: Send + 'static, F>(
        &self,
        send: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> ReceiverStream<Result<T, Status>>
    where
        F: Future<Output = Result<(), ()>> + Send + 'static,
    {
        let (frames, stream) = mpsc::channel(FRAMES_MAX);
        let (stop, closed) = (self.node.stop.clone(), frames.clone());
        let sending = timeout(WALK_MAX, send(frames));
        self.node.tasks.spawn(async move {
            tokio::select! {
                _ = sending => {}
                () = closed.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        ReceiverStream::new(stream)
    }
}

#[tonic::async_trait]
impl Compare for CompareService {
    type BlocksStream = ReceiverStream<Result<wire::BlocksFrame, Status>>;
    type ObjectsStream = ReceiverStream<Result<wire::MeshSnapshot, Status>>;

    async fn digest(
        &self,
        request: Request<wire::DigestRequest>,
    ) -> Result<Response<wire::DigestResponse>, Status> {
        let link = access::link_of(&request).cloned();
        let asked = request.into_inner();
        let walk = self.walk(link, asked.follower_region, asked.at_least);
        let mut walk = walk.await?;
        let counted = timeout(WALK_MAX, async {
            (walk.objects().await, walk.digest().await)
        });
        let counted = counted.await;
        let (objects, digest) =
            counted.map_err(|_| Problem::OutOfTime("counting the region's blocks"))?;
        Ok(Response::new(wire::DigestResponse {
            position: Some(walk.position.to_wire()),
            ranges: pack_digest(&digest),
            objects: Some(objects.value()),
        }))
    }

    async fn blocks(
        &self,
        request: Request<wire::BlocksRequest>,
    ) -> Result<Response<Self::BlocksStream>, Status> {
        let link = access::link_of(&request).cloned();
        let asked = request.into_inner();
        let mut wanted = vec![false; DIGEST_RANGES];
        for range in asked.ranges {
            let wanted = usize::try_from(range)
                .ok()
                .and_then(|at| wanted.get_mut(at));
            let why =
                || Problem::invalid("ranges", format!("{range} is not under {DIGEST_RANGES}"));
            *wanted.ok_or_else(why)? = true;
        }
        let walk = self.walk(link, asked.follower_region, asked.at_least);
        let mut walk = walk.await?;
        let send = async move |frames| walk.send(&wanted, &frames).await;
        Ok(Response::new(self.stream(send)))
    }

    async fn objects(
        &self,
        request: Request<wire::ObjectsRequest>,
    ) -> Result<Response<Self::ObjectsStream>, Status> {
        let link = access::link_of(&request).cloned();
        let asked = request.into_inner();
        let walk = self.walk(link, asked.follower_region, asked.at_least);
        let walk = walk.await?;
        let send = async move |frames| walk.send_objects(&frames).await;
        Ok(Response::new(self.stream(send)))
    }
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{
        BlockHash, BlockKey, ChangeKind, Checksum, Command, Copy, CopyNumber, Description,
        DirectoryState, Hlc, Incarnation, LogIncarnation, Member, Namespace, NodeId, Part, Policy,
        command::{BlockChange, Claim},
        limits::FEATURE_LEVEL,
    };

    use super::*;

    fn commands() -> Vec<Command> {
        let description = Description {
            model: "m".to_owned(),
            dtype: "bf16".to_owned(),
            layout: "l".to_owned(),
            block_tokens: 16,
            hash_width: 32,
            short_hashes: false,
            shard_count: 1,
            group_count: 1,
            tenant: String::new(),
            salt: Vec::new(),
            residency: Vec::new(),
        };
        let node = NodeId(1);
        vec![
            Command::InitRegion {
                region: "us".parse().unwrap(),
                log_incarnation: LogIncarnation(1),
                members: vec![Member {
                    node,
                    address: "127.0.0.1:1".to_owned(),
                    zone: String::new(),
                    weight: 1,
                    voter: true,
                }],
                feature_level: FEATURE_LEVEL,
            },
            Command::BeginIncarnation {
                node,
                nonce: 1,
                store: 0,
                level: FEATURE_LEVEL,
            },
            Command::OpenNamespace(Namespace {
                id: description.id(),
                name: "m".to_owned(),
                description,
                policy: Policy::default(),
                generation: Hlc(0),
                policy_hlc: Hlc(1),
                policy_region: "us".parse().unwrap(),
            }),
        ]
    }

    fn blocks(count: u64) -> DirectoryState {
        let mut state = DirectoryState::empty();
        let begin = commands();
        let namespace = match &begin[2] {
            Command::OpenNamespace(namespace) => namespace.id,
            other => panic!("{other:?}"),
        };
        let claim = |number: u64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            let (hash, part) = (BlockHash(hash), Part::default());
            BlockChange {
                name: BlockName::new(namespace, BlockKey { hash, part }),
                kind: ChangeKind::Claim(Claim {
                    put_hlc: Hlc(10),
                    checksum: Checksum([7; 16]),
                    bytes: 9,
                    depth: 0,
                    replicas: 1,
                    copies: vec![Copy {
                        node: NodeId(1),
                        incarnation: Incarnation(1),
                        copy: CopyNumber(number + 1),
                    }],
                }),
            }
        };
        let claims = Command::Blocks((0..count).map(claim).collect());
        for (index, command) in begin.iter().chain([&claims]).enumerate() {
            state.apply(index as u64 + 1, command);
        }
        assert_eq!(state.stats().blocks, count);
        state
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_takes_its_time() {
        let count = 3 * LOOK_AT as u64;
        let state = blocks(count);
        let room = Arc::new(Semaphore::new(WALKS_MAX));
        let mut walk = Walk {
            position: state.position().unwrap(),
            frozen: MeshWalk::new(state, "eu".parse().unwrap()),
            pace: Pace::new(),
            _turn: room.try_acquire_owned().unwrap(),
        };
        assert_eq!(walk.digest().await.total().blocks, count);
        let least = Duration::from_micros(count * 1_000_000 / BLOCKS_PER_SECOND);
        let took = walk.pace.begun.elapsed();
        assert!(took >= least, "{took:?}");
    }
}
