//! A call that is made for its connection only.

use std::time::Duration;

use kvmesh_client::channel::Channel;
use kvmesh_proto::v1::{StatsRequest, topology_client::TopologyClient};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::ask;

/// As long as the farthest region needs to connect and answer.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls the other side, and says whether it answers.
pub(crate) async fn touch(channel: Channel) -> bool {
    let mut request = Request::new(StatsRequest {});
    request.set_timeout(TOUCH_TIMEOUT);
    let mut client = TopologyClient::new(channel);
    match timeout(TOUCH_TIMEOUT, client.stats(request)).await {
        Ok(Ok(_)) => true,
        // Whoever refuses is there.
        Ok(Err(status)) => !ask::unreachable(&status) && status.code() != Code::DeadlineExceeded,
        Err(_) => false,
    }
}
