//! Answers that are not encoded are messages as any client reads them.

use kvmesh_proto::v1::{BlockEnd, BlockHeader, GetSummary};

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
        summary: None,
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

#[test]
fn a_split_message_is_the_message() {
    for answer in answers() {
        let bytes = answer.piece.clone();
        let (head, piece) = split(answer.clone());
        let message = [&head[PREFIX_BYTES..], &piece].concat();
        let prefix = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
        assert_eq!(head[..PREFIX_BYTES], prefix);
        assert_eq!(GetResponse::decode(&message[..]).unwrap(), answer);
        assert_eq!(
            piece.as_ptr(),
            bytes.as_ptr(),
            "no byte of a piece is copied"
        );
    }
}

#[tokio::test]
async fn a_body_ends_with_its_status() {
    use futures::StreamExt;
    for failed in [None, Some(Status::unavailable("going away"))] {
        let sent = answers().into_iter().map(Ok).chain(failed.clone().map(Err));
        let body = Answers {
            answers: Box::pin(futures::stream::iter(sent.collect::<Vec<_>>())),
            chunks: VecDeque::new(),
            over: false,
        };
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
