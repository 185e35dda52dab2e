//! A call that is made for its connection only.

use std::time::Duration;

use kvmesh_client::{Problem, channel::Channel};
use tokio::time::timeout;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::ask;

/// As long as the farthest region needs to connect and answer.
pub(crate) const TOUCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks for the other side's health, as everybody may.
///
/// # Errors
/// When it does not answer, and why.
pub(crate) async fn touch(channel: Channel) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(TOUCH_TIMEOUT);
    let mut client = HealthClient::new(channel);
    match timeout(TOUCH_TIMEOUT, client.check(request)).await {
        // Whoever is about to leave is there still.
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if ask::unreachable(&status) || status.code() == Code::DeadlineExceeded => {
            Err(status)
        }
        // Whoever refuses is there.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(Problem::OutOfTime("a health check").into()),
    }
}
