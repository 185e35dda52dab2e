//! Messages in two halves: the bytes of a piece go to the connection as they lie in memory,
//! behind a short head with the rest of their message.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use kvmesh_proto::v1::{
    CopyRequest, CopyResponse, GetRequest, GetResponse, PutRequest, PutResponse, put_request,
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::Status;

use super::PREFIX_BYTES;

/// Fields of `GetResponse`, `CopyRequest`, `PutRequest` and `PutPiece`.
const GET_PIECE: u32 = 2;
const COPY_PIECE: u32 = 3;
const PUT_PIECE: u32 = 3;
const PUT_PIECE_DATA: u32 = 2;

/// A message that may carry a piece.
pub trait Bulk: Send + 'static {
    /// The message with its gRPC prefix in two: everything up to the bytes of its piece, and
    /// these; they come last.
    fn halves(self) -> (Bytes, Bytes);
}

impl Bulk for GetResponse {
    fn halves(mut self) -> (Bytes, Bytes) {
        let piece = std::mem::take(&mut self.piece);
        (head(None, &self, GET_PIECE, piece.len()), piece)
    }
}

impl Bulk for CopyRequest {
    fn halves(mut self) -> (Bytes, Bytes) {
        let piece = std::mem::take(&mut self.piece);
        (head(None, &self, COPY_PIECE, piece.len()), piece)
    }
}

impl Bulk for PutRequest {
    fn halves(self) -> (Bytes, Bytes) {
        match self.frame {
            Some(put_request::Frame::Piece(mut piece)) => {
                let data = std::mem::take(&mut piece.data);
                (
                    head(Some(PUT_PIECE), &piece, PUT_PIECE_DATA, data.len()),
                    data,
                )
            }
            _ => (head(None, &self, 0, 0), Bytes::new()),
        }
    }
}

impl Bulk for GetRequest {
    fn halves(self) -> (Bytes, Bytes) {
        (head(None, &self, 0, 0), Bytes::new())
    }
}

impl Bulk for PutResponse {
    fn halves(self) -> (Bytes, Bytes) {
        (head(None, &self, 0, 0), Bytes::new())
    }
}

impl Bulk for CopyResponse {
    fn halves(self) -> (Bytes, Bytes) {
        (head(None, &self, 0, 0), Bytes::new())
    }
}

/// The prefix, `rest`, and tag and length of its last field, all in the field `within` of
/// another message, if it is in one. An empty field is left out.
fn head(within: Option<u32>, rest: &impl Message, field: u32, bytes: usize) -> Bytes {
    let tagged = |field, bytes: usize| key_len(field) + encoded_len_varint(bytes as u64);
    let own = rest.encoded_len()
        + match bytes {
            0 => 0,
            _ => tagged(field, bytes) + bytes,
        };
    let all = own + within.map_or(0, |within| tagged(within, own));
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + all - bytes);
    head.put_u8(0);
    // A piece and what goes with it are far below 4 GiB.
    head.put_u32(all as u32);
    if let Some(within) = within {
        encode_key(within, WireType::LengthDelimited, &mut head);
        encode_varint(own as u64, &mut head);
    }
    rest.encode_raw(&mut head);
    if bytes > 0 {
        encode_key(field, WireType::LengthDelimited, &mut head);
        encode_varint(bytes as u64, &mut head);
    }
    head.freeze()
}

/// The body of a call, from one end: two chunks a message, and an answer's trailers.
pub struct BulkBody<S> {
    messages: Pin<Box<S>>,
    chunks: VecDeque<Bytes>,
    /// Answers end with a status.
    answers: bool,
    over: bool,
}

impl<S> BulkBody<S> {
    /// What a caller sends.
    pub fn requests(messages: S) -> Self {
        Self::new(messages, false)
    }

    /// What a server answers.
    pub fn answers(messages: S) -> Self {
        Self::new(messages, true)
    }

    fn new(messages: S, answers: bool) -> Self {
        Self {
            messages: Box::pin(messages),
            chunks: VecDeque::with_capacity(2),
            answers,
            over: false,
        }
    }
}

impl<S, M> http_body::Body for BulkBody<S>
where
    S: Stream<Item = Result<M, Status>>,
    M: Bulk,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let next = ready!(self.messages.as_mut().poll_next(cx));
        let Some(Ok(message)) = next else {
            self.over = true;
            let failed = next.and_then(Result::err);
            return Poll::Ready(match self.answers {
                true => Some(trailers(failed).map(Frame::trailers)),
                false => failed.map(Err),
            });
        };
        let (head, piece) = message.halves();
        self.chunks.extend((!piece.is_empty()).then_some(piece));
        Poll::Ready(Some(Ok(Frame::data(head))))
    }
}

fn trailers(failed: Option<Status>) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    match failed {
        Some(status) => status.add_header(&mut trailers)?,
        None => {
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        }
    }
    Ok(trailers)
}

#[cfg(test)]
#[path = "write_test.rs"]
mod write_test;
