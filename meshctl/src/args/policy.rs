//! Flags of the verbs that change a namespace.

use clap::ValueEnum;
use kvmesh_directory::{
    Policy, RegionId,
    namespace::{AckLevel, Fallback, ReplicationMode},
};

pub(super) const SET: &str = "\
What is not named stays as it is. The policy is the same in all regions: the last writer wins.

Examples: meshctl namespace set notes --ttl 3600 --fallback always
          meshctl namespace set notes --replication push --regions eu-west,ap-south
          meshctl namespace set notes --replication hot --hot-after 2";

pub(super) const RAISE: &str = "\
Every block that was put before becomes unreadable, in this region at once, in the others as
soon as they hear of it. It cannot be undone.

Example: meshctl namespace raise notes --yes";

/// What a get does about blocks that only another region has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FallbackFlag {
    /// Fetch when that is expected to beat recomputing.
    WhenFaster,
    /// Fetch, bounded by the call's deadline.
    Always,
    /// Do not fetch.
    Never,
}

/// Acknowledgement of puts that name no level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AckFlag {
    /// The primary owner holds it.
    Memory,
    /// As many nodes as there are replicas hold it.
    Replicated,
    /// It is on disk on all of them.
    Durable,
}

impl From<AckFlag> for AckLevel {
    fn from(flag: AckFlag) -> Self {
        match flag {
            AckFlag::Memory => Self::Memory,
            AckFlag::Replicated => Self::Replicated,
            AckFlag::Durable => Self::Durable,
        }
    }
}

/// Whether blocks from other regions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplicationFlag {
    /// They are kept in the region that asked.
    OnDemand,
    /// As on-demand, and every block is brought to the regions of --regions besides.
    Push,
    /// They are served, and kept once a region wanted them --hot-after times.
    Hot,
    /// They are served and not kept.
    None,
}

/// Which namespace.
#[derive(Debug, Clone, clap::Args)]
pub struct NamespaceArgs {
    /// Alias or id (32 hexadecimal digits) of the namespace.
    pub name: String,
}

/// Which namespace, and whether to ask first.
#[derive(Debug, Clone, clap::Args)]
pub struct NamespaceRaiseArgs {
    /// Which.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

/// A policy; what is not named stays.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = true)]
pub struct PolicyArgs {
    /// Copies of each block in a region, 1 to 8.
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Acknowledgement of puts that name no level.
    #[arg(long, value_name = "LEVEL")]
    pub ack: Option<AckFlag>,
    /// Seconds that a copy stays after it was written; 0: for ever.
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u64>,
    /// Thousandths of each node's memory that stay its own when memory is short; 0: none.
    #[arg(long, value_name = "PERMILLE")]
    pub quota: Option<u32>,
    /// What a get does about blocks that only another region has.
    #[arg(long, value_name = "WHEN")]
    pub fallback: Option<FallbackFlag>,
    /// Whether blocks from other regions are kept.
    #[arg(long, value_name = "MODE")]
    pub replication: Option<ReplicationFlag>,
    /// With push: regions that every block is brought to. With hot: the only ones that keep what
    /// is wanted often; without a value: all.
    #[arg(long, value_name = "REGION,…", value_delimiter = ',', num_args = 0..=1)]
    pub regions: Option<Vec<RegionId>>,
    /// With hot: wants after which a region keeps a block, at most 100; 0: 3.
    #[arg(long, value_name = "WANTS")]
    pub hot_after: Option<u32>,
    /// Blocks of bf16 and fp16 numbers may be rounded to 8 bits on slow links between regions.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub lossy: Option<bool>,
    /// Tokens per second that engines compute; 0: learn it from their reports.
    #[arg(long, value_name = "TOKENS")]
    pub prefill_rate: Option<f64>,
    /// Tokens at which attention doubles the time of prefill; 0: it does not count.
    #[arg(long, value_name = "TOKENS")]
    pub attention_growth: Option<f64>,
    /// What all GPUs that compute one request cost in an hour; 0: not known.
    #[arg(long, value_name = "DOLLARS")]
    pub dollars_per_gpu_hour: Option<f64>,
}

/// A namespace and what its policy becomes.
#[derive(Debug, Clone, clap::Args)]
pub struct NamespaceSetArgs {
    /// Which.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// What.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

impl PolicyArgs {
    fn regions(&self) -> Option<Vec<RegionId>> {
        let mut regions = self.regions.clone()?;
        regions.sort_unstable();
        regions.dedup();
        Some(regions)
    }

    /// The policy with what is named here.
    #[must_use]
    pub fn over(&self, policy: &Policy) -> Policy {
        Policy {
            replicas: self.replicas.unwrap_or(policy.replicas),
            ack: self.ack.map_or(policy.ack, AckLevel::from),
            ttl_ms: self
                .ttl
                .map_or(policy.ttl_ms, |ttl| ttl.saturating_mul(1_000)),
            quota_permille: self.quota.unwrap_or(policy.quota_permille),
            fallback: self.fallback.map_or(policy.fallback, |when| match when {
                FallbackFlag::WhenFaster => Fallback::WhenFaster,
                FallbackFlag::Always => Fallback::Always,
                FallbackFlag::Never => Fallback::Never,
            }),
            replication: self
                .replication
                .map_or(policy.replication, |mode| match mode {
                    ReplicationFlag::OnDemand => ReplicationMode::OnDemand,
                    ReplicationFlag::Push => ReplicationMode::Push,
                    ReplicationFlag::Hot => ReplicationMode::Hot,
                    ReplicationFlag::None => ReplicationMode::None,
                }),
            regions: self.regions().unwrap_or_else(|| policy.regions.clone()),
            hot_after: self.hot_after.unwrap_or(policy.hot_after),
            lossy: self.lossy.unwrap_or(policy.lossy),
            prefill_rate: self.prefill_rate.unwrap_or(policy.prefill_rate),
            attention_growth: self.attention_growth.unwrap_or(policy.attention_growth),
            dollars_per_gpu_hour: self
                .dollars_per_gpu_hour
                .unwrap_or(policy.dollars_per_gpu_hour),
            ..policy.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: NamespaceSetArgs,
    }

    #[test]
    fn lossy_is_said_with_or_without_a_value_or_stays() {
        let before = Policy {
            lossy: true,
            ..Policy::default()
        };
        for (words, on, over_on) in [
            (["notes", "--lossy"], true, true),
            (["--lossy", "notes"], true, true),
            (["notes", "--lossy=false"], false, false),
            (["notes", "--ttl=1"], false, true),
        ] {
            let line = [&["set"], &words[..]].concat();
            let set = Line::try_parse_from(line).unwrap().set;
            assert_eq!(set.namespace.name, "notes");
            assert_eq!(set.policy.over(&Policy::default()).lossy, on, "{words:?}");
            assert_eq!(set.policy.over(&before).lossy, over_on, "{words:?}");
        }
    }
}
