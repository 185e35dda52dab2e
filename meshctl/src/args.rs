//! The flags of `meshctl`; `--help` is written here.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

pub use self::{
    bench::{Ack, BenchArgs, Work},
    context::{ContextVerb, NamedArgs},
    dev::{DevArgs, DevVerb, LinkArgs, MeshArgs},
    drill::{DrillRun, DrillVerb, RegionLossArgs},
    lease::{LeaseArgs, LeaseVerb, LookupArgs, RenewArgs},
    pki::{PkiInitArgs, PkiIssueArgs, PkiShowArgs, PkiVerb},
    policy::{NamespaceArgs, NamespaceRaiseArgs, NamespaceSetArgs},
    region_sync::RegionSyncArgs,
    replay::{Pace, ReplayArgs},
    tls::TlsArgs,
    verbs::{
        ChainArgs, DeleteArgs, GetArgs, HealthArgs, JoinArgs, LeaveArgs, NamespaceOpenArgs,
        NamespaceVerb, NodeVerb, PrefetchArgs, PutArgs, RegionVerb, WatchArgs,
    },
};
use crate::output::Format;

mod bench;
mod context;
mod dev;
mod drill;
mod lease;
mod pki;
mod policy;
mod region_sync;
mod replay;
mod tls;
mod verbs;

const AFTER_HELP: &str = "\
Examples:
  meshctl dev --demo                             a tour of a mesh, in this process
  meshctl dev --first-port 7400                  a mesh that stays; gateways on 7400 to 7402
  meshctl replay trace.jsonl --requests 100      real requests through a mesh of its own
  meshctl drill run region-loss --region us-east   lose a region of a mesh of its own, under load
  meshctl namespace open notes --model m         make a namespace known
  meshctl put FILE --namespace notes --chain-out notes.chain
  meshctl lookup --namespace notes --chain notes.chain --gateway 127.0.0.1:7401
  meshctl get --namespace notes --chain notes.chain --out copy
  meshctl delete --namespace notes --chain notes.chain
  meshctl bench --against tcp                    how fast blocks come, beside a bare copy
  meshctl region init --node 127.0.0.1:7410      form a region, once
  meshctl region list                            what a gateway sees of the others
  meshctl region sync --peer eu-west             compare what is known of one, and mend it
  meshctl topology show, meshctl node list, meshctl namespace list, meshctl stats
  meshctl namespace show notes, meshctl namespace set notes --ttl 3600
  meshctl pki init pki                           certificates for a mesh of your own
  meshctl context set lab --gateway 127.0.0.1:7400   a name for a mesh
  meshctl completions bash > /etc/bash_completion.d/meshctl

Exit codes:
  0   ok
  1   the mesh said no, or a promise broke
  2   wrong usage or set-up
  69  nothing answers at the address";

/// The operator's command line of kvmesh, a mesh of regions that keeps LLM KV blocks.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Args {
    /// Flags of all verbs.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of all verbs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of all verbs")]
pub struct Global {
    /// How to print what was found; JSON stands alone on standard output
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    #[arg(value_name = "FORMAT", hide_possible_values = true)]
    #[arg(help = "How to print what was found: table or json")]
    pub output: Format,
    /// Mesh to ask, by the name that `context set` gave it [default: the one in use]
    #[arg(long, global = true, value_name = "NAME", env = "KVMESH_CONTEXT")]
    pub context: Option<String>,
    /// File of the contexts [default: ~/.config/kvmesh/contexts.toml]
    #[arg(long, global = true, value_name = "FILE", env = "KVMESH_CONTEXTS")]
    pub contexts: Option<PathBuf>,
    /// Gateway to ask, host:port; `replay` and `drill` take one per region, separated by commas
    /// [default: 127.0.0.1:7400]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',')]
    #[arg(env = "KVMESH_GATEWAY")]
    pub gateway: Vec<String>,
    /// Node to ask instead of any gateway, host:port; for `region init`, `node join` and `node leave` [default: 127.0.0.1:7410]
    #[arg(long, global = true, value_name = "ADDR")]
    pub node: Option<String>,
    /// Region-sync to ask, host:port; for `region sync` [default: 127.0.0.1:7420]
    #[arg(long, global = true, value_name = "ADDR")]
    pub region_sync: Option<String>,
    /// Seconds that a call may take
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub timeout: u32,
    /// What to log to standard error: a level, or module=level pairs
    #[arg(long, global = true, value_name = "FILTER", default_value = LOG)]
    pub log: String,
    /// Who calls.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Problems, but for those that openraft meets and mends in every election.
pub const LOG: &str = "warn,openraft=error";
/// Address of a gateway when none is named: the gateway's own default.
const GATEWAY: &str = "127.0.0.1:7400";
/// Address of a node when none is named: the node's own default.
const NODE: &str = "127.0.0.1:7410";
/// Address of a region-sync when none is named: the region-sync's own default.
const REGION_SYNC: &str = "127.0.0.1:7420";

impl Global {
    /// The one address to ask: the node if one is named, else the first gateway.
    #[must_use]
    pub fn address(&self) -> &str {
        match &self.node {
            Some(node) => node,
            None => self.gateway.first().map_or(GATEWAY, String::as_str),
        }
    }

    /// The node to ask.
    #[must_use]
    pub fn node_address(&self) -> &str {
        self.node.as_deref().unwrap_or(NODE)
    }

    /// The region-sync to ask.
    #[must_use]
    pub fn region_sync_address(&self) -> &str {
        self.region_sync.as_deref().unwrap_or(REGION_SYNC)
    }

    /// How long a call may take.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Initialise a region, list all, compare what is known of them
    #[command(subcommand)]
    Region(RegionVerb),
    /// The ring of a region
    #[command(subcommand)]
    Topology(TopologyVerb),
    /// The nodes of a region: list, join, leave
    #[command(subcommand)]
    Node(NodeVerb),
    /// Make a namespace known, list all, change one
    #[command(subcommand)]
    Namespace(NamespaceVerb),
    /// How much of a chain is here, and in every other region
    #[command(after_help = lease::LOOKUP)]
    Lookup(LookupArgs),
    /// Hold what a lookup leased, or let it go
    #[command(subcommand)]
    Lease(LeaseVerb),
    /// Cut a file into blocks, chain them, store them
    #[command(after_help = verbs::PUT)]
    Put(PutArgs),
    /// Fetch a chain's blocks and put the file together again
    #[command(after_help = verbs::GET)]
    Get(GetArgs),
    /// Make a chain's blocks unreadable, everywhere
    #[command(after_help = "Example: meshctl delete --namespace notes --chain notes.chain")]
    Delete(DeleteArgs),
    /// Bring what other regions hold of a chain into the gateway's region
    #[command(after_help = verbs::PREFETCH)]
    Prefetch(PrefetchArgs),
    /// Print what appears in a namespace and vanishes from it
    #[command(after_help = "Example: meshctl watch notes --seconds 60 -o json")]
    Watch(WatchArgs),
    /// Counts of a region, or of a node
    #[command(after_help = "Example: meshctl stats --gateway 127.0.0.1:7401 -o json")]
    Stats,
    /// Certificates for a mesh
    #[command(subcommand, long_about = pki::ABOUT)]
    Pki(PkiVerb),
    /// Whether a process takes calls: 0 when it does, 1 when not, 69 when nothing answers
    #[command(after_help = "Example: meshctl health 127.0.0.1:7410 --timeout 2")]
    Health(HealthArgs),
    /// Names of meshes
    #[command(subcommand, long_about = context::ABOUT)]
    Context(ContextVerb),
    /// Print a shell's completions of these verbs and flags
    #[command(after_help = "Example: meshctl completions zsh > ~/.zfunc/_meshctl")]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Run a whole mesh in this process
    #[command(long_about = dev::ABOUT, after_help = dev::EXAMPLES)]
    Dev(DevArgs),
    /// Send the requests of a block-hash trace through a mesh, and verify every byte
    #[command(long_about = replay::ABOUT, after_help = replay::EXAMPLES)]
    Replay(ReplayArgs),
    /// Break something on purpose, under load, and see that promises hold
    #[command(subcommand, long_about = drill::ABOUT)]
    #[command(after_help = "Example: meshctl drill run region-loss --region us-east")]
    Drill(DrillVerb),
    /// Put load on a mesh, measure it, and do the same to peers in turn
    #[command(long_about = bench::ABOUT, after_help = bench::EXAMPLES)]
    Bench(BenchArgs),
}

/// Verbs about topology.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum TopologyVerb {
    /// Members, shares and epoch of a region
    #[command(after_help = "Example: meshctl topology show -o json")]
    Show,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        let mut open = vec![Args::command()];
        while let Some(mut command) = open.pop() {
            command.build();
            let subcommands: Vec<_> = command.get_subcommands().cloned().collect();
            let help = command.render_long_help().to_string();
            if command.get_name() != "help" {
                assert!(
                    help.contains("meshctl "),
                    "{} shows none",
                    command.get_name()
                );
            }
            open.extend(subcommands);
        }
    }
}
