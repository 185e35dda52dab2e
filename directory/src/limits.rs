//! Every limit, with its unit, checked against the others at compile time.
//! `docs/protocol.md` lists them.

/// Bytes of one gRPC message; set on every server and client.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes of one piece of a block; the last piece of a block may be shorter.
pub const PIECE_BYTES: usize = 1 << 20;
/// Bytes of one block.
pub const BLOCK_BYTES_MAX: u64 = 256 << 20;
/// Pieces of one block.
pub const BLOCK_PIECES_MAX: usize = (BLOCK_BYTES_MAX as usize).div_ceil(PIECE_BYTES);
/// Byte ranges of one get, the same for each of its blocks.
pub const RANGES_MAX: usize = 256;
/// Blocks of one chain.
pub const CHAIN_BLOCKS_MAX: usize = 65_536;
/// Chains of one lookup.
pub const LOOKUP_CHAINS_MAX: usize = 256;
/// Hashes of one lookup, over all chains.
pub const LOOKUP_HASHES_MAX: usize = 65_536;
/// Bytes of an engine's hash, at least.
pub const HASH_WIDTH_MIN: usize = 8;
/// Bytes of an engine's hash under which the description must say `short_hashes`.
pub const HASH_WIDTH_SHORT: usize = 16;
/// Bytes of an engine's hash, at most.
pub const HASH_WIDTH_MAX: usize = 64;
/// Shards times groups of one namespace.
pub const PARTS_MAX: u32 = 1_024;
/// Bytes of a region's name.
pub const REGION_NAME_BYTES_MAX: usize = 32;
/// Bytes of a namespace's name, and of each text of its description.
pub const TEXT_BYTES_MAX: usize = 256;
/// Namespaces of one region.
pub const NAMESPACES_MAX: usize = 65_536;
/// Regions of one mesh; the mesh view keeps a bit for each.
pub const REGIONS_MAX: usize = 64;
/// Transfers over links that a gateway tells its region-syncs of in one call.
pub const LINK_TRANSFERS_MAX: usize = 1_024;
/// Bytes that say nothing, for which a gateway asks one of another region at a time.
pub const LINK_MEASURE_BYTES_MAX: u64 = 64 << 20;
/// Ranges of tags in which regions are compared; a power of two.
pub const DIGEST_RANGES: usize = 1_024;
/// Wants after which a chain is kept, at most.
pub const HOT_AFTER_MAX: u32 = 100;
/// Nodes of one region.
pub const NODES_MAX: usize = 1_024;
/// Copies of one block.
pub const REPLICAS_MAX: u32 = 8;
/// Weight of a node, at most; virtual nodes are weight times [`VIRTUAL_NODES_PER_WEIGHT`].
pub const WEIGHT_MAX: u32 = 16;
/// Virtual nodes of a node of weight 1. With 10 equal nodes the worst of 100 rings
/// then has 1.06 times the mean arc.
pub const VIRTUAL_NODES_PER_WEIGHT: u32 = 4_096;
/// Block changes in one log entry.
pub const ENTRY_CHANGES_MAX: usize = 256;
/// Names in one delete command; a larger delete is several commands.
pub const DELETE_NAMES_MAX: usize = 4_096;
/// Entries of one shard of the directory.
pub const SHARD_ENTRIES_MAX: usize = 4_096;
/// Tombstones of one region.
pub const TOMBSTONES_MAX: usize = 1 << 20;
/// Milliseconds for which a lease is granted at once; it can be renewed.
pub const LEASE_MS_MAX: u64 = 300_000;
/// Blocks of one lease, counted over all parts.
pub const LEASE_BLOCKS_MAX: usize = 65_536;
/// Leases of one node.
pub const LEASES_MAX: usize = 4_096;
/// Copies of all leases of one node; one that several leases share counts for each.
pub const LEASED_COPIES_MAX: usize = 262_144;
/// Leased copies take at most this part of a node's memory for blocks.
pub const LEASED_MEMORY_PART: u64 = 4;
/// One namespace takes at most this part (half) of a node's leases, of the copies that they
/// cover and of the memory for these.
pub const LEASED_NAMESPACE_PART: u64 = 2;
/// Memory that clients on a node's host can map takes at most this part (half) of its memory
/// for blocks.
pub const MAPPED_MEMORY_PART: u64 = 2;
/// Bytes of one packet between a node and a client on its host.
pub const LOCAL_PACKET_BYTES_MAX: usize = 64 << 10;
/// Blocks that a client asks of a node on its host at once.
pub const LOCAL_BLOCKS_MAX: usize = 256;
/// Connections of clients on a node's host to it, one for each namespace.
pub const LOCAL_CLIENTS_MAX: usize = 256;
/// What all clients on a node's host have leased takes at most this part (a quarter) of its
/// memory for blocks.
pub const LOCAL_LEASED_PART: u64 = 4;
/// One of them has leased at most this part (half) of it.
pub const LOCAL_CLIENT_PART: u64 = 2;
/// Memory that clients on a node's host put blocks into takes at most this part (half) of the
/// bytes that may be in flight.
pub const LOCAL_STAGING_PART: u64 = 2;
/// One connection has at most this part (a sixteenth) of them, but a piece at least.
pub const LOCAL_STAGING_CLIENT_PART: u64 = 16;
/// Bytes of one connection for puts.
pub const LOCAL_STAGING_BYTES_MAX: u64 = 8 << 20;
/// Pieces that lie in it at a time.
pub const LOCAL_PIECES_MAX: usize = 256;
/// Format of the log's commands that this build writes.
pub const FEATURE_LEVEL: u32 = 5;
/// From this feature level on a start fills the place of a voter that went while nobody lived.
pub const FEATURE_BEGIN_FILLS_VOTERS: u32 = 2;
/// From this feature level on a policy keeps what attention and GPUs cost.
pub const FEATURE_COSTS: u32 = 3;
/// From this feature level on a policy keeps the regions that blocks are brought to, and after
/// how many wants.
pub const FEATURE_REGIONS: u32 = 4;
/// From this feature level on nodes keep what went through a lossy encoding as such.
pub const FEATURE_LOSSY: u32 = 5;
/// Version of the wire protocol.
pub const PROTOCOL_VERSION: u32 = 1;

const _: () = assert!(
    FEATURE_BEGIN_FILLS_VOTERS < FEATURE_COSTS
        && FEATURE_COSTS < FEATURE_REGIONS
        && FEATURE_REGIONS < FEATURE_LOSSY
        && FEATURE_LOSSY <= FEATURE_LEVEL
);
const _: () = assert!(
    PIECE_BYTES * 2 <= MESSAGE_BYTES_MAX,
    "a piece and its header fit a message"
);
const _: () = assert!(
    CHAIN_BLOCKS_MAX * HASH_WIDTH_MAX + (1 << 20) <= MESSAGE_BYTES_MAX,
    "the longest chain fits a message"
);
const _: () = assert!(
    CHAIN_BLOCKS_MAX * HASH_WIDTH_MAX + RANGES_MAX * 32 + (1 << 20) <= MESSAGE_BYTES_MAX,
    "the longest chain and all ranges fit a message"
);
const _: () = assert!(
    LOOKUP_HASHES_MAX >= CHAIN_BLOCKS_MAX,
    "any one chain can be looked up"
);
const _: () = assert!(
    BLOCK_BYTES_MAX <= u32::MAX as u64,
    "a block's size fits 32 bits"
);
const _: () = assert!(HASH_WIDTH_MIN < HASH_WIDTH_SHORT && HASH_WIDTH_SHORT <= HASH_WIDTH_MAX);
const _: () = assert!(
    DIGEST_RANGES.is_power_of_two() && DIGEST_RANGES * 16 <= MESSAGE_BYTES_MAX,
    "a digest fits a message, and a tag's highest bits say its range"
);
const _: () = assert!(
    REGIONS_MAX <= u64::BITS as usize,
    "a set of regions fits 64 bits"
);
const _: () = assert!(
    LEASE_BLOCKS_MAX * 64 <= MESSAGE_BYTES_MAX,
    "the keys of a lease fit a message"
);
const _: () = assert!(
    LEASE_BLOCKS_MAX * LEASED_NAMESPACE_PART as usize <= LEASED_COPIES_MAX
        && LEASES_MAX <= LEASED_COPIES_MAX,
    "one namespace may hold the longest lease"
);
const _: () = assert!(
    LEASE_MS_MAX <= u32::MAX as u64,
    "a hold fits its field on the wire"
);
const _: () = assert!(DELETE_NAMES_MAX * 64 <= MESSAGE_BYTES_MAX);
const _: () = assert!(LINK_TRANSFERS_MAX * 128 <= MESSAGE_BYTES_MAX);
const _: () = assert!(
    LOCAL_BLOCKS_MAX * 64 + REGIONS_MAX * 64 <= LOCAL_PACKET_BYTES_MAX / 2,
    "what is asked for fits half a packet, and leases that end the other half"
);
const _: () = assert!(
    LOCAL_STAGING_BYTES_MAX >= PIECE_BYTES as u64
        && LOCAL_STAGING_BYTES_MAX.is_multiple_of(PIECE_BYTES as u64)
        && LOCAL_STAGING_CLIENT_PART >= LOCAL_STAGING_PART,
    "a piece fits, and several connections find room"
);
const _: () = assert!(
    LOCAL_PIECES_MAX * 32 <= LOCAL_PACKET_BYTES_MAX / 2,
    "what is staged, or taken, fits half a packet"
);
const _: () = assert!(
    BLOCK_PIECES_MAX * 64 <= LOCAL_PACKET_BYTES_MAX,
    "where one block lies fits a packet"
);
const _: () = assert!(
    LOCAL_LEASED_PART >= MAPPED_MEMORY_PART,
    "what is leased fits what can be mapped"
);
