//! The flags of `meshctl`; `--help` is written here.

use std::time::Duration;

use clap::{Parser, Subcommand};

pub use self::{
    dev::{DevArgs, MeshArgs},
    replay::{Pace, ReplayArgs},
    verbs::{
        ChainArgs, DeleteArgs, GetArgs, NamespaceOpenArgs, NamespaceVerb, PutArgs, RegionVerb,
    },
};
use crate::output::Format;

mod dev;
mod replay;
mod verbs;

const AFTER_HELP: &str = "\
Examples:
  meshctl dev --demo                               a tour of a mesh, in one process
  meshctl dev --first-port 7400                    a mesh that stays; gateways on 7400, 7401, 7402
  meshctl namespace open notes --model my-model    make a namespace known
  meshctl put FILE --namespace notes --chain-out notes.chain
  meshctl lookup --namespace notes --chain notes.chain --gateway 127.0.0.1:7401
  meshctl get --namespace notes --chain notes.chain --out copy
  meshctl replay trace.jsonl --requests 100        real requests through a mesh of its own

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
pub struct Global {
    /// How to print what was found; JSON stands alone on standard output.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// Gateway to ask, host:port [default: 127.0.0.1:7400]. `replay` takes several: one per
    /// region, separated by commas.
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        value_delimiter = ',',
        env = "KVMESH_GATEWAY"
    )]
    pub gateway: Vec<String>,
    /// Node to ask instead of a gateway, host:port. `region init` asks 127.0.0.1:7410 by default.
    #[arg(long, global = true, value_name = "ADDR", conflicts_with = "gateway")]
    pub node: Option<String>,
    /// Seconds that a call may take.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=3_600)
    )]
    pub timeout: u32,
    /// What to log to standard error: a level, or module=level pairs.
    #[arg(long, global = true, value_name = "FILTER", default_value = LOG)]
    pub log: String,
}

/// Problems, but for those that openraft meets and mends in every election.
pub const LOG: &str = "warn,openraft=error";
/// Address of a gateway when none is named: the gateway's own default.
const GATEWAY: &str = "127.0.0.1:7400";
/// Address of a node when none is named: the node's own default.
const NODE: &str = "127.0.0.1:7410";

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

    /// How long a call may take.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Regions of the mesh. Example: meshctl region list
    #[command(subcommand)]
    Region(RegionVerb),
    /// The ring of a region. Example: meshctl topology show
    #[command(subcommand)]
    Topology(TopologyVerb),
    /// Nodes of a region. Example: meshctl node list
    #[command(subcommand)]
    Node(NodeVerb),
    /// Namespaces: which blocks are interchangeable. Example: meshctl namespace list
    #[command(subcommand)]
    Namespace(NamespaceVerb),
    /// How much of a chain is here and in every other region.
    /// Example: meshctl lookup --namespace notes --chain notes.chain
    Lookup(ChainArgs),
    /// Cut a file into blocks, chain them and store them.
    /// Example: meshctl put FILE --namespace notes --block-bytes 256KiB --chain-out notes.chain
    Put(PutArgs),
    /// Fetch a chain's blocks and put the file together again.
    /// Example: meshctl get --namespace notes --chain notes.chain --out copy
    Get(GetArgs),
    /// Make a chain's blocks unreadable, everywhere.
    /// Example: meshctl delete --namespace notes --chain notes.chain
    Delete(DeleteArgs),
    /// Counts of a gateway's or a node's region. Example: meshctl stats -o json
    Stats,
    /// Run a whole mesh in one process. Example: meshctl dev --demo
    Dev(DevArgs),
    /// Send the requests of a block-hash trace through gateways, and verify every byte.
    /// Example: meshctl replay trace.jsonl --requests 2000 --pace settled --link-scale 0 -o json
    Replay(ReplayArgs),
}

/// Verbs about topology.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum TopologyVerb {
    /// Members, shares and epoch of a region. Example: meshctl topology show -o json
    Show,
}

/// Verbs about nodes.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum NodeVerb {
    /// A region's nodes, and whether they live. Example: meshctl node list
    List,
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
