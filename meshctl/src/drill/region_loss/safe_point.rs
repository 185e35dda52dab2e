//! What would be lost with the region, before it is cut off: how far the others have heard, and
//! which acknowledged blocks none of them has.

use kvmesh_directory::Hlc;
use kvmesh_process::{SystemClock, WallClock};
use serde::Serialize;

use super::Place;
use crate::{output, rpc::at_risk::AtRisk, sizes::human};

/// See the module.
#[derive(Debug, Serialize)]
pub(in crate::drill) struct SafePoint {
    /// Where the region's log stands, as its gateway knows.
    pub(in crate::drill) index: u64,
    /// How far each other region has heard.
    heard: Vec<Heard>,
    pub(in crate::drill) namespaces: Vec<Rpo>,
}

#[derive(Debug, Serialize)]
struct Heard {
    by: String,
    index: u64,
}

/// The recovery point of one namespace.
#[derive(Debug, Serialize)]
pub(in crate::drill) struct Rpo {
    namespace: String,
    blocks: u64,
    bytes: u64,
    /// No other region has them.
    pub(in crate::drill) alone_blocks: u64,
    pub(in crate::drill) alone_bytes: u64,
    /// Since the newest block was put that another region has; none: none has any.
    newest_copied_s: Option<f64>,
    /// Since the oldest block was put that no other region has.
    oldest_alone_s: Option<f64>,
}

impl Rpo {
    fn new(at_risk: AtRisk, now_ms: u64) -> Self {
        let since = |hlc: Hlc| now_ms.saturating_sub(hlc.millis()) as f64 / 1e3;
        Self {
            namespace: at_risk.namespace,
            blocks: at_risk.blocks,
            bytes: at_risk.bytes,
            alone_blocks: at_risk.alone_blocks,
            alone_bytes: at_risk.alone_bytes,
            newest_copied_s: at_risk.newest_copied.map(since),
            oldest_alone_s: at_risk.oldest_alone.map(since),
        }
    }
}

impl SafePoint {
    /// As the region's own gateway and the others' say now.
    pub(super) async fn take(place: &Place, lost: usize) -> anyhow::Result<Self> {
        let site = &place.sites[lost];
        let mut heard = Vec::new();
        for other in place.others(lost) {
            let regions = other.gateway.regions().await?;
            let of = regions.iter().find(|status| status.region == site.region);
            let position = of.and_then(|status| status.position.as_ref());
            heard.push(Heard {
                by: other.region.clone(),
                index: position.map_or(0, |position| position.index),
            });
        }
        let (at_risk, position) = site.gateway.at_risk().await?;
        let now_ms = SystemClock.millis();
        let namespaces = at_risk.into_iter().map(|it| Rpo::new(it, now_ms));
        Ok(Self {
            index: position.map_or(0, |position| position.index),
            heard,
            namespaces: namespaces.filter(|rpo| rpo.blocks > 0).collect(),
        })
    }

    /// In words, line by line.
    pub(in crate::drill) fn said(&self, region: &str) -> Vec<String> {
        let heard = self.heard.iter().map(|heard| {
            let behind = self.index.saturating_sub(heard.index);
            format!("{} to {} ({behind} behind)", heard.by, heard.index)
        });
        let heard: Vec<String> = heard.collect();
        let (blocks, bytes) = self.namespaces.iter().fold((0, 0), |sum, rpo| {
            (sum.0 + rpo.alone_blocks, sum.1 + rpo.alone_bytes)
        });
        let mut lines = vec![
            format!(
                "safe point: the log of {region} is at {}; others have heard it up to: {}",
                self.index,
                heard.join(", ")
            ),
            format!("only {region} has {blocks} blocks, {}", human(bytes)),
        ];
        if !self.namespaces.is_empty() {
            lines.push(self.table());
        }
        lines
    }

    pub(in crate::drill) fn table(&self) -> String {
        let heads = [
            "namespace",
            "blocks",
            "bytes",
            "only here",
            "bytes",
            "newest copied",
            "oldest not",
        ];
        let mut table = output::table(&heads, &[1, 2, 3, 4, 5, 6]);
        let ago = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!("{seconds:.1} s ago"),
            None => "none".to_owned(),
        };
        for rpo in &self.namespaces {
            table.add_row(vec![
                rpo.namespace.clone(),
                rpo.blocks.to_string(),
                human(rpo.bytes),
                rpo.alone_blocks.to_string(),
                human(rpo.alone_bytes),
                ago(rpo.newest_copied_s),
                ago(rpo.oldest_alone_s),
            ]);
        }
        table.to_string()
    }
}
