//! Flags of the verbs that are one call or a few.

use std::path::PathBuf;

use clap::Subcommand;
use kvmesh_directory::RegionId;

use super::{
    policy::{AckFlag, NamespaceArgs, NamespaceRaiseArgs, NamespaceSetArgs},
    region_sync::RegionSyncArgs,
};
use crate::sizes::{Size, Span};

pub(super) const OPEN: &str = "\
All flags but --template make the namespace's id and cannot be changed later.

Example: meshctl namespace open notes --model my-model --block-tokens 16";

pub(super) const PUT: &str = "\
A block's hash is BLAKE3 over the previous block's hash and the block's bytes, as wide as the
namespace says; it is stored as part (0, 0). The chain is printed one hash a line, or written
to --chain-out.

Example: meshctl put FILE --namespace notes --block-bytes 256KiB --chain-out notes.chain";

pub(super) const GET: &str = "\
Every byte is verified twice: against the block's checksum, and against its hash. The file
appears under its name only once it is whole.

With --range only these bytes of each block are written, one range after the other, block by
block. What travels is the pieces of 1 MiB that they lie in; they are verified against the
pieces' checksums, not against hashes, which are over whole blocks.

Examples: meshctl get --namespace notes --chain notes.chain --out copy
          meshctl get --namespace notes --chain notes.chain --out heads --range 0..4KiB";

pub(super) const PREFETCH: &str = "\
The region's gateway fetches and keeps the blocks; none are sent here. --timeout bounds it.

Example: meshctl prefetch --namespace notes --chain notes.chain --gateway 127.0.0.1:7401";

pub(super) const UPGRADE: &str = "\
First restart every process of the region with the newer programs, region-syncs and gateways
before nodes. Refused while a node runs an older one; `meshctl topology show -o json` says what
each knows. There is no way back to older programs afterwards.

Example: meshctl region upgrade --node 127.0.0.1:7410";

/// Verbs about regions.
#[derive(Debug, Clone, Subcommand)]
pub enum RegionVerb {
    /// Commit the members that a node's settings list, once
    #[command(after_help = "Example: meshctl region init --node 127.0.0.1:7410")]
    Init,
    /// Let a region use what its nodes' programs have learnt, once all run them
    #[command(after_help = UPGRADE)]
    Upgrade,
    /// The regions that a gateway sees, with reach and round trip
    #[command(after_help = "Example: meshctl region list --gateway 127.0.0.1:7401")]
    List,
    /// Compare what a region knows of another one with what is there, and mend it
    #[command(after_help = super::region_sync::ABOUT)]
    Sync(RegionSyncArgs),
}

pub(super) const JOIN: &str = "\
Blocks move to the new node at once, and reads go on. A node whose settings have `join` does
this by itself. The number must be one that no member has.

Example: meshctl node join --node 127.0.0.1:7410 --id 4 --address 127.0.0.1:7440 --zone d";

pub(super) const LEAVE: &str = "\
Without --forget the node's blocks move to the others first; then stop its process. With
--forget the node is removed at once and what it held is made again from other copies: for
nodes that are lost for good.

Example: meshctl node leave 4 --node 127.0.0.1:7410";

/// Verbs about nodes.
#[derive(Debug, Clone, Subcommand)]
pub enum NodeVerb {
    /// A region's nodes, whether they live, and whether blocks move
    #[command(after_help = "Example: meshctl node list --gateway 127.0.0.1:7401")]
    List,
    /// Make a node a member of the region
    #[command(after_help = JOIN)]
    Join(JoinArgs),
    /// Take a member out of the region, and wait until its blocks have moved
    #[command(after_help = LEAVE)]
    Leave(LeaveArgs),
}

/// A node that is to be a member.
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// Its number, unique in the region, above 0.
    #[arg(long, value_name = "N")]
    pub id: u64,
    /// `host:port` by which others reach it.
    #[arg(long, value_name = "ADDR")]
    pub address: String,
    /// Its failure domain.
    #[arg(long, default_value = "")]
    pub zone: String,
    /// Its share of blocks relative to others, 1 to 16.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub weight: u32,
    /// It is to vote; without this it does only while too few do.
    #[arg(long)]
    pub voter: bool,
}

/// A member that is to go.
#[derive(Debug, Clone, clap::Args)]
pub struct LeaveArgs {
    /// Its number.
    pub id: u64,
    /// Remove it at once: it is lost for good, with its copies.
    #[arg(long)]
    pub forget: bool,
    /// Do not wait until blocks have moved.
    #[arg(long)]
    pub no_wait: bool,
}

/// Verbs about namespaces.
#[derive(Debug, Subcommand)]
pub enum NamespaceVerb {
    /// Make a namespace known; repeating it is harmless
    #[command(after_help = OPEN)]
    Open(NamespaceOpenArgs),
    /// The namespaces of a region
    #[command(after_help = "Example: meshctl namespace list -o json")]
    List,
    /// One namespace: description, policies, who wrote them
    #[command(after_help = "Example: meshctl namespace show notes")]
    Show(NamespaceArgs),
    /// Change policies of a namespace, in all regions
    #[command(after_help = super::policy::SET)]
    Set(NamespaceSetArgs),
    /// Make all blocks of a namespace unreadable, in all regions
    #[command(after_help = super::policy::RAISE)]
    Raise(NamespaceRaiseArgs),
}

/// What makes a namespace.
#[derive(Debug, Clone, clap::Args)]
pub struct NamespaceOpenArgs {
    /// Alias for people, unique in a region.
    pub name: String,
    /// Model and revision, as the engine names it.
    #[arg(long)]
    pub model: String,
    /// Element type.
    #[arg(long, default_value = "bf16")]
    pub dtype: String,
    /// Memory layout of a block, as the engine names it.
    #[arg(long, default_value = "opaque")]
    pub layout: String,
    /// Tokens of one block.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub block_tokens: u32,
    /// Bytes of one block hash, 8 to 64.
    #[arg(long, default_value_t = 32, value_name = "BYTES")]
    pub hash_width: u32,
    /// Allow hashes under 16 bytes.
    #[arg(long)]
    pub short_hashes: bool,
    /// Tensor-parallel ranks.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub shards: u32,
    /// Attention groups.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub groups: u32,
    /// Who may see the blocks.
    #[arg(long, default_value = "")]
    pub tenant: String,
    /// Keeps otherwise equal namespaces apart.
    #[arg(long, default_value = "")]
    pub salt: String,
    /// A region that may hold its bytes and see its hashes; repeat it. None: all may.
    #[arg(long)]
    pub residency: Vec<RegionId>,
    /// Policy template of the gateway, such as `default` or `always`.
    #[arg(long, default_value = "default")]
    pub template: String,
}

/// Which chain of which namespace.
#[derive(Debug, Clone, clap::Args)]
pub struct ChainArgs {
    /// Alias or id (32 hexadecimal digits) of the namespace.
    #[arg(long, value_name = "NAME")]
    pub namespace: String,
    /// Chain file: one hexadecimal hash a line, as `put --chain-out` writes it.
    #[arg(long, value_name = "FILE")]
    pub chain: PathBuf,
    /// First block that is meant, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub start: u32,
}

/// A file to store.
#[derive(Debug, Clone, clap::Args)]
pub struct PutArgs {
    /// File to store.
    pub file: PathBuf,
    /// Alias or id (32 hexadecimal digits) of the namespace; open it first.
    #[arg(long, value_name = "NAME")]
    pub namespace: String,
    /// Bytes of one block; the last one may be shorter.
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub block_bytes: Size,
    /// How sure before it is acknowledged; else as the namespace's policy says.
    #[arg(long, value_enum)]
    pub ack: Option<AckFlag>,
    /// Write the chain here instead of to standard output.
    #[arg(long, value_name = "FILE")]
    pub chain_out: Option<PathBuf>,
    /// Put blocks that a node on this host is to own through memory that it shares: its socket,
    /// or a folder of sockets; the others straight to their nodes. Says how many went which way.
    #[arg(long, value_name = "PATH")]
    pub local: Option<PathBuf>,
}

/// A file to fetch.
#[derive(Debug, Clone, clap::Args)]
pub struct GetArgs {
    /// Which chain.
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Write the blocks' bytes here, in chain order.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Keep what there is when the chain is not whole in the mesh.
    #[arg(long)]
    pub partial: bool,
    /// The hashes were not made by `put`: check the blocks' checksums only, not that the
    /// bytes make the hashes.
    #[arg(long)]
    pub opaque: bool,
    /// Wait until blocks from another region are kept in this one.
    #[arg(long)]
    pub await_fill: bool,
    /// Only these bytes of each block, from START on and before END, such as `1MiB..1.5MiB`;
    /// may be repeated, in ascending order.
    #[arg(long = "range", value_name = "START..END")]
    pub ranges: Vec<Span>,
    /// Read blocks where a node on this host keeps them: its socket, or a folder of sockets; the
    /// others straight from their nodes. Says how many came which way.
    #[arg(long, value_name = "PATH")]
    pub local: Option<PathBuf>,
}

/// Blocks to delete.
#[derive(Debug, Clone, clap::Args)]
pub struct DeleteArgs {
    /// Which chain.
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Blocks from `--start` on; 0 means to the end.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub count: u32,
}

/// A process to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct HealthArgs {
    /// Node, gateway or region-sync, host:port; `--node` or `--gateway` if none is named.
    #[arg(value_name = "ADDR")]
    pub address: Option<String>,
}

/// A chain to bring here.
#[derive(Debug, Clone, clap::Args)]
pub struct PrefetchArgs {
    /// Which chain.
    #[command(flatten)]
    pub chain: ChainArgs,
    /// The only region to fetch from.
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
}

/// A namespace to watch.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchArgs {
    /// Alias or id (32 hexadecimal digits) of the namespace.
    pub namespace: String,
    /// End after so long; 0: when interrupted.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub seconds: u64,
}
