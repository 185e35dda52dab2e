//! Flags of `meshctl drill`.

use clap::Subcommand;

use super::dev::MeshArgs;
use crate::sizes::Size;

pub(super) const ABOUT: &str = "\
Break something on purpose, under load, and see that the mesh keeps what it promises.";

const REGION_LOSS: &str = "\
Cut a whole region off while clients read and put, and let it come back.

Before it acts it says the region's safe point: how far the others have heard of it, and which
acknowledged blocks none of them has. Then it measures how soon the others notice and how soon
the region's clients are served elsewhere, deletes and raises meanwhile, verifies every block
by its bytes, and sees the region come back. --hold keeps it cut off for longer. The other regions'
clients are compared with themselves, over calm times before and after.

Without --fence and --mend it starts a mesh of its own, and ends it. With them it works on the
mesh whose gateways are named by --gateway, one per region, or by the context. It cuts nothing
off itself there: your commands do, as your site does it (routes, firewall, power), both ways and
from this machine as well. They run in a shell, with the region's name in KVMESH_DRILL_REGION,
end with 0 once it is done, and --mend also runs when the drill breaks off. What the drill puts
lies in namespaces of its own, which are raised at the end.

It exits with 1 when a promise broke, and says which.";

const REGION_LOSS_EXAMPLES: &str = "\
Examples:
  meshctl drill run region-loss --region us-east
  meshctl drill run region-loss --region us-east --hold 600 --clients 4 --p99-more-max 0.1
  meshctl drill run region-loss --region eu-west --gateway 10.0.0.5:7400,10.1.0.5:7400 \\
      --fence './cut-off.sh' --mend './let-back.sh' -o json

With certificates you call as an operator (--tls-cert), whom every gateway serves. --client-cert and
--client-key are those of the clients, one for each region: then what clients of the lost region may
elsewhere is tried as well (the setting clients_of of gateways).";

/// Verbs about drills.
#[derive(Debug, Clone, Subcommand)]
pub enum DrillVerb {
    /// Run one
    #[command(subcommand)]
    #[command(after_help = "Example: meshctl drill run region-loss --region us-east")]
    Run(DrillRun),
}

/// The drills that there are.
#[derive(Debug, Clone, Subcommand)]
pub enum DrillRun {
    /// A region is cut off, and comes back
    #[command(long_about = REGION_LOSS, after_help = REGION_LOSS_EXAMPLES)]
    RegionLoss(RegionLossArgs),
}

/// How a region is lost.
#[derive(Debug, Clone, clap::Args)]
pub struct RegionLossArgs {
    /// The region that is cut off.
    #[arg(long, value_name = "REGION")]
    pub region: String,
    /// Command that cuts the region off, for a mesh that runs already.
    #[arg(long, value_name = "COMMAND", requires = "mend")]
    pub fence: Option<String>,
    /// Command that lets it back.
    #[arg(long, value_name = "COMMAND", requires = "fence")]
    pub mend: Option<String>,
    /// Seconds that each of these commands may take.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub command_timeout: u32,
    /// Region-syncs of that mesh, host:port, all of every region: what they know is compared after
    /// the return.
    #[arg(long, value_name = "ADDR", value_delimiter = ',', requires = "fence")]
    pub region_syncs: Vec<String>,
    /// Certificate of the clients of each region, PEM, with {region} for its name; without it they
    /// call as you do, with --tls-cert.
    #[arg(long, value_name = "FILE", requires_all = ["client_key", "fence"])]
    pub client_cert: Option<String>,
    /// Its key, likewise.
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<String>,
    /// Seconds that the region stays cut off at least, under load; it is some ten without.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub hold: u32,
    /// Clients of each region. Each has its region's gateway first, then another region's.
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub clients: u16,
    /// Chains of four blocks that are put before: one half is read elsewhere, the other is not.
    #[arg(long, default_value_t = 32, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub chains: u32,
    /// Bytes of every block.
    #[arg(long, default_value = "16KiB", value_name = "SIZE")]
    pub bytes_per_block: Size,
    /// Policy template of the drill's namespaces; its fallback must fetch.
    #[arg(long, default_value = "always", value_name = "NAME")]
    pub template: String,
    /// Within so many seconds the region's clients are to be served elsewhere.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub redirect_max: f64,
    /// Within so many seconds after the return every region is to know what every other one has.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub equal_max: f64,
    /// While a region is cut off, the p99 of the other regions' clients is to be longer by this
    /// share at most, as 0.1; nothing is promised without.
    #[arg(long, value_name = "SHARE")]
    pub p99_more_max: Option<f64>,
    /// Of the mesh that it starts: seconds that a lost region answers before it is asked again
    /// [default: that of region-syncs, 30].
    #[arg(long, value_name = "SECONDS", conflicts_with = "fence")]
    pub return_after: Option<f64>,
    /// The mesh to start when none is named.
    #[command(flatten)]
    pub mesh: MeshArgs,
}
