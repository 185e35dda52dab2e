//! Messages as they come, decoded from HTTP/2's frames where these lie.
//!
//! tonic's [`Streaming`] stays what servers and clients know: it is given a body in which each
//! message is an empty one, and a decoder that hands out the message that was decoded already.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use kvmesh_directory::limits::MESSAGE_BYTES_MAX;
use prost::Message;
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
};

use super::PREFIX_BYTES;

/// Shorter fields are copied out of their frame, so that they do not keep it in memory.
const SHARED_BYTES_MIN: usize = 64 << 10;
/// Messages that are decoded before the first of them is taken.
const DECODED_MAX: usize = 64;
/// A message that is there already.
const EMPTY: &[u8; PREFIX_BYTES] = &[0; PREFIX_BYTES];

/// The messages of a call that came in.
pub fn read_requests<M: Message + Default + 'static>(body: Body) -> Streaming<M> {
    let (unpacked, ready) = unpacked(body);
    Streaming::new_request(ready, unpacked, None, Some(MESSAGE_BYTES_MAX))
}

/// The messages of an answer.
pub fn read_answers<M: Message + Default + 'static>(answer: http::Response<Body>) -> Streaming<M> {
    let (parts, body) = answer.into_parts();
    let (unpacked, ready) = unpacked(body);
    match Status::from_header_map(&parts.headers) {
        // Nothing follows.
        Some(_) => Streaming::new_empty(ready, unpacked),
        None => {
            let status = parts.status;
            Streaming::new_response(ready, unpacked, status, None, Some(MESSAGE_BYTES_MAX))
        }
    }
}

type Queue<M> = Arc<Mutex<VecDeque<M>>>;

fn unpacked<M>(body: Body) -> (Unpacked<M>, Ready<M>) {
    let queue = Queue::default();
    let unpacked = Unpacked {
        body,
        frames: Frames::default(),
        queue: Arc::clone(&queue),
        failed: None,
    };
    (unpacked, Ready(queue))
}

/// Hands out what was decoded, one for each empty message.
struct Ready<M>(Queue<M>);

impl<M> Decoder for Ready<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(queue.pop_front())
    }
}

/// A body whose messages are decoded as they become whole.
struct Unpacked<M> {
    body: Body,
    frames: Frames,
    queue: Queue<M>,
    failed: Option<Status>,
}

impl<M: Message + Default> Unpacked<M> {
    /// Decodes messages that are whole; how many there were.
    fn decode(&mut self) -> Result<usize, Status> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let mut decoded = 0;
        while decoded < DECODED_MAX {
            match self.frames.message() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                    queue.push_back(message);
                    decoded += 1;
                }
                // Those before it come first.
                Err(failed) if decoded > 0 => {
                    self.failed = Some(failed);
                    break;
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok(decoded)
    }
}

impl<M: Message + Default> http_body::Body for Unpacked<M> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let decoded = self.decode()?;
            if decoded > 0 {
                let empty = Bytes::from(EMPTY.repeat(decoded));
                return Poll::Ready(Some(Ok(Frame::data(empty))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                // The end in the middle of a message: tonic says so, given a part of one.
                None if self.frames.len > 0 => {
                    self.frames = Frames::default();
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0])))));
                }
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => self.frames.push(data),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

/// What came and is not decoded yet: part of a message, at most, and one frame.
#[derive(Default)]
struct Frames {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl Frames {
    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The message at the front, when all of it is there. Nothing is right after one that cannot be.
    fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.whole()? else {
            return Ok(None);
        };
        self.advance(PREFIX_BYTES);
        let message = M::decode(Buf::take(&mut *self, bytes));
        let message = message.map_err(|error| Status::internal(error.to_string()));
        message.map(Some)
    }

    /// Length of the message at the front, when all of it is there.
    fn whole(&self) -> Result<Option<usize>, Status> {
        let mut prefix = [0; PREFIX_BYTES];
        if self.len < PREFIX_BYTES {
            return Ok(None);
        }
        let front = self.chunks.iter().flatten();
        for (to, from) in prefix.iter_mut().zip(front) {
            *to = *from;
        }
        let [compressed, length @ ..] = prefix;
        if compressed != 0 {
            let what = "messages are not read compressed: send them as they are";
            return Err(Status::unimplemented(what));
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > MESSAGE_BYTES_MAX {
            let what =
                format!("a message of {bytes} bytes is too large: {MESSAGE_BYTES_MAX} at most");
            return Err(Status::out_of_range(what));
        }
        Ok((self.len >= PREFIX_BYTES + bytes).then_some(bytes))
    }
}

impl Buf for Frames {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |front| front)
    }

    fn advance(&mut self, mut bytes: usize) {
        assert!(bytes <= self.len, "beyond what came");
        self.len -= bytes;
        while let Some(front) = self.chunks.front_mut() {
            if bytes < front.len() {
                front.advance(bytes);
                return;
            }
            bytes -= front.len();
            self.chunks.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, bytes: usize) -> Bytes {
        assert!(bytes <= self.len, "beyond what came");
        let front = self.chunk().len();
        // Most of what the frame keeps in memory must be wanted.
        if bytes >= SHARED_BYTES_MIN && bytes <= front && bytes >= front / 2 {
            self.len -= bytes;
            let whole = bytes == front;
            return match (whole, self.chunks.front_mut()) {
                (false, Some(front)) => front.split_to(bytes),
                _ => self.chunks.pop_front().unwrap_or_default(),
            };
        }
        let mut copied = BytesMut::with_capacity(bytes);
        bytes::BufMut::put(&mut copied, self.take(bytes));
        copied.freeze()
    }
}

#[cfg(test)]
#[path = "read_test.rs"]
mod read_test;
