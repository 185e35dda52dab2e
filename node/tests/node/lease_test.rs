//! What is leased or being read is not reclaimed (invariant 9).

use bytes::Bytes;
use kvmesh_client::block::Block;
use kvmesh_proto::v1::{self as wire, AckLevel};
use tonic::{Code, Status};

use crate::{
    blocks_test::{hash, payload},
    region_test::{Region, until},
};

/// Four of these, and not five, fit half of a quarter of 2 MiB: one namespace's part.
const BYTES: usize = 60_000;

pub(crate) fn id(byte: u8) -> Bytes {
    vec![byte; 16].into()
}

pub(crate) fn keys(numbers: &[u64]) -> Vec<wire::BlockKey> {
    let key = |number: &u64| wire::BlockKey {
        // The canonical form of a hash of 16 bytes.
        hash: [&hash(*number)[..], &[0; 16]].concat().into(),
        part: Some(wire::Part::default()),
    };
    numbers.iter().map(key).collect()
}

impl Region {
    async fn lease(
        &self,
        change: impl FnOnce(&mut wire::LeaseRequest),
    ) -> Result<wire::LeaseResponse, Status> {
        let mut request = wire::LeaseRequest {
            namespace_id: self.namespace.clone(),
            ..Default::default()
        };
        change(&mut request);
        Ok(self.cache(0).lease(request).await?.into_inner())
    }

    async fn take(&self, name: u8, numbers: &[u64]) -> Result<wire::LeaseResponse, Status> {
        self.lease(|it| (it.id, it.keys) = (id(name), keys(numbers)))
            .await
    }

    async fn store(&self, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            let bytes = payload(number, BYTES);
            self.put_until_acked(0, number, &bytes, AckLevel::Memory)
                .await;
        }
    }
}

async fn small() -> Region {
    Region::start_with(1, |settings| settings.memory_bytes = 2 << 20).await
}

#[tokio::test]
async fn a_leased_block_is_not_evicted_until_it_is_released() {
    let region = small().await;
    region.store(0..4).await;
    let leased = region.take(1, &[0, 1, 2]).await.unwrap();
    assert_eq!((leased.blocks, leased.hold_ms), (3, 30_000));
    assert_eq!((leased.missing, leased.lease), (vec![], id(1)));
    region.store(10..50).await;
    for number in 0..3 {
        let bytes = region.get(0, number).await;
        assert_eq!(bytes.as_deref(), Some(&payload(number, BYTES)[..]));
    }
    assert_eq!(region.get(0, 3).await, None, "nobody leased it");
    let ended = region.lease(|it| it.release = id(1)).await.unwrap();
    assert_eq!(ended.blocks, 3);
    let again = region.lease(|it| it.release = id(1)).await.unwrap();
    assert_eq!(again.blocks, 0, "an unknown lease is no error");
    let renewed = region.lease(|it| it.renew = id(1)).await.unwrap_err();
    assert_eq!(renewed.code(), Code::NotFound);
    region.store(50..90).await;
    assert_eq!(region.get(0, 0).await, None);
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_renewing_goes_on() {
    let region = small().await;
    region.store(0..2).await;
    let take = |name, number, hold_ms| {
        region.lease(move |it| {
            (it.id, it.keys, it.hold_ms) = (id(name), keys(&[number]), hold_ms);
        })
    };
    take(1, 0, 1).await.unwrap();
    let long = take(2, 1, u32::MAX).await.unwrap();
    assert_eq!(long.hold_ms, 300_000, "at most five minutes");
    let renew = |name| {
        region
            .lease(move |it| (it.renew, it.hold_ms) = (id(name), 1 + 60_000 * u32::from(name == 2)))
    };
    until(async || renew(1).await.is_err()).await;
    assert_eq!(renew(2).await.unwrap().blocks, 1);
    // As many as it takes to fill the memory.
    let mut next = 10;
    while region.get(0, 0).await.is_some() {
        assert!(next < 500, "block 0 is not evicted");
        region.store(next..next + 40).await;
        next += 40;
    }
    assert!(region.get(0, 1).await.is_some());
}

#[tokio::test]
async fn too_much_is_leased_in_part_or_refused_with_a_hint() {
    let region = small().await;
    region.store(0..6).await;
    let some = region.take(1, &[0, 77, 1, 2, 3, 4]).await.unwrap();
    assert_eq!((some.blocks, some.missing), (4, vec![1, 5]));
    let none = region.take(2, &[5]).await.unwrap_err();
    assert_eq!(none.code(), Code::ResourceExhausted);
    assert!(kvmesh_client::status::retry_after(&none).is_some());
    let message = none.message();
    assert!(
        message.contains("the namespace's part of the memory for leased"),
        "{none}"
    );
    // What is leased already takes nothing more, and a miss is not an error.
    assert_eq!(region.take(2, &[0]).await.unwrap().blocks, 1);
    let missed = region.take(3, &[77]).await.unwrap();
    assert_eq!((missed.blocks, missed.missing), (0, vec![0]));
    type Spoil = fn(&mut wire::LeaseRequest);
    let wrong: [Spoil; 4] = [
        |_| {},
        |it| it.id = id(1).slice(1..),
        |it| (it.renew, it.release) = (id(1), id(1)),
        |it| it.chains = vec![wire::ChainQuery::default()],
    ];
    for spoil in wrong {
        let refused = region.lease(spoil).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn another_namespace_knows_nothing_of_a_lease() {
    let region = small().await;
    region.store(0..1).await;
    region.take(1, &[0]).await.unwrap();
    let other = region.open(0, "other").await.unwrap().namespace.unwrap().id;
    let from_there = |renew: Bytes| {
        let namespace = other.clone();
        region.lease(move |it| (it.namespace_id, it.renew) = (namespace, renew))
    };
    let known = from_there(id(1)).await.unwrap_err();
    let unknown = from_there(id(2)).await.unwrap_err();
    assert_eq!(known.code(), Code::NotFound);
    assert_eq!(known.message(), unknown.message());
    let released = region.lease(|it| (it.namespace_id, it.release) = (other.clone(), id(1)));
    assert_eq!(released.await.unwrap().blocks, 0);
    let renewed = region.lease(|it| it.renew = id(1)).await.unwrap();
    assert_eq!(renewed.blocks, 1, "it goes on");
}

#[tokio::test]
async fn a_delete_is_stronger_than_a_lease() {
    let region = small().await;
    region.store(0..2).await;
    region.take(1, &[0, 1]).await.unwrap();
    let delete = wire::DeleteRequest {
        namespace_id: region.namespace.clone(),
        chain: region.chain([0]),
        ..Default::default()
    };
    region.cache(0).delete(delete).await.unwrap();
    assert_eq!(region.get(0, 0).await, None);
    // The memory is given back as soon as the node has followed its own directory.
    until(async || region.lease(|it| it.renew = id(1)).await.unwrap().blocks == 1).await;
    assert!(region.get(0, 1).await.is_some());
}

#[tokio::test]
async fn a_block_that_is_being_read_is_read_to_its_end() {
    let region = Region::start_with(1, |settings| settings.memory_bytes = 96 << 20).await;
    // More than the windows and buffers between a node and a reader that does not read.
    let bytes = payload(1, 28 << 20);
    region.put_until_acked(0, 1, &bytes, AckLevel::Memory).await;
    let request = wire::GetRequest {
        namespace_id: region.namespace.clone(),
        chain: region.chain([1]),
        ..Default::default()
    };
    let mut frames = region.cache(0).get(request).await.unwrap().into_inner();
    let first = frames.message().await.unwrap().unwrap();
    let mut read = first.piece.to_vec();
    for number in 2..9 {
        let more = payload(number, 12 << 20);
        region
            .put_until_acked(0, number, &more, AckLevel::Memory)
            .await;
    }
    until(async || region.locate(0, 1).await.1.is_empty()).await;
    loop {
        let frame = frames.message().await.unwrap().unwrap();
        read.extend_from_slice(&frame.piece);
        if frame.end() != wire::BlockEnd::Unspecified {
            assert_eq!(frame.end(), wire::BlockEnd::Complete);
            break;
        }
    }
    let announced = first.header.unwrap().meta.unwrap().checksum;
    let whole = Block::of(&read.into(), 0).meta.checksum;
    assert_eq!(whole.0[..], announced[..]);
}
