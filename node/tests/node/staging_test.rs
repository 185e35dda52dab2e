//! What a client can do that fills the memory of a node on its host as it likes.

use std::{cell::RefCell, collections::VecDeque, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use kvmesh_client::{
    convert::local::{Answer, Ask, PutPart, Request, Response},
    local::socket::Socket,
};
use kvmesh_directory::{NamespaceId, limits::PROTOCOL_VERSION};
use kvmesh_proto::v1::{
    self as wire, AckLevel, RefusalReason, put_decision::Verdict, put_response::Frame,
};
use rustix::io::{pread, pwrite};
use tokio::time::timeout;

use crate::{
    blocks_test::{Put, offered, payload},
    local_test::Host,
    region_test::{PATIENCE, until},
};

const MIB: usize = 1 << 20;

/// A connection for puts, without the client's care.
pub(crate) struct Door {
    socket: Socket,
    file: OwnedFd,
    bytes: u64,
    heard: RefCell<VecDeque<wire::PutResponse>>,
}

impl Door {
    pub(crate) async fn open(host: &Host) -> Result<Self, String> {
        let namespace = NamespaceId::try_from(&host.region.namespace[..]).unwrap();
        Self::of(host, namespace).await
    }

    async fn of(host: &Host, namespace: NamespaceId) -> Result<Self, String> {
        let socket = Socket::connect(&host.socket).unwrap();
        let hello = Ask::Hello {
            version: PROTOCOL_VERSION,
            namespace,
            puts: true,
        };
        send(&socket, hello).await;
        let mut packet = socket.receive().await.unwrap().unwrap();
        match Response::unpack(packet.bytes).unwrap().answer {
            Some(Answer::Welcome { staging, .. }) => Ok(Self {
                socket,
                file: packet.descriptors.pop().unwrap(),
                bytes: staging,
                heard: RefCell::default(),
            }),
            Some(Answer::Refused(why)) => Err(why),
            other => panic!("{other:?}"),
        }
    }

    fn fill(&self, at: u64, bytes: &[u8]) {
        assert_eq!(pwrite(&self.file, bytes, at).unwrap(), bytes.len());
    }

    pub(crate) async fn offer(&self, open: wire::PutOpen, offer: wire::PutOffer) {
        let part = PutPart {
            open: Some(open),
            offers: vec![offer],
            pieces: Vec::new(),
        };
        send(&self.socket, Ask::Put(part)).await;
    }

    /// Says where pieces of a block are.
    async fn pieces(&self, number: u64, at: &[u64]) {
        let part = PutPart {
            pieces: at.iter().map(|at| (number, *at)).collect(),
            ..PutPart::default()
        };
        send(&self.socket, Ask::Put(part)).await;
    }

    /// The next packet: its answers are kept for [`Self::ended`].
    async fn hear(&self) -> Result<Vec<u64>, tonic::Status> {
        let packet = timeout(PATIENCE, self.socket.receive()).await.unwrap();
        let packet = packet.unwrap().expect("it is open");
        match Response::unpack(packet.bytes).unwrap().answer {
            Some(Answer::Puts { answers, taken }) => {
                self.heard.borrow_mut().extend(answers);
                Ok(taken)
            }
            Some(Answer::Failed {
                code,
                message,
                details,
            }) => {
                let code = tonic::Code::from(code);
                Err(tonic::Status::with_details(code, message, details))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a piece is taken.
    async fn taken(&self) -> u64 {
        loop {
            match self.hear().await.unwrap()[..] {
                [] => {}
                [at] => return at,
                _ => panic!("one was given"),
            }
        }
    }

    /// How the put of a block ends.
    async fn ended(&self) -> Put {
        loop {
            let heard = self.heard.borrow_mut().pop_front();
            match heard.map(|answer| answer.frame.unwrap()) {
                Some(Frame::Ack(ack)) => return Put::Acked(ack),
                Some(Frame::Decision(no)) if no.verdict() == Verdict::Refused => {
                    return Put::Refused(no);
                }
                Some(Frame::Decision(_)) => {}
                None => match self.hear().await {
                    Ok(_) => {}
                    Err(status) => return Put::Failed(status),
                },
            }
        }
    }

    /// Puts a block of one piece that lies at `at`.
    async fn put(&self, host: &Host, number: u64, (bytes, at): (&Bytes, u64)) -> Put {
        let (offer, _) = offered(number, bytes);
        self.offer(host.region.opening(AckLevel::Memory), offer)
            .await;
        self.pieces(number, &[at]).await;
        self.ended().await
    }
}

async fn send(socket: &Socket, ask: Ask) {
    let request = Request {
        id: 1,
        ask: Some(ask),
        ..Request::default()
    };
    socket.send(&request.pack(), &[]).await.unwrap();
}

async fn one_node() -> Host {
    Host::start_with(1, |_, _| {}).await
}

#[tokio::test]
async fn what_is_written_after_a_put_changes_nothing() {
    let host = one_node().await;
    let door = Door::open(&host).await.unwrap();
    let bytes = payload(1, 2 * MIB + 100);
    let (offer, pieces) = offered(1, &bytes);
    door.offer(host.region.opening(AckLevel::Memory), offer)
        .await;
    // All pieces at one place, each once the one before is copied.
    for piece in &pieces {
        door.fill(0, piece);
        door.pieces(1, &[0]).await;
        assert_eq!(door.taken().await, 0);
        door.fill(0, &vec![0xee; MIB]);
    }
    door.ended().await.acked();
    assert_eq!(host.region.get(0, 1).await.unwrap(), bytes);
}

#[tokio::test]
async fn wrong_bytes_are_refused_however_they_come_to_be_wrong() {
    let host = one_node().await;
    let door = Door::open(&host).await.unwrap();
    let bytes = payload(1, MIB);
    let empty = door.put(&host, 1, (&bytes, 0)).await;
    assert_eq!(empty.reason(), RefusalReason::Checksum);
    assert_eq!(host.region.get(0, 1).await, None);
    // Somebody goes on writing while it is copied: it is kept as it should be, or not at all.
    door.fill(0, &bytes);
    let file = door.file.try_clone().unwrap();
    let right = bytes.clone();
    // It ends with the test, also when that fails.
    let going = Arc::new(());
    let until = Arc::downgrade(&going);
    let scribbling = tokio::task::spawn_blocking(move || {
        let last = MIB - 1;
        while until.strong_count() > 0 {
            pwrite(&file, &[!right[last]], last as u64).unwrap();
            pwrite(&file, &right[last..], last as u64).unwrap();
        }
    });
    let (mut kept, mut refused, mut number) = (0, 0, 10);
    while kept < 100 || refused < 100 {
        number += 1;
        let ended = door.put(&host, number, (&bytes, 0)).await;
        match ended {
            Put::Acked(_) => {
                kept += 1;
                assert_eq!(host.region.get(0, number).await.unwrap(), bytes);
            }
            refusal => {
                refused += 1;
                assert_eq!(refusal.reason(), RefusalReason::Checksum);
                assert_eq!(host.region.get(0, number).await, None);
            }
        }
        assert!(number < 20_000, "{kept} kept, {refused} refused");
    }
    drop(going);
    scribbling.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_as_over_grpc() {
    let host = one_node().await;
    let door = Door::open(&host).await.unwrap();
    let bytes = payload(1, 5_000);
    door.fill(0, &bytes);
    for at in [door.bytes - 4_999, door.bytes, u64::MAX] {
        let outside = door.put(&host, 1, (&bytes, at)).await;
        assert_eq!(outside.reason(), RefusalReason::Invalid, "{at}");
    }
    let (mut large, _) = offered(1, &bytes);
    large.meta.as_mut().unwrap().bytes = (256 << 20) + 1;
    door.offer(host.region.opening(AckLevel::Memory), large)
        .await;
    assert_eq!(door.ended().await.reason(), RefusalReason::TooLarge);
    let durable = offered(1, &bytes).0;
    door.offer(host.region.opening(AckLevel::Durable), durable)
        .await;
    assert_eq!(
        door.ended().await.reason(),
        RefusalReason::Invalid,
        "no disk"
    );
    // The connection is as good as before.
    door.put(&host, 1, (&bytes, 0)).await.acked();

    let stale = wire::PutOpen {
        ring_epoch: host.region.epoch - 1,
        ..host.region.opening(AckLevel::Memory)
    };
    let elsewhere = wire::PutOpen {
        namespace_id: Bytes::from_static(&[7; 16]),
        ..host.region.opening(AckLevel::Memory)
    };
    let fill = wire::PutOpen {
        fill: true,
        ..host.region.opening(AckLevel::Memory)
    };
    let failing = [
        (stale, tonic::Code::FailedPrecondition),
        (elsewhere, tonic::Code::InvalidArgument),
        (fill, tonic::Code::InvalidArgument),
    ];
    for (open, code) in failing {
        let door = Door::open(&host).await.unwrap();
        door.offer(open, offered(2, &bytes).0).await;
        match door.ended().await {
            Put::Failed(status) => {
                assert_eq!(status.code(), code, "{status:?}");
                let names_epoch = status.message().contains("epoch is 1");
                assert_eq!(names_epoch, code == tonic::Code::FailedPrecondition);
            }
            other => panic!("{other:?}"),
        }
        assert!(
            door.socket.receive().await.unwrap().is_none(),
            "it is closed"
        );
    }
    assert!(Door::of(&host, NamespaceId([0; 16])).await.is_err());
}

#[tokio::test]
async fn who_goes_in_the_middle_frees_everything() {
    // Room for one connection.
    let host = Host::start_with(1, |_, settings| settings.inflight_bytes_max = 2 << 20).await;
    let bytes = payload(1, MIB);
    let door = Door::open(&host).await.unwrap();
    let (offer, _) = offered(1, &bytes);
    door.offer(host.region.opening(AckLevel::Memory), offer)
        .await;
    assert!(Door::open(&host).await.is_err(), "the other has it");
    drop(door);
    // What it had, its place among the bytes in flight, and the name that it was putting.
    until(async || Door::open(&host).await.is_ok()).await;
    let all = payload(2, 2 * MIB);
    host.region
        .put_until_acked(0, 2, &all, AckLevel::Memory)
        .await;
    host.region
        .put_until_acked(0, 1, &bytes, AckLevel::Memory)
        .await;
    assert_eq!(host.region.get(0, 1).await.unwrap(), bytes);
}

#[tokio::test]
async fn nobody_sees_what_others_put() {
    let host = one_node().await;
    let door = Door::open(&host).await.unwrap();
    let ones = vec![1; MIB];
    door.fill(0, &ones);
    door.put(&host, 1, (&ones.into(), 0)).await.acked();
    let other = host.region.open(0, "other").await.unwrap();
    let other = NamespaceId::try_from(&other.namespace.unwrap().id[..]).unwrap();
    let zeros = |door: &Door| {
        let mut seen = vec![9; MIB];
        assert_eq!(pread(&door.file, &mut seen[..], 0).unwrap(), MIB);
        seen.iter().all(|byte| *byte == 0)
    };
    assert!(!zeros(&door));
    let beside = Door::of(&host, other).await.unwrap();
    assert!(zeros(&beside));
    drop(door);
    until(async || Door::of(&host, other).await.is_ok_and(|door| zeros(&door))).await;
}

#[tokio::test]
async fn who_sends_more_pieces_than_may_wait_is_left() {
    let host = one_node().await;
    let door = Door::open(&host).await.unwrap();
    let (offer, _) = offered(1, &payload(1, 5_000));
    door.offer(host.region.opening(AckLevel::Memory), offer)
        .await;
    // They are not wanted after the first, but nobody reads which are taken.
    let gone = async {
        loop {
            let part = PutPart {
                pieces: vec![(1, 0); 300],
                ..PutPart::default()
            };
            let request = Request {
                ask: Some(Ask::Put(part)),
                ..Request::default()
            };
            if door.socket.send(&request.pack(), &[]).await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    assert!(Door::open(&host).await.is_ok());
}
