//! Flags of `meshctl dev`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Subcommand;

use crate::{dev::rtt::REGIONS_BUILT_IN, sizes::Size};

pub(super) const ABOUT: &str = "\
Run a whole mesh in this process: regions of nodes, a gateway and a region-sync each, on loopback.

Between the regions stands a link that delays bytes by the round trips that a public cloud
publishes (us-east to eu-west 78.5 ms). Endpoints are printed; the mesh ends with SIGINT or
SIGTERM. It needs no network and no terminal.";

pub(super) const EXAMPLES: &str = "\
Examples:
  meshctl dev --demo
  meshctl dev --first-port 7400 --data-dir ./mesh";

const LINK: &str = "\
Without regions it lists all links. A change counts for connections that stand as well.

Examples:
  meshctl dev link
  meshctl dev link us-east eu-west --rtt-ms 300 --bandwidth 10MiB
  meshctl dev link us-east eu-west --down";

/// Verbs about a mesh that runs in another terminal.
#[derive(Debug, Clone, Subcommand)]
pub enum DevVerb {
    /// Show or change the links of a mesh that `meshctl dev` runs in another terminal
    #[command(after_help = LINK)]
    Link(LinkArgs),
}

/// How a link is to be.
#[derive(Debug, Clone, clap::Args)]
pub struct LinkArgs {
    /// The two regions; none: list all links.
    #[arg(value_name = "REGION", num_args = 0..=2)]
    pub regions: Vec<String>,
    /// Round trip, milliseconds.
    #[arg(long, value_name = "MS")]
    pub rtt_ms: Option<f64>,
    /// Bytes a second in each direction, all connections together; 0: not limited.
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<Size>,
    /// Reset its connections and refuse new ones.
    #[arg(long, conflicts_with = "up")]
    pub down: bool,
    /// Let it carry bytes again.
    #[arg(long)]
    pub up: bool,
    /// Socket of the mesh, as it printed it [default: that of the only one that runs].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// Flags of a mesh in this process.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    /// About a mesh that runs already.
    #[command(subcommand)]
    pub verb: Option<DevVerb>,
    /// Run the tour and exit: 0 when every promise held, 1 when one broke, 2 when the mesh
    /// could not be set up.
    #[arg(long)]
    pub demo: bool,
    /// The first region's gateway listens on this port, the next ones on the following;
    /// 0 takes free ones. Nodes and region-syncs always take free ones.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub first_port: u16,
    /// Raft logs and snapshots are kept here; without it they are gone with the process.
    /// Blocks live in memory either way.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Socket by which `meshctl dev link` reaches this mesh [default: a temporary file].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Where all processes' metrics are served, told apart by the label `instance`.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub metrics_listen: SocketAddr,
    /// Write the log here; `--demo` writes to a file of its own if none is named.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Size and links of the mesh.
    #[command(flatten)]
    pub mesh: MeshArgs,
}

/// Size and links of a dev mesh.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "The mesh")]
pub struct MeshArgs {
    /// Regions: us-east, eu-west, ap-south, then seven more.
    #[arg(
        long,
        default_value_t = 3,
        value_name = "N",
        value_parser = clap::value_parser!(u8).range(1..=REGIONS_BUILT_IN as i64)
    )]
    pub regions: u8,
    /// Nodes of each region, all of which vote: 1, 3 or 5.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = voters)]
    pub nodes: u8,
    /// Multiplies the round trips between regions; 0 means no delay. At most 2: beyond, the
    /// farthest regions cannot be reached within the connect timeout of 500 ms.
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = scale)]
    pub link_scale: f64,
    /// Memory for blocks of the whole mesh, divided by its number of nodes.
    #[arg(long, default_value = "2GiB", value_name = "SIZE")]
    pub memory: Size,
}

fn voters(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("1, 3 or 5 is possible".to_owned()),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=2.0).contains(&scale) {
        Ok(scale)
    } else {
        Err("0 to 2 is possible".to_owned())
    }
}
