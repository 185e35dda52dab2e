//! Flags of the verbs about leases.

use std::time::Duration;

use clap::Subcommand;

use super::verbs::ChainArgs;

pub(super) const LOOKUP: &str = "\
With --hold the blocks that this region has of the chain are kept from being evicted, at most
5 minutes; the lease that is printed renews and releases that.

Example: meshctl lookup --namespace notes --chain notes.chain --hold 30s";

pub(super) const RENEW: &str = "Example: meshctl lease renew LEASE --namespace notes --hold 1m";

pub(super) const RELEASE: &str = "Example: meshctl lease release LEASE --namespace notes";

/// A chain to look up.
#[derive(Debug, Clone, clap::Args)]
pub struct LookupArgs {
    /// Which chain.
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Keep what is here of it for so long, such as 30s, 500ms or 2m.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub hold: Option<Duration>,
}

/// Verbs about leases.
#[derive(Debug, Clone, Subcommand)]
pub enum LeaseVerb {
    /// Hold a lease for longer
    #[command(after_help = RENEW)]
    Renew(RenewArgs),
    /// Let what a lease holds go
    #[command(after_help = RELEASE)]
    Release(LeaseArgs),
}

/// A lease.
#[derive(Debug, Clone, clap::Args)]
pub struct LeaseArgs {
    /// As `meshctl lookup --hold` printed it.
    pub lease: String,
    /// Alias or id (32 hexadecimal digits) of its namespace.
    #[arg(long, value_name = "NAME")]
    pub namespace: String,
}

/// A lease, and for how long to hold it.
#[derive(Debug, Clone, clap::Args)]
pub struct RenewArgs {
    /// Which one.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// From now on.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    pub hold: Duration,
}

/// A number and a unit.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write 30s, 500ms or 2m, at least 1ms");
    let at = text
        .find(|letter: char| !letter.is_ascii_digit())
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        None | Some(0) => Err(wrong()),
        Some(ms) => Ok(Duration::from_millis(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        let cases = [
            ("30s", Some(30_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
        ];
        let wrong = [
            "",
            "30",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "1h",
            "99999999999999999999s",
        ];
        let cases = cases
            .into_iter()
            .chain(wrong.into_iter().map(|text| (text, None)));
        for (text, ms) in cases {
            assert_eq!(time(text).ok(), ms.map(Duration::from_millis), "{text:?}");
        }
    }
}
