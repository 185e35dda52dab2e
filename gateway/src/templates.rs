//! Policies as an operator writes them down; a client names one and cannot change it.

use std::collections::{BTreeMap, BTreeSet};

use kvmesh_directory::{
    Policy, RegionId,
    namespace::{AckLevel, Fallback, ReplicationMode},
};
use serde::{Deserialize, Serialize};

/// The template of an open that names none.
pub const DEFAULT: &str = "default";
/// Fetches from other regions as long as the call's deadline allows; its blocks do not expire.
pub const ALWAYS: &str = "always";

/// See [`AckLevel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the same words as AckLevel")]
pub enum Ack {
    Memory,
    Replicated,
    Durable,
}

/// See [`Fallback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the same words as Fallback")]
pub enum Afar {
    WhenFaster,
    Always,
    Never,
}

/// See [`ReplicationMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the same words as ReplicationMode")]
pub enum Replication {
    OnDemand,
    Push,
    Hot,
    None,
}

/// A policy as it stands in the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Template {
    /// Copies of each block in a region, 1 to 8.
    pub replicas: u32,
    /// Acknowledgement of puts that name no level.
    pub ack: Ack,
    /// Milliseconds; 0: blocks do not expire.
    pub ttl_ms: u64,
    /// Thousandths of the region's memory.
    pub quota_permille: u32,
    /// About blocks that only another region has.
    pub fallback: Afar,
    /// About copies in other regions.
    pub replication: Replication,
    /// Of `push`: where every block is brought to. Of `hot`: the only regions that keep what is
    /// wanted often; empty: all.
    pub regions: Vec<String>,
    /// Of `hot`: wants after which a region keeps a block, at most 100; 0: 3.
    pub hot_after: u32,
    /// Blocks of bf16 and fp16 numbers may be rounded to 8 bits between regions.
    pub lossy: bool,
    /// Blocks to promote ahead of a reader.
    pub prefetch_blocks: u32,
    /// Tokens per second; 0: unknown.
    pub prefill_rate: f64,
    /// Tokens at which attention doubles the time of prefill; 0: it does not count.
    pub attention_growth: f64,
    /// Of all GPUs that compute one request together; 0: unknown.
    pub dollars_per_gpu_hour: f64,
}

impl Default for Template {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            replicas: policy.replicas,
            ack: Ack::Replicated,
            ttl_ms: policy.ttl_ms,
            quota_permille: policy.quota_permille,
            fallback: Afar::WhenFaster,
            replication: Replication::OnDemand,
            regions: policy.regions.iter().map(ToString::to_string).collect(),
            hot_after: policy.hot_after,
            lossy: policy.lossy,
            prefetch_blocks: policy.prefetch_blocks,
            prefill_rate: policy.prefill_rate,
            attention_growth: policy.attention_growth,
            dollars_per_gpu_hour: policy.dollars_per_gpu_hour,
        }
    }
}

/// Templates that every gateway has, unless its settings change them.
#[must_use]
pub fn built_in() -> BTreeMap<String, Template> {
    let always = Template {
        fallback: Afar::Always,
        ttl_ms: 0,
        ..Template::default()
    };
    BTreeMap::from([
        (DEFAULT.to_owned(), Template::default()),
        (ALWAYS.to_owned(), always),
    ])
}

impl Template {
    /// Its regions, in order; the settings' check has found the names to be possible.
    fn regions(&self) -> Vec<RegionId> {
        let names = self.regions.iter();
        let regions: BTreeSet<RegionId> = names.filter_map(|name| name.parse().ok()).collect();
        regions.into_iter().collect()
    }

    /// The policy that it stands for.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            replicas: self.replicas,
            ack: match self.ack {
                Ack::Memory => AckLevel::Memory,
                Ack::Replicated => AckLevel::Replicated,
                Ack::Durable => AckLevel::Durable,
            },
            ttl_ms: self.ttl_ms,
            quota_permille: self.quota_permille,
            fallback: match self.fallback {
                Afar::WhenFaster => Fallback::WhenFaster,
                Afar::Always => Fallback::Always,
                Afar::Never => Fallback::Never,
            },
            replication: match self.replication {
                Replication::OnDemand => ReplicationMode::OnDemand,
                Replication::Push => ReplicationMode::Push,
                Replication::Hot => ReplicationMode::Hot,
                Replication::None => ReplicationMode::None,
            },
            regions: self.regions(),
            hot_after: self.hot_after,
            lossy: self.lossy,
            prefetch_blocks: self.prefetch_blocks,
            prefill_rate: self.prefill_rate,
            attention_growth: self.attention_growth,
            dollars_per_gpu_hour: self.dollars_per_gpu_hour,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_template_is_the_default_policy() {
        assert_eq!(built_in()[DEFAULT].policy(), Policy::default());
        assert_eq!(built_in()[ALWAYS].policy().fallback, Fallback::Always);
    }
}
