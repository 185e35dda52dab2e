//! Round trips by `grpc.health.v1`, over the channel that gets will use.

use std::time::Duration;

use kvmesh_client::channel::Channels;
use tokio::time::{Instant, timeout};
use tonic::Request;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Measures round trips.
#[derive(Clone)]
pub(crate) struct Prober {
    pub(crate) channels: Channels,
    pub(crate) timeout: Duration,
}

impl Prober {
    /// How long a process took to say that it is serving; none when it did not in time.
    pub(crate) async fn round_trip(&self, address: &str) -> Option<Duration> {
        let channel = self.channels.to(address).ok()?;
        let mut request = Request::new(HealthCheckRequest::default());
        request.set_timeout(self.timeout);
        let mut client = HealthClient::new(channel);
        let begun = Instant::now();
        let answer = timeout(self.timeout, client.check(request))
            .await
            .ok()?
            .ok()?;
        let serving = answer.into_inner().status() == ServingStatus::Serving;
        serving.then(|| begun.elapsed())
    }
}
