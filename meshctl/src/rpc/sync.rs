//! Calls of the service `RegionSync`.

use kvmesh_client::ToWire;
use kvmesh_directory::{FeedPosition, RegionId, limits::MESSAGE_BYTES_MAX};
use kvmesh_proto::v1::{
    self as wire, region_sync_client::RegionSyncClient, sync_frame::Kind, sync_request,
};
use tokio::time::timeout;

use super::{CallError, Peer, topology::position};

/// What a region-sync is to do about a peer.
#[derive(Debug, Clone)]
pub enum How {
    /// Compare, and mend.
    Compare,
    /// Read all of it again.
    FromZero,
    /// Follow its feed again from here.
    Since(FeedPosition),
}

/// What came of it.
#[derive(Debug)]
pub struct Synced {
    /// What gateways are shown now.
    pub position: Option<FeedPosition>,
    /// Blocks known to be there now.
    pub blocks: u64,
    /// Ranges of tags that differed.
    pub ranges: u32,
    /// Blocks that were not known.
    pub missing: u64,
    /// Blocks that were known and are not there.
    pub gone: u64,
    /// Blocks that were known with another size.
    pub resized: u64,
    /// Deleted names and namespaces of which the own region had not heard.
    pub objects: u64,
}

impl Peer {
    fn region_sync(&self) -> RegionSyncClient<kvmesh_client::channel::Channel> {
        RegionSyncClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The region that a region-sync works for.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn region_of_sync(&self) -> Result<String, CallError> {
        const WHAT: &str = "asking a region-sync whom it follows";
        let request = self.request(wire::PeersRequest {});
        let answer = self.region_sync().peers(request).await;
        Ok(answer.map_err(self.failed(WHAT))?.into_inner().region)
    }

    /// Compares what a region-sync knows of a peer, or has it read again; tells how many blocks
    /// were read, and how many were known before. It goes on when the caller leaves.
    ///
    /// # Errors
    /// When the region-sync refuses, or says nothing for as long as a call may take.
    pub async fn sync(
        &self,
        peer: &RegionId,
        how: How,
        mut on_progress: impl FnMut(u64, u64),
    ) -> Result<Synced, CallError> {
        const WHAT: &str = "synchronising";
        let request = self.request(wire::SyncRequest {
            peer: peer.to_wire(),
            how: Some(match how {
                How::Compare => sync_request::How::Compare(wire::SyncCompare {}),
                How::FromZero => sync_request::How::FromZero(wire::SyncFromZero {}),
                How::Since(position) => sync_request::How::Since(position.to_wire()),
            }),
        });
        let answer = self.region_sync().sync(request).await;
        let mut frames = answer.map_err(self.failed(WHAT))?.into_inner();
        loop {
            let next = timeout(self.timeout, frames.message()).await;
            let next = next.map_err(|_| CallError::OutOfTime {
                what: WHAT,
                address: self.address.to_string(),
                limit: self.timeout,
            })?;
            let frame = next.map_err(self.failed(WHAT))?;
            match frame.and_then(|frame| frame.kind) {
                Some(Kind::Progress(progress)) => {
                    on_progress(progress.blocks_read, progress.blocks_before);
                }
                Some(Kind::End(end)) => {
                    return Ok(Synced {
                        position: position(self, WHAT, end.position)?,
                        blocks: end.blocks,
                        ranges: end.ranges,
                        missing: end.missing,
                        gone: end.gone,
                        resized: end.resized,
                        objects: end.objects,
                    });
                }
                None => return Err(self.broken(WHAT, "a stream without an end")),
            }
        }
    }
}
