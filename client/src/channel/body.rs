//! Bodies on a connection of h2's, from either end.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::Frame;
use tonic::Status;

/// A body on its way out. Ends when it is through, when nobody takes it any more, or when the body
/// itself failed, which the other end hears as a reset.
pub struct Sending<B> {
    body: B,
    to: SendStream<Bytes>,
    /// Waits for room. Room is asked for by those only who have something for it: what waits for
    /// its body would hold room that others need.
    next: Option<Bytes>,
    begun: bool,
    /// What the other end is told where the body failed.
    failed: Reason,
}

/// What comes of a body.
enum Next {
    Data(Bytes),
    /// The end of an answer; calls have none.
    Trailers(http::HeaderMap),
    End,
}

impl<B> Sending<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    /// Of a body, after the head of its message.
    pub fn new(body: B, to: SendStream<Bytes>, failed: Reason) -> Self {
        Self {
            body,
            to,
            next: None,
            begun: false,
            failed,
        }
    }

    /// An error: nobody takes it any more, or the body itself failed.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Poll::Ready(reset) = self.to.poll_reset(cx) {
                return Poll::Ready(Err(reset?.into()));
            }
            if self.next.is_some() {
                ready!(self.room(cx))?;
                let last = self.body.is_end_stream();
                self.to
                    .send_data(self.next.take().unwrap_or_default(), last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(self.poll_next(cx))? {
                Next::Data(data) if self.begun => self.hold(data),
                Next::Data(data) => {
                    self.begun = true;
                    // A message that is all there goes out at once, its end in the same frame.
                    let next = self.poll_next(cx)?;
                    let last = matches!(next, Poll::Ready(Next::End));
                    self.to.send_data(data, last)?;
                    match ready!(next) {
                        Next::Data(next) => self.hold(next),
                        Next::Trailers(trailers) => return self.end(trailers),
                        Next::End => return Poll::Ready(Ok(())),
                    }
                }
                Next::Trailers(trailers) => return self.end(trailers),
                Next::End => return Poll::Ready(self.to.send_data(Bytes::new(), true)),
            }
        }
    }

    fn end(&mut self, trailers: http::HeaderMap) -> Poll<Result<(), h2::Error>> {
        Poll::Ready(self.to.send_trailers(trailers))
    }

    fn hold(&mut self, data: Bytes) {
        self.to.reserve_capacity(1);
        self.next = Some(data);
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, h2::Error>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose();
        let frame = frame.map_err(|_| self.failed)?;
        Poll::Ready(Ok(match frame.map(Frame::into_data) {
            None => Next::End,
            Some(Ok(data)) => Next::Data(data),
            Some(Err(frame)) => Next::Trailers(frame.into_trailers().unwrap_or_default()),
        }))
    }

    /// Until more may be sent.
    fn room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
                Some(room) => room?,
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl<B> Future for Sending<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sent = ready!(self.poll_sent(cx));
        if let Err(error) = sent {
            let why = error.reason().unwrap_or(self.failed);
            self.to.send_reset(why);
        }
        Poll::Ready(())
    }
}

/// A body that comes. Dropped before its end, it is reset.
pub struct Received {
    stream: RecvStream,
    /// From a server, which may want no more of a call once its answer is said.
    answer: bool,
}

impl Received {
    /// Of a call.
    #[must_use]
    pub fn call(stream: RecvStream) -> Self {
        let answer = false;
        Self { stream, answer }
    }

    pub(super) fn answer(stream: RecvStream) -> Self {
        let answer = true;
        Self { stream, answer }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // What the reader holds on to is its own: back-pressure is that it reads no more.
                let _ = self.stream.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) if !(self.answer && error.reason() == Some(Reason::NO_ERROR)) => {
                return Poll::Ready(Some(Err(error.into())));
            }
            _ => {}
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
