//! What regions were served beside the ideal: a mesh that knows at once what each region has,
//! evicts nothing, and brings each block once to each region that wants it. Pure.

use serde::Serialize;

use super::{
    drive::{Seen, Served},
    latency::Percentiles,
};
use crate::{
    meters,
    output::{self, ms},
    sizes::human,
};

/// What gateways count as fetched.
const FETCHED: &str = "kvmesh_gateway_fetched_bytes_total";

/// All regions beside the ideal.
#[derive(Debug, Serialize)]
pub struct Ideal {
    /// By region.
    pub regions: Vec<Row>,
    /// Blocks served of those that only other regions have, over all of those.
    pub remote_hits: f64,
    /// Bytes that gateways fetched from other regions, over those of the ideal; none where they
    /// do not say.
    pub wan_bytes: Option<f64>,
    /// Blocks of the ideal's remote hits that were not served: an earlier request was not done
    /// with a block when the later one began.
    pub early_blocks: u64,
    /// The same: the block was in the mesh already.
    pub unseen_blocks: u64,
    /// For how long it was, by request.
    pub unseen_ms: Percentiles,
}

/// One region.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub region: String,
    /// Requests that came to it.
    pub requests: u64,
    /// Blocks that they wanted.
    pub references: u64,
    /// Served from the region itself.
    pub local_hits: u64,
    /// The same in the ideal.
    pub local_ideal: u64,
    /// Served of those blocks that in the ideal only other regions have, wherever they came from.
    pub remote_hits: u64,
    /// All of those.
    pub remote_ideal: u64,
    /// Bytes of blocks that came from other regions, as its gateways say.
    pub fetched_bytes: Option<u64>,
    /// The same in the ideal.
    pub ideal_bytes: u64,
}

/// A share of what may be nothing.
fn share(part: u64, whole: u64) -> f64 {
    match (part, whole) {
        (0, 0) => 1.0,
        (part, whole) => part as f64 / whole as f64,
    }
}

impl Ideal {
    /// From what was seen, and the page of the gateways' metrics, if there is one.
    ///
    /// # Errors
    /// When the page has something else than numbers.
    pub fn new(
        seen: &Seen,
        regions: &[String],
        block_bytes: u64,
        page: Option<&str>,
    ) -> anyhow::Result<Self> {
        let row = |(region, served): (&String, &Served)| {
            let of_region = format!("instance=\"{region}/");
            let fetched = page.map(|page| meters::sum(page, FETCHED, &of_region));
            anyhow::Ok(Row {
                region: region.clone(),
                requests: served.requests,
                references: served.split.references(),
                local_hits: served.split.local,
                local_ideal: served.want.local,
                remote_hits: served.remote_only,
                remote_ideal: served.want.remote,
                fetched_bytes: fetched.transpose()?.map(|bytes| bytes as u64),
                ideal_bytes: served.want.remote * block_bytes,
            })
        };
        let rows = regions.iter().zip(&seen.regions).map(row);
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum();
        let fetched: Option<u64> = rows.iter().map(|row| row.fetched_bytes).sum();
        Ok(Self {
            remote_hits: share(sum(|row| row.remote_hits), sum(|row| row.remote_ideal)),
            wan_bytes: fetched.map(|bytes| share(bytes, sum(|row| row.ideal_bytes))),
            early_blocks: seen.early_blocks,
            unseen_blocks: seen.unseen_blocks,
            unseen_ms: seen.unseen.percentiles(),
            regions: rows,
        })
    }

    /// The bars that it misses.
    #[must_use]
    pub fn missed(&self, hits_min: Option<f64>, bytes_max: Option<f64>) -> Vec<String> {
        let mut missed = Vec::new();
        let few = hits_min.filter(|least| self.remote_hits < *least);
        if let Some(least) = few {
            missed.push(format!(
                "{:.4} of the ideal's remote hits were served: {least} is the least",
                self.remote_hits
            ));
        }
        let bytes = self.wan_bytes.unwrap_or(f64::INFINITY);
        if let Some(most) = bytes_max.filter(|most| bytes > *most) {
            missed.push(format!(
                "{bytes:.4} of the ideal's bytes were fetched: {most} is the most"
            ));
        }
        missed
    }

    pub(super) fn table(&self) -> String {
        let heads = [
            "region", "requests", "blocks", "local", "ideal", "remote", "ideal", "fetched", "ideal",
        ];
        let mut table = output::table(&heads, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for row in &self.regions {
            table.add_row(vec![
                row.region.clone(),
                row.requests.to_string(),
                row.references.to_string(),
                row.local_hits.to_string(),
                row.local_ideal.to_string(),
                row.remote_hits.to_string(),
                row.remote_ideal.to_string(),
                row.fetched_bytes.map_or("-".to_owned(), human),
                human(row.ideal_bytes),
            ]);
        }
        let bytes = self.wan_bytes.map(|share| format!("{share:.4}"));
        format!(
            "{table}\n{:.4} of the ideal's remote hits served, {} of its bytes fetched; not served: \
             {} blocks that an earlier request was not done with, {} that were there for {} \
             (median) to {}",
            self.remote_hits,
            bytes.unwrap_or_else(|| "an unknown share".to_owned()),
            self.early_blocks,
            self.unseen_blocks,
            ms(self.unseen_ms.p50),
            ms(self.unseen_ms.max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::bound::Split;

    const PAGE: &str =
        "kvmesh_gateway_fetched_bytes_total{instance=\"eu/gateway-1\",peer=\"us\"} 800
kvmesh_gateway_fetched_bytes_total{instance=\"eu/gateway-2\",peer=\"us\"} 40
kvmesh_gateway_fetched_bytes_total{instance=\"us/gateway-1\",peer=\"eu\"} 100
";

    /// Of 10 blocks that eu has to fetch `served` come, and the one that us has to fetch does.
    fn ideal(served: u64, page: Option<&str>) -> Ideal {
        let mut seen = Seen::new(2, 0).unwrap();
        for (region, served, wanted) in [(0, 1, 1), (1, served, 10)] {
            seen.regions[region].remote_only = served;
            seen.regions[region].want = Split {
                remote: wanted,
                ..Split::default()
            };
        }
        let regions = ["us".to_owned(), "eu".to_owned()];
        Ideal::new(&seen, &regions, 100, page).unwrap()
    }

    #[test]
    fn bars_are_missed_by_a_little_too_few_hits_and_a_little_too_many_bytes() {
        let all = ideal(10, Some(PAGE));
        assert_eq!(all.missed(Some(1.0), Some(0.855)), [""; 0]);
        assert_eq!(all.missed(None, Some(0.854)).len(), 1);
        assert_eq!(all.regions[1].fetched_bytes, Some(840));
        let some = ideal(9, Some(PAGE));
        assert_eq!(some.missed(Some(0.9), None), [""; 0]);
        assert_eq!(some.missed(Some(0.91), None).len(), 1);
    }

    #[test]
    fn bytes_that_nobody_counts_miss_a_bar() {
        assert_eq!(ideal(10, None).missed(None, Some(1_000.0)).len(), 1);
        assert_eq!(ideal(10, None).missed(None, None), [""; 0]);
    }
}
