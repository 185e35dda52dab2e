//! Puts in one region and gets in the other one, every byte of which is checked.

use std::ops::Range;

use anyhow::{Result, ensure};
use kvmesh_client::client::{GetOptions, GetOutcome, Opened, PutOptions, PutResult};
use kvmesh_directory::namespace::AckLevel;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{CALL_BOUND, REGIONS, names, to_put};

/// Milliseconds, ascending.
pub(super) struct Took(Vec<f64>);

impl Took {
    /// The quantile, of nothing 0.
    pub(super) fn at(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get((last as f64 * part) as usize)
            .copied()
            .unwrap_or(0.0)
    }

    pub(super) fn told(&self) -> Value {
        json!({ "p50": self.at(0.5), "p95": self.at(0.95), "max": self.at(1.0) })
    }
}

pub(super) async fn put(near: &Opened, chain: u64, blocks: u32) -> Result<()> {
    let options = PutOptions {
        // A region of one node.
        ack: Some(AckLevel::Memory),
        ..PutOptions::default()
    };
    for result in near.put(&to_put(chain, blocks), options).await? {
        ensure!(matches!(result, PutResult::Acked(_)), "{result:?}");
    }
    Ok(())
}

/// Gets a chain where none of it is, and checks that the other region had it.
pub(super) async fn get(far: &Opened, chain: u64, blocks: u32) -> Result<()> {
    let options = GetOptions {
        deadline: Some(CALL_BOUND),
        ..GetOptions::default()
    };
    let got = far.get(&names(chain, blocks)?, options).await?;
    ensure!(
        got.summary.outcome == GetOutcome::Complete && got.blocks.len() == blocks as usize,
        "chain {chain}: {:?}",
        got.summary
    );
    ensure!(
        got.blocks
            .iter()
            .all(|block| block.region.to_string() == REGIONS[0].0),
        "a block of chain {chain} was there already"
    );
    Ok(())
}

/// Gets chains of one block, one after the other.
pub(super) async fn one_by_one(far: &Opened, chains: Range<u64>) -> Result<Took> {
    let mut took = Vec::new();
    for chain in chains {
        let before = Instant::now();
        get(far, chain, 1).await?;
        took.push(before.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(Took(took))
}
