//! Flags of `meshctl region sync`.

use std::str::FromStr;

use kvmesh_directory::{FeedPosition, LogIncarnation, RegionId};

pub(super) const ABOUT: &str = "\
Compares what a region-sync knows of another region with what that region has, at one moment of
both, and mends what differs: there and at its gateways. Region-syncs do so by themselves, every
10 minutes; two of them in a region know for themselves: name each with --region-sync.

--from-zero reads all of the other region again, its deletes included; gateways go on with what
they know until it is whole. --since follows its feed again from a position, which takes less and
is refused when its log is not kept so far back.

Examples: meshctl region sync --peer eu-west --region-sync 127.0.0.1:7420
          meshctl region sync --peer eu-west --since 48210
          meshctl region sync --peer eu-west --from-zero";

/// What to synchronise.
#[derive(Debug, Clone, clap::Args)]
pub struct RegionSyncArgs {
    /// The other region, as the region-sync's settings name it.
    #[arg(long, value_name = "REGION")]
    pub peer: RegionId,
    /// Read all of it again.
    #[arg(long, conflicts_with = "since")]
    pub from_zero: bool,
    /// Follow its feed again from here: a log index, or LOG/INDEX as this verb prints them.
    #[arg(long, value_name = "POSITION")]
    pub since: Option<Since>,
}

/// A position in a region's feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// None: of the log that is followed.
    log: Option<u64>,
    index: u64,
}

impl Since {
    /// As a position of a region.
    #[must_use]
    pub fn of(&self, region: &RegionId) -> FeedPosition {
        FeedPosition {
            region: region.clone(),
            log_incarnation: LogIncarnation(self.log.unwrap_or_default()),
            index: self.index,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let read = text.parse::<u64>();
            read.map_err(|_| format!("{text:?} is no number: write INDEX, or LOG/INDEX"))
        };
        match text.split_once('/') {
            None => Ok(Self {
                log: None,
                index: number(text)?,
            }),
            Some((log, index)) => Ok(Self {
                log: Some(number(log)?),
                index: number(index)?,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_index_with_or_without_its_log() {
        let region: RegionId = "eu".parse().unwrap();
        let at = |text: &str| {
            let position = text.parse::<Since>().unwrap().of(&region);
            (position.log_incarnation.0, position.index)
        };
        assert_eq!(at("7"), (0, 7));
        assert_eq!(at("18446744073709551615/7"), (u64::MAX, 7));
        for wrong in ["", "7/", "/7", "eu@7", "-1", "1/2/3"] {
            let why = wrong.parse::<Since>().unwrap_err();
            assert!(why.contains("LOG/INDEX"), "{wrong}: {why}");
        }
    }
}
