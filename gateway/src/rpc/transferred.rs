//! What fetches showed of the links, to a region-sync.

use std::time::Duration;

use kvmesh_client::{ToWire, channel::Channel};
use kvmesh_directory::{RegionId, cost::Transfer};
use kvmesh_proto::v1::{self as wire, region_sync_client::RegionSyncClient};
use tokio::time::timeout;
use tonic::{Request, Status};

/// How long a region-sync may take to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Tells of some transfers.
pub(crate) async fn tell(
    channel: Channel,
    transfers: &[(RegionId, Transfer)],
) -> Result<(), Status> {
    let mut request = Request::new(wire::TransferredRequest {
        transfers: transfers.iter().map(transfer).collect(),
    });
    request.set_timeout(LIMIT);
    let mut client = RegionSyncClient::new(channel);
    let answer = timeout(LIMIT, client.transferred(request)).await;
    let late = |_| Status::deadline_exceeded(format!("no answer within {LIMIT:?}"));
    answer.map_err(late)?.map(drop)
}

fn transfer((region, transfer): &(RegionId, Transfer)) -> wire::LinkTransfer {
    wire::LinkTransfer {
        region: region.to_wire(),
        first_byte_ms: transfer.first_byte * 1e3,
        rtt_ms: transfer.rtt * 1e3,
        bytes: transfer.bytes,
        took_ms: transfer.took * 1e3,
    }
}
