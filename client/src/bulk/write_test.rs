//! Messages that are not encoded are messages as any peer reads them.

use kvmesh_proto::v1::{
    BlockEnd, BlockHeader, CopyHeader, GetRequest, GetSummary, PutOffer, PutOpen, PutPiece,
};

use futures::StreamExt;
use tonic::{Streaming, body::Body, codec::Codec};
use tonic_prost::ProstCodec;

use super::*;

fn answers() -> Vec<GetResponse> {
    let header = BlockHeader {
        index: 7,
        region: "us-east".to_owned(),
        ..Default::default()
    };
    let piece = |bytes: usize| GetResponse {
        header: Some(header.clone()),
        piece: (0..bytes).map(|at| at as u8).collect::<Vec<_>>().into(),
        end: BlockEnd::Complete.into(),
        encoding: 1,
        ..Default::default()
    };
    let summary = GetResponse {
        summary: Some(GetSummary {
            blocks: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    let sizes = [1, 127, 128, 16_383, 16_384, 1 << 20];
    let mut answers: Vec<GetResponse> = sizes.into_iter().map(piece).collect();
    answers.extend([GetResponse::default(), summary]);
    answers
}

fn puts() -> Vec<PutRequest> {
    let frames = [
        put_request::Frame::Open(PutOpen {
            namespace_id: vec![7; 16].into(),
            ..Default::default()
        }),
        put_request::Frame::Offer(PutOffer {
            id: 300,
            ..Default::default()
        }),
        put_request::Frame::Piece(PutPiece {
            id: 0,
            data: vec![1; 1 << 20].into(),
        }),
        put_request::Frame::Piece(PutPiece {
            id: u64::MAX,
            data: vec![2; 127].into(),
        }),
        put_request::Frame::Piece(PutPiece::default()),
    ];
    let mut puts: Vec<_> = frames
        .into_iter()
        .map(|frame| PutRequest { frame: Some(frame) })
        .collect();
    puts.push(PutRequest::default());
    puts
}

fn copies() -> Vec<CopyRequest> {
    let header = Some(CopyHeader {
        durable: true,
        ..Default::default()
    });
    let piece = |bytes: usize| CopyRequest {
        id: 9,
        header: header.clone(),
        piece: vec![3; bytes].into(),
    };
    [0, 1, 127, 128, 1 << 20].into_iter().map(piece).collect()
}

fn is_the_message<M>(message: M, bytes: &Bytes)
where
    M: Bulk + Message + Default + Clone + PartialEq + std::fmt::Debug,
{
    let (head, piece) = message.clone().halves();
    let whole = [&head[PREFIX_BYTES..], &piece].concat();
    let prefix = [&[0][..], &(whole.len() as u32).to_be_bytes()].concat();
    assert_eq!(head[..PREFIX_BYTES], prefix);
    assert_eq!(M::decode(&whole[..]).unwrap(), message);
    assert_eq!(piece.len(), bytes.len());
    if !piece.is_empty() {
        let (got, want) = (piece.as_ptr(), bytes.as_ptr());
        assert_eq!(got, want, "no byte of a piece is copied");
    }
}

#[test]
fn two_halves_are_the_message() {
    for answer in answers() {
        let bytes = answer.piece.clone();
        is_the_message(answer, &bytes);
    }
    for copy in copies() {
        let bytes = copy.piece.clone();
        is_the_message(copy, &bytes);
    }
    for put in puts() {
        let bytes = match &put.frame {
            Some(put_request::Frame::Piece(piece)) => piece.data.clone(),
            _ => Bytes::new(),
        };
        is_the_message(put, &bytes);
    }
}

#[tokio::test]
async fn a_body_ends_with_its_status() {
    for failed in [None, Some(Status::unavailable("going away"))] {
        let sent = answers().into_iter().map(Ok).chain(failed.clone().map(Err));
        let body = BulkBody::answers(futures::stream::iter(sent.collect::<Vec<_>>()));
        let decoder = ProstCodec::<GetRequest, GetResponse>::default().decoder();
        let status = http::StatusCode::OK;
        let read = Streaming::new_response(decoder, Body::new(body), status, None, None);
        let mut read: Vec<_> = read.collect().await;
        if let Some(failed) = failed {
            let got = read.pop().unwrap().unwrap_err();
            assert_eq!(
                (got.code(), got.message()),
                (failed.code(), failed.message())
            );
        }
        let read: Vec<GetResponse> = read.into_iter().map(Result::unwrap).collect();
        assert_eq!(read, answers());
    }
}
