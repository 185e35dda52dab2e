//! The loop of every follower: connect, read until the stream fails, try the next address.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};
use tracing::debug;

use crate::channel::Channel;

use super::{FeedError, SILENCE_MAX, Source};

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Reads one stream after another, until `stop` or until nobody takes what is read.
pub(super) trait Session {
    /// Label of metrics and logs.
    const FEED: &'static str;
    /// One message of the stream.
    type Frame;

    /// Asks for the stream from where the follower stands.
    fn open(
        &mut self,
        channel: Channel,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Frame>>, Status>> + Send;

    /// Takes one message.
    fn take(&mut self, frame: Self::Frame) -> impl Future<Output = Result<(), FeedError>> + Send;

    /// A stream ended; the next one starts from where the follower stands now.
    fn failed(&mut self, error: &FeedError);
}

pub(super) async fn run(mut session: impl Session, source: Source, stop: CancellationToken) {
    let following = follow(&mut session, &source);
    // Dropping a follower in the middle of a stream loses nothing: its view stays whole.
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = following => {}
    }
}

async fn follow<S: Session>(session: &mut S, source: &Source) {
    let mut waits = backoff().build();
    let mut turn = 0;
    loop {
        let Some(address) = source.addresses.get(turn % source.addresses.len().max(1)) else {
            // Nobody to follow: the view stays empty.
            return std::future::pending().await;
        };
        turn += 1;
        let mut heard = false;
        let Err(error) = read(session, source, address, &mut heard).await;
        metrics::counter!(
            "kvmesh_client_feed_breaks_total",
            "instance" => source.instance.to_string(), "feed" => S::FEED
        )
        .increment(1);
        debug!(feed = S::FEED, address, %error, "feed given up");
        if matches!(error, FeedError::Closed) {
            return;
        }
        session.failed(&error);
        if heard {
            waits = backoff().build();
        }
        sleep(waits.next().unwrap_or(RETRY_MAX)).await;
    }
}

/// Ends only with an error.
async fn read<S: Session>(
    session: &mut S,
    source: &Source,
    address: &str,
    heard: &mut bool,
) -> Result<std::convert::Infallible, FeedError> {
    let channel = source
        .channels
        .to(address)
        .map_err(|_| FeedError::Address(address.to_owned()))?;
    let silent = |_| FeedError::Silent;
    let opened = timeout(SILENCE_MAX, session.open(channel))
        .await
        .map_err(silent)?;
    let mut frames = opened?.into_inner();
    loop {
        let frame = timeout(SILENCE_MAX, frames.message())
            .await
            .map_err(silent)??;
        session.take(frame.ok_or(FeedError::Ended)?).await?;
        *heard = true;
    }
}

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .without_max_times()
        .with_jitter()
        .with_jitter_seed(crate::random::word())
}
