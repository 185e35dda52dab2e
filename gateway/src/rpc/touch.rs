//! A call that is made for its connection only.

use std::time::Duration;

use kvmesh_client::channel::Channel;
use kvmesh_proto::v1::{StatsRequest, topology_client::TopologyClient};
use tonic::Request;

/// As long as the farthest region needs to connect and answer.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls the other side; what comes of it does not matter: gets find out for themselves.
pub(crate) async fn touch(channel: Channel) {
    let mut request = Request::new(StatsRequest {});
    request.set_timeout(TOUCH_TIMEOUT);
    if let Err(status) = TopologyClient::new(channel).stats(request).await {
        tracing::debug!(%status, "a far gateway could not be touched");
    }
}
