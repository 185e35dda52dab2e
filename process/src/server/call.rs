//! One call on a connection: answered by its service, and sent.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use kvmesh_client::{
    Problem,
    channel::{Link, Received, Sending, call_timeout},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body};
use tracing::debug;

use super::{
    Answers,
    calls::{Answer, Call},
    routes::Answering,
};

/// A call until its answer is sent, or nobody waits for it any more.
pub(super) struct Serving(State);

enum State {
    Answering(Unanswered),
    Sending(Sending<Answer>),
}

struct Unanswered {
    answering: Answering,
    call: Option<Call>,
    respond: SendResponse<Bytes>,
    bound: Option<Bound>,
}

/// How long a caller waits for the head of an answer.
struct Bound {
    began: Instant,
    after: Duration,
    /// Most answers are there before it is needed.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Serving {
    /// A call that came.
    pub(super) fn new(
        answers: &Answers,
        link: Option<&Link>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let mut request = request.map(|stream| Body::new(Received::call(stream)));
        request.extensions_mut().insert(link.cloned());
        let bound = call_timeout(request.headers()).map(|after| Bound {
            began: Instant::now(),
            after,
            sleep: None,
        });
        let (call, answering) = answers.begin(request);
        Self(State::Answering(Unanswered {
            answering,
            call: Some(call),
            respond,
            bound,
        }))
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.0 {
                State::Sending(sending) => return Pin::new(sending).poll(cx),
                State::Answering(call) => match ready!(call.poll_head(cx)) {
                    Some(sending) => self.0 = State::Sending(sending),
                    None => return Poll::Ready(()),
                },
            }
        }
    }
}

impl Unanswered {
    /// Sends the head of the answer; none: that is all of it, or nobody takes it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Sending<Answer>>> {
        let Some(call) = &mut self.call else {
            return Poll::Ready(None);
        };
        let answering = self.answering.as_mut();
        let answer = match call.in_span(|| answering.poll(cx)) {
            Poll::Ready(Ok(answer)) => answer,
            Poll::Pending => {
                if self.respond.poll_reset(cx).is_ready() {
                    return Poll::Ready(None);
                }
                match &mut self.bound {
                    None => return Poll::Pending,
                    Some(bound) => ready!(bound.poll_late(cx)).into_http(),
                }
            }
        };
        call.see(answer.headers());
        let (head, body) = answer.into_parts();
        let all = http_body::Body::is_end_stream(&body);
        match self
            .respond
            .send_response(Response::from_parts(head, ()), all)
        {
            Ok(_) if all => Poll::Ready(None),
            Ok(to) => Poll::Ready(self.call.take().map(|call| {
                let answer = Answer::new(body, call);
                Sending::new(answer, to, Reason::INTERNAL_ERROR)
            })),
            Err(error) => {
                debug!(%error, "an answer could not be sent");
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                Poll::Ready(None)
            }
        }
    }
}

impl Bound {
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let until = self.began + self.after;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Problem::OutOfTime("the call").into())
    }
}
