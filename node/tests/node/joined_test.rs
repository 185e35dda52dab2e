//! Two puts of the same content: what one of them was told holds, whatever becomes of the other.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, future::join};
use kvmesh_client::{BlockMeta, FromWire, ToWire, block::Block};
use kvmesh_directory::{
    BlockHash, BlockName, ChangeKind, Command, Copy, Incarnation, NamespaceId, NodeId, Part,
    command::{BlockChange, Claim, Deletion},
    words::Hlc,
};
use kvmesh_process::{
    Environment,
    server::{self, Routes},
};
use kvmesh_proto::v1::{
    self as wire, AckLevel,
    replication_client::ReplicationClient,
    replication_server::{Replication, ReplicationServer},
};
use tokio::{sync::Notify, time::timeout};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    blocks_test::{Put, hash, offered, payload},
    region_test::{PATIENCE, Region, until},
};

/// The other owner of every block: it says nothing until it is told to, and then refuses.
#[derive(Clone, Default)]
struct Unwilling {
    asked: Arc<Notify>,
    refuse: Arc<Notify>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Replication for Unwilling {
    type CopyStream = Answers<wire::CopyResponse>;

    async fn copy(
        &self,
        _: Request<Streaming<wire::CopyRequest>>,
    ) -> Result<Response<Self::CopyStream>, Status> {
        self.asked.notify_one();
        self.refuse.notified().await;
        Err(Status::resource_exhausted("full"))
    }

    async fn confirm(
        &self,
        _: Request<wire::ConfirmRequest>,
    ) -> Result<Response<wire::ConfirmResponse>, Status> {
        Err(Status::unavailable("no"))
    }

    async fn apply_remote(
        &self,
        _: Request<wire::ApplyRemoteRequest>,
    ) -> Result<Response<wire::ApplyRemoteResponse>, Status> {
        Err(Status::unavailable("no"))
    }
}

/// A region of one real node and one that is [`Unwilling`].
async fn region_of(unwilling: &Unwilling) -> Region {
    let mut region = Region::start_with(1, |settings| {
        settings.dead_after_ms = 600_000;
        settings.suspect_after_ms = 300_000;
        settings.owner_timeout_ms = 60_000;
        settings.put_deadline_ms = 60_000;
    })
    .await;
    let (address, incoming) = server::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let routes = Routes::new(ReplicationServer::new(unwilling.clone()));
    let environment = Environment::real("us-east/node-2");
    region.beside(|stop| async move {
        let served = server::serve(routes, environment, incoming, stop, Duration::ZERO);
        served.await.unwrap();
    });
    let member = wire::Member {
        node: 2,
        address: address.to_string(),
        weight: 1,
        ..Default::default()
    };
    let request = wire::JoinRequest {
        member: Some(member),
    };
    let joined = region.topology(0).join(request).await.unwrap();
    region.epoch = joined.into_inner().ring_epoch;
    let begins = Command::BeginIncarnation {
        node: NodeId(2),
        nonce: 1,
        store: 0,
        level: kvmesh_directory::limits::FEATURE_LEVEL,
    };
    region.propose(0, &begins).await;
    region
}

/// A copy of a block from another owner, which is about to claim it.
async fn copied(region: &Region, number: u64, bytes: &Bytes, put_hlc: Hlc) -> Copy {
    let mut block = Block::of(bytes, 0);
    block.meta.put_hlc = put_hlc;
    let header = wire::CopyHeader {
        name: Some(name(region, number).to_wire()),
        meta: Some(block.meta.to_wire()),
        durable: false,
    };
    let request = wire::CopyRequest {
        id: 1,
        header: Some(header),
        piece: block.pieces[0].clone(),
    };
    let mut client = ReplicationClient::new(region.channel(0));
    let answers = client.copy(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    Copy::from_wire(answer.copy.unwrap()).unwrap()
}

fn name(region: &Region, number: u64) -> BlockName {
    BlockName {
        namespace: NamespaceId::try_from(&region.namespace[..]).unwrap(),
        hash: BlockHash::from_engine(&hash(number)).unwrap(),
        part: Part::default(),
    }
}

/// The other owner's put is committed: with that it is acknowledged.
async fn claimed(region: &Region, number: u64, bytes: &Bytes, copy: Copy, put_hlc: Hlc) {
    let claim = Claim {
        put_hlc,
        checksum: BlockMeta::of(bytes, 0).checksum,
        bytes: u32::try_from(bytes.len()).unwrap(),
        depth: 0,
        replicas: 1,
        copies: vec![copy],
    };
    let change = BlockChange {
        name: name(region, number),
        kind: ChangeKind::Claim(claim),
    };
    region.propose(0, &Command::Blocks(vec![change])).await;
}

#[tokio::test]
async fn a_refused_put_leaves_the_copy_that_another_put_joined() {
    let unwilling = Unwilling::default();
    let region = region_of(&unwilling).await;
    let bytes = payload(1, 3_000);
    let clock = Hlc(1 << 60);
    let open = wire::PutOpen {
        fill: true,
        ..region.opening(AckLevel::Replicated)
    };
    let (mut offer, pieces) = offered(1, &bytes);
    offer.meta.as_mut().unwrap().put_hlc = clock.0;
    let first = region.put_raw(0, open, offer, pieces);
    let second = async {
        let asked = timeout(PATIENCE, unwilling.asked.notified()).await;
        asked.expect("the first put has its own copy, and wants another one");
        let copy = copied(&region, 1, &bytes, clock).await;
        unwilling.refuse.notify_one();
        copy
    };
    let (first, copy) = join(first, second).await;
    assert!(matches!(first, Put::Refused(_)), "{first:?}");
    claimed(&region, 1, &bytes, copy, clock).await;
    assert_eq!(region.get(0, 1).await.as_deref(), Some(&bytes[..]));
}

#[tokio::test]
async fn a_delete_of_before_leaves_the_copy_of_a_later_put_also_when_it_is_offered_again() {
    let region = Region::start(1).await;
    let (bytes, large) = (payload(1, 3_000), payload(2, 1 << 20));
    let first = region.put_until_acked(0, 1, &bytes, AckLevel::Memory).await;
    let last = region.put_until_acked(0, 2, &large, AckLevel::Memory).await;
    let hlc = Hlc(first.put_hlc.max(last.put_hlc));
    let later = Hlc(hlc.0 + 1);
    let copy = copied(&region, 1, &bytes, later).await;
    let used = region.stats(0).await.memory_used;
    let (one, two) = (name(&region, 1), name(&region, 2));
    let deletion = Deletion {
        namespace: one.namespace,
        keys: vec![one.key(), two.key()],
        hlc,
    };
    region.propose(0, &Command::Delete(deletion)).await;
    // The node has let go what it was to.
    until(async || region.stats(0).await.memory_used + (1 << 20) <= used).await;
    assert_eq!(region.get(0, 1).await, None, "deleted");
    claimed(&region, 1, &bytes, copy, later).await;
    assert_eq!(region.get(0, 1).await.as_deref(), Some(&bytes[..]));
    let began = region.incarnation(0).await;
    let dead = Command::MarkDead {
        node: NodeId(1),
        incarnation: Incarnation(began),
    };
    region.propose(0, &dead).await;
    until(async || region.incarnation(0).await > began).await;
    until(async || region.get(0, 1).await.is_some_and(|got| got == bytes)).await;
}

#[tokio::test]
async fn a_copy_is_offered_again_with_the_clock_that_its_block_had() {
    let region = Region::start(1).await;
    let bytes = payload(1, 3_000);
    // Its own put was later than the one by which the block is known.
    let copy = copied(&region, 1, &bytes, Hlc(1 << 60)).await;
    claimed(&region, 1, &bytes, copy, Hlc(1 << 59)).await;
    assert_eq!(region.get(0, 1).await.as_deref(), Some(&bytes[..]));
    let began = region.incarnation(0).await;
    let (node, incarnation) = (NodeId(1), Incarnation(began));
    let dead = Command::MarkDead { node, incarnation };
    region.propose(0, &dead).await;
    until(async || region.incarnation(0).await > began).await;
    until(async || region.get(0, 1).await.is_some()).await;
    let again = region.put(0, 1, &bytes, AckLevel::Memory).await.acked();
    assert_eq!((again.existed, again.put_hlc), (true, 1 << 59));
}
