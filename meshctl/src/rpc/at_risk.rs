//! What would be lost with a region, as its gateway counts it.

use kvmesh_directory::{FeedPosition, Hlc};
use kvmesh_proto::v1 as wire;

use super::{CallError, Peer, topology::position};

/// The blocks of one namespace in a region.
#[derive(Debug, Clone)]
pub struct AtRisk {
    /// Its alias.
    pub namespace: String,
    /// Visible blocks.
    pub blocks: u64,
    /// Bytes of one copy of each.
    pub bytes: u64,
    /// Blocks that no other region is known to have.
    pub alone_blocks: u64,
    /// Their bytes.
    pub alone_bytes: u64,
    /// When the newest block was put that another region has.
    pub newest_copied: Option<Hlc>,
    /// When the oldest block was put that no other region has.
    pub oldest_alone: Option<Hlc>,
}

impl Peer {
    /// What no other region has, by namespace, and the view that was counted.
    ///
    /// # Errors
    /// When the process refuses, as nodes do, or does not answer.
    pub async fn at_risk(&self) -> Result<(Vec<AtRisk>, Option<FeedPosition>), CallError> {
        const WHAT: &str = "counting what no other region has";
        let request = self.request(wire::AtRiskRequest {});
        let answer = self.topology().at_risk(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let position = position(self, WHAT, answer.position)?;
        let some = |hlc: u64| (hlc > 0).then_some(Hlc(hlc));
        let namespaces = answer.namespaces.into_iter().map(|raw| AtRisk {
            namespace: raw.name,
            blocks: raw.blocks,
            bytes: raw.bytes,
            alone_blocks: raw.alone_blocks,
            alone_bytes: raw.alone_bytes,
            newest_copied: some(raw.newest_copied_hlc),
            oldest_alone: some(raw.oldest_alone_hlc),
        });
        Ok((namespaces.collect(), position))
    }
}
