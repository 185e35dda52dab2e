//! Service `Link`: bytes that say nothing, asked for and served.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::ready, stream};
use kvmesh_client::{
    Problem,
    channel::{Channel, sent_at_once},
};
use kvmesh_directory::limits::{LINK_MEASURE_BYTES_MAX, MESSAGE_BYTES_MAX};
use kvmesh_proto::v1::{
    self as wire,
    link_client::LinkClient,
    link_server::{Link, LinkServer},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Request, Response, Status};

use crate::{context::exhausted, deadline::Deadline};

/// Served at a time: few gateways begin at once, and they can wait.
const AT_ONCE: usize = 4;
/// Bytes of one message.
const FILLING_BYTES: usize = 256 << 10;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);

static FILLING: [u8; FILLING_BYTES] = [0; FILLING_BYTES];

struct Service {
    room: Arc<Semaphore>,
    sent_at_once: u64,
}

type Filling = std::pin::Pin<Box<dyn Stream<Item = Result<wire::MeasureResponse, Status>> + Send>>;

/// The service.
pub(super) fn service(congestion_control: &str) -> LinkServer<impl Link> {
    let service = Service {
        room: Arc::new(Semaphore::new(AT_ONCE)),
        sent_at_once: sent_at_once(congestion_control),
    };
    LinkServer::new(service).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl Link for Service {
    type MeasureStream = Filling;

    async fn measure(
        &self,
        request: Request<wire::MeasureRequest>,
    ) -> Result<Response<Self::MeasureStream>, Status> {
        let until = Deadline::of(request.metadata(), 0, LIMIT).at;
        let bytes = request.into_inner().bytes;
        if bytes > LINK_MEASURE_BYTES_MAX {
            let why = format!("at most {LINK_MEASURE_BYTES_MAX}");
            return Err(Problem::invalid("bytes", why).into());
        }
        let first = wire::MeasureResponse {
            sent_at_once: self.sent_at_once,
            ..wire::MeasureResponse::default()
        };
        let first = stream::iter([Ok(first)]);
        if bytes == 0 {
            return Ok(Response::new(Box::pin(first)));
        }
        let room = Arc::clone(&self.room).try_acquire_owned();
        let room = room.map_err(|_| exhausted("measures at a time (4)"))?;
        let filling = stream::unfold((bytes, room), async |(left, room)| {
            let next = left.min(FILLING_BYTES as u64);
            let filling = Bytes::from_static(FILLING.get(..next as usize)?);
            let message = wire::MeasureResponse {
                filling,
                ..wire::MeasureResponse::default()
            };
            (next > 0).then_some((Ok(message), (left - next, room)))
        });
        let filling = filling.take_until(sleep_until(until));
        Ok(Response::new(Box::pin(first.chain(filling))))
    }
}

/// Asks for so many bytes, which come as the numbers of those of each message; it ends early when
/// they do not come in time, or break off.
///
/// # Errors
/// What the other gateway says that does not serve it.
pub(crate) async fn ask(
    channel: Channel,
    bytes: u64,
    until: Instant,
) -> Result<impl Stream<Item = usize>, Status> {
    let mut request = Request::new(wire::MeasureRequest { bytes });
    request.set_timeout(until.saturating_duration_since(Instant::now()));
    let mut client = LinkClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = client.measure(request).await?.into_inner();
    let came = answer.scan((), |(), message| {
        ready(message.ok().map(|it| it.filling.len()))
    });
    let came = came.filter(|bytes| ready(*bytes > 0));
    Ok(came.take_until(sleep_until(until)))
}

/// Asks how many bytes one connection has on its way, at most, of what the other gateway sends;
/// none: it does not say so in time, or is of an earlier version.
pub(crate) async fn ask_sent_at_once(channel: Channel, limit: Duration) -> Option<u64> {
    let mut request = Request::new(wire::MeasureRequest::default());
    request.set_timeout(limit);
    let mut client = LinkClient::new(channel);
    let asked = async { client.measure(request).await?.into_inner().message().await };
    let first = timeout(limit, asked).await.ok()?.ok()??;
    (first.sent_at_once > 0).then_some(first.sent_at_once)
}
