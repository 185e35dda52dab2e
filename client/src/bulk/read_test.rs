//! However frames are cut, the messages are those that were sent.

use std::convert::Infallible;

use futures::{StreamExt, stream};
use kvmesh_proto::v1::{GetResponse, PutOffer, PutPiece, PutRequest, put_request};
use proptest::{collection::vec, prelude::*};
use tonic::Code;

use super::*;
use crate::bulk::Bulk;

fn put(frame: put_request::Frame) -> PutRequest {
    PutRequest { frame: Some(frame) }
}

fn piece(id: u64, bytes: usize) -> PutRequest {
    let data = (0..bytes).map(|at| at as u8).collect::<Vec<_>>().into();
    put(put_request::Frame::Piece(PutPiece { id, data }))
}

fn offer(id: u64) -> PutRequest {
    put(put_request::Frame::Offer(PutOffer {
        id,
        hash: vec![7; 32].into(),
        ..Default::default()
    }))
}

fn wire(messages: &[PutRequest]) -> Vec<u8> {
    let halves = messages.iter().cloned().map(Bulk::halves);
    halves
        .flat_map(|(head, piece)| [head, piece].concat())
        .collect()
}

fn body(frames: Vec<Bytes>) -> Body {
    struct Sent(VecDeque<Bytes>);
    impl http_body::Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }
    Body::new(Sent(frames.into()))
}

async fn read(frames: Vec<Bytes>) -> (Vec<PutRequest>, Option<Status>) {
    let mut messages: Streaming<PutRequest> = read_requests(body(frames));
    let mut read = Vec::new();
    loop {
        match messages.message().await {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (read, None),
            Err(status) => return (read, Some(status)),
        }
    }
}

fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut frames = Vec::new();
    for cut in cuts {
        frames.push(rest.split_to((*cut).min(rest.len())));
    }
    frames.push(rest);
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cut_reads_the_same(
        sizes in vec(prop_oneof![0usize..200, 60_000usize..140_000], 0..6),
        cuts in vec(prop_oneof![0usize..12, 0usize..200_000], 0..40),
    ) {
        let mut sent: Vec<_> = sizes.iter().zip(0..).map(|(bytes, id)| piece(id, *bytes)).collect();
        sent.insert(0, offer(9));
        sent.push(offer(10));
        let frames = cut(&wire(&sent), &cuts);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (got, failed) = runtime.block_on(read(frames));
        prop_assert!(failed.is_none(), "{failed:?}");
        prop_assert_eq!(got, sent);
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_read_as_well() {
    let sent = vec![offer(1), piece(1, 300), piece(1, 0), offer(2)];
    let bytes = wire(&sent);
    let frames = bytes.chunks(1).map(Bytes::copy_from_slice).collect();
    let (got, failed) = read(frames).await;
    assert_eq!((got, failed.is_none()), (sent, true));
}

#[tokio::test]
async fn a_piece_that_came_in_one_frame_is_not_copied_and_a_short_field_is() {
    let (head, data) = piece(1, 1 << 20).halves();
    let (offered, _) = offer(3).halves();
    let (offer_in, piece_in) = (offered.as_ptr_range(), data.as_ptr());
    let (got, _) = read(vec![offered.clone(), head, data]).await;
    let [
        Some(put_request::Frame::Offer(offer)),
        Some(put_request::Frame::Piece(piece)),
    ] = [got[0].frame.clone(), got[1].frame.clone()]
    else {
        panic!("{got:?}");
    };
    assert_eq!(piece.data.as_ptr(), piece_in);
    assert!(
        !offer_in.contains(&offer.hash.as_ptr()),
        "it would keep its frame in memory"
    );
}

#[tokio::test]
async fn what_came_before_a_damaged_message_is_read() {
    let good = wire(&[offer(1), piece(1, 10)]);
    for (bad, code) in [
        // Compressed.
        (vec![1, 0, 0, 0, 1, 0], Code::Unimplemented),
        // Longer than is allowed.
        (vec![0, 0xff, 0, 0, 0], Code::OutOfRange),
        // A field that ends beyond its message.
        (vec![0, 0, 0, 0, 2, 0x1a, 0x7f], Code::Internal),
        // The end in its middle.
        (vec![0, 0, 0, 0, 9, 1], Code::Internal),
    ] {
        let bytes = [&good[..], &bad].concat();
        for frames in [
            vec![Bytes::from(bytes.clone())],
            cut(&bytes, &[good.len() + 3]),
        ] {
            let (got, failed) = read(frames).await;
            assert_eq!(got.len(), 2, "{bad:?}");
            assert_eq!(failed.map(|status| status.code()), Some(code), "{bad:?}");
        }
    }
}

#[tokio::test]
async fn few_messages_are_decoded_ahead() {
    let sent = vec![offer(1); 10 * DECODED_MAX];
    let (mut unpacked, ready) = unpacked::<PutRequest>(body(vec![wire(&sent).into()]));
    let mut frames = stream::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut unpacked), cx));
    frames.next().await.unwrap().unwrap();
    assert_eq!(ready.0.lock().unwrap().len(), DECODED_MAX);
}

#[tokio::test]
async fn an_answer_ends_with_its_status() {
    let answers = [GetResponse::default(), GetResponse::default()].map(Ok);
    let failed = Status::unavailable("going away");
    let sent = stream::iter(answers.into_iter().chain([Err(failed)]));
    let body = Body::new(crate::bulk::BulkBody::answers(sent));
    let mut read: Streaming<GetResponse> = read_answers(http::Response::new(body));
    for _ in 0..2 {
        assert!(read.message().await.unwrap().is_some());
    }
    let status = read.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "going away")
    );
}
