//! Namespaces: what makes two blocks interchangeable, and the policies over them.

use crate::{
    limits::{
        FEATURE_COSTS, FEATURE_LOSSY, FEATURE_REGIONS, HASH_WIDTH_MAX, HASH_WIDTH_MIN,
        HASH_WIDTH_SHORT, HOT_AFTER_MAX, PARTS_MAX, REGIONS_MAX, REPLICAS_MAX, TEXT_BYTES_MAX,
    },
    words::{Hlc, NamespaceId, Part, RegionId},
};

/// Prefixes the canonical form, so that no other use of BLAKE3 gives the same id.
const ID_CONTEXT: &str = "kvmesh 2026-11 namespace description v1";

/// Bytes of a hash in its canonical form.
pub const CANONICAL_BYTES: u32 = 32;

/// Wants after which a `Hot` namespace keeps a block, unless its policy says another number: the
/// first may be the only one, the second shows that it was not, the third that it goes on.
pub const HOT_AFTER: u32 = 3;

/// What makes two blocks interchangeable; immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Model and revision, as the engine names it.
    pub model: String,
    /// Element type, such as `bf16`.
    pub dtype: String,
    /// Memory layout of a block, as the engine names it.
    pub layout: String,
    /// Tokens of one block.
    pub block_tokens: u32,
    /// Bytes of one engine hash.
    pub hash_width: u32,
    /// Allows hashes of fewer than 16 bytes.
    pub short_hashes: bool,
    /// Tensor-parallel ranks.
    pub shard_count: u32,
    /// Attention groups.
    pub group_count: u32,
    /// Who may see the blocks.
    pub tenant: String,
    /// Mixed into the id; keeps otherwise equal namespaces apart.
    pub salt: Vec<u8>,
    /// Regions that may hold its bytes or see its hashes; empty means all. Ascending, without repeats.
    pub residency: Vec<RegionId>,
}

/// A field of a description that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of the namespace description is {got}: {want}")]
pub struct DescriptionError {
    /// Field, as on the wire.
    pub field: &'static str,
    /// What was there.
    pub got: String,
    /// What may be there.
    pub want: &'static str,
}

impl Description {
    /// Whether every field is possible.
    ///
    /// # Errors
    /// The first field that is not.
    pub fn check(&self) -> Result<(), DescriptionError> {
        let wrong = |field, got: &dyn ToString, want| {
            Err(DescriptionError {
                field,
                got: got.to_string(),
                want,
            })
        };
        for (field, text) in [
            ("model", &self.model),
            ("dtype", &self.dtype),
            ("layout", &self.layout),
            ("tenant", &self.tenant),
        ] {
            if text.len() > TEXT_BYTES_MAX {
                return wrong(
                    field,
                    &format!("{} bytes long", text.len()),
                    "at most 256 bytes",
                );
            }
        }
        if self.model.is_empty() {
            return wrong("model", &"empty", "name the model");
        }
        if self.salt.len() > TEXT_BYTES_MAX {
            return wrong(
                "salt",
                &format!("{} bytes long", self.salt.len()),
                "at most 256 bytes",
            );
        }
        if !(1..=65_536).contains(&self.block_tokens) {
            return wrong("block_tokens", &self.block_tokens, "1 to 65536");
        }
        let width = self.hash_width as usize;
        if !(HASH_WIDTH_MIN..=HASH_WIDTH_MAX).contains(&width) {
            return wrong("hash_width", &width, "8 to 64 bytes");
        }
        if width < HASH_WIDTH_SHORT && !self.short_hashes {
            return wrong("hash_width", &width, "under 16 bytes needs short_hashes");
        }
        let parts = u64::from(self.shard_count) * u64::from(self.group_count);
        if parts == 0 || parts > u64::from(PARTS_MAX) {
            return wrong("shard_count x group_count", &parts, "1 to 1024");
        }
        Ok(())
    }

    /// 128 bits of BLAKE3 over the canonical form: every field in order, texts with
    /// their length before them (u32, little endian), so no two descriptions share a form.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
        let mut text = |raw: &[u8]| {
            hasher.update(&(raw.len() as u32).to_le_bytes());
            hasher.update(raw);
        };
        text(self.model.as_bytes());
        text(self.dtype.as_bytes());
        text(self.layout.as_bytes());
        for number in [
            self.block_tokens,
            self.hash_width,
            u32::from(self.short_hashes),
            self.shard_count,
            self.group_count,
        ] {
            text(&number.to_le_bytes());
        }
        text(self.tenant.as_bytes());
        text(&self.salt);
        text(&(self.residency.len() as u32).to_le_bytes());
        for region in &self.residency {
            text(region.as_str().as_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        NamespaceId(id)
    }

    /// Whether its residency lets a region hold its bytes and see its hashes; an empty one names
    /// all regions.
    #[must_use]
    pub fn resides_in(&self, region: &RegionId) -> bool {
        self.residency.is_empty() || self.residency.contains(region)
    }

    /// The bytes of a hash as they must be where a message has hashes of `said` bytes: the
    /// engine's, or the canonical form of longer ones, by which regions and nodes know them.
    #[must_use]
    pub fn width_where(&self, said: u32) -> u32 {
        let canonical = self.hash_width > CANONICAL_BYTES && said == CANONICAL_BYTES;
        if canonical { said } else { self.hash_width }
    }

    /// Whether the description has this part.
    #[must_use]
    pub fn has_part(&self, part: Part) -> bool {
        u32::from(part.shard) < self.shard_count && u32::from(part.group) < self.group_count
    }

    /// Every part, shards outermost.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let (shards, groups) = (self.shard_count as u16, self.group_count as u16);
        (0..shards).flat_map(move |shard| (0..groups).map(move |group| Part { shard, group }))
    }

    /// Names of the fields in which two descriptions differ, as on the wire.
    #[must_use]
    pub fn differing(&self, other: &Description) -> Vec<&'static str> {
        [
            ("model", self.model != other.model),
            ("dtype", self.dtype != other.dtype),
            ("layout", self.layout != other.layout),
            ("block_tokens", self.block_tokens != other.block_tokens),
            ("hash_width", self.hash_width != other.hash_width),
            ("short_hashes", self.short_hashes != other.short_hashes),
            ("shard_count", self.shard_count != other.shard_count),
            ("group_count", self.group_count != other.group_count),
            ("tenant", self.tenant != other.tenant),
            ("salt", self.salt != other.salt),
            ("residency", self.residency != other.residency),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// How sure a put is before it is acknowledged; ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// The primary owner holds it in memory.
    Memory,
    /// As many distinct nodes as there are replicas hold it.
    Replicated,
    /// It is on disk on all of them.
    Durable,
}

/// What a get does about blocks that only another region has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Fetch when that is expected to beat recomputing.
    WhenFaster,
    /// Fetch, bounded only by the call's deadline.
    Always,
    /// Do not fetch.
    Never,
}

/// When blocks are copied to other regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationMode {
    /// A remote hit fills the asking region.
    OnDemand,
    /// As `OnDemand`; every block is brought to the named regions besides.
    Push,
    /// A remote hit is served, and kept once it was wanted often enough.
    Hot,
    /// A remote hit is served and not kept.
    None,
}

/// What an operator may change about a namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Copies of each block in a region, 1 to [`REPLICAS_MAX`].
    pub replicas: u32,
    /// Acknowledgement of puts that name no level.
    pub ack: AckLevel,
    /// Milliseconds; 0: blocks do not expire.
    pub ttl_ms: u64,
    /// Thousandths of the region's memory.
    pub quota_permille: u32,
    /// About blocks that only another region has.
    pub fallback: Fallback,
    /// About copies in other regions.
    pub replication: ReplicationMode,
    /// Of `Push`: where every block is brought to. Of `Hot`: the only ones that keep what is
    /// wanted often; empty means all. Ascending, without repeats.
    pub regions: Vec<RegionId>,
    /// Of `Hot`: wants after which a region keeps a block; 0 means [`HOT_AFTER`].
    pub hot_after: u32,
    /// Allows lossy encodings on links, and what came by them to be kept and served.
    pub lossy: bool,
    /// Blocks to promote ahead of a reader.
    pub prefetch_blocks: u32,
    /// Tokens per second; 0: unknown.
    pub prefill_rate: f64,
    /// Tokens at which attention doubles the time of prefill; 0: it does not count.
    pub attention_growth: f64,
    /// Of all GPUs that compute one request together; 0: unknown.
    pub dollars_per_gpu_hour: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            replicas: 2,
            ack: AckLevel::Replicated,
            ttl_ms: 24 * 3_600 * 1_000,
            quota_permille: 500,
            fallback: Fallback::WhenFaster,
            replication: ReplicationMode::OnDemand,
            regions: Vec::new(),
            hot_after: 0,
            lossy: false,
            prefetch_blocks: 16,
            prefill_rate: 0.0,
            attention_growth: 0.0,
            dollars_per_gpu_hour: 0.0,
        }
    }
}

impl Policy {
    /// Whether the number of replicas is possible.
    #[must_use]
    pub fn replicas_fit(&self) -> bool {
        (1..=REPLICAS_MAX).contains(&self.replicas)
    }

    /// What recomputing costs, by the names on the wire; 0 is unknown, or none.
    #[must_use]
    pub fn costs(&self) -> [(&'static str, f64); 3] {
        [
            ("prefill_rate", self.prefill_rate),
            ("attention_growth", self.attention_growth),
            ("dollars_per_gpu_hour", self.dollars_per_gpu_hour),
        ]
    }

    /// The first of its costs that is no number of at least 0.
    #[must_use]
    pub fn impossible_cost(&self) -> Option<(&'static str, f64)> {
        let mut costs = self.costs().into_iter();
        costs.find(|(_, cost)| !(cost.is_finite() && *cost >= 0.0))
    }

    /// Whether every block of the namespace is brought to a region.
    #[must_use]
    pub fn pushes_to(&self, region: &RegionId) -> bool {
        self.replication == ReplicationMode::Push && self.regions.contains(region)
    }

    /// Whether what a get fetches from another region is kept at once.
    #[must_use]
    pub fn keeps_fetched(&self) -> bool {
        matches!(
            self.replication,
            ReplicationMode::OnDemand | ReplicationMode::Push
        )
    }

    /// Wants after which a region keeps a block; none: by wants it keeps nothing.
    #[must_use]
    pub fn hot_after(&self, region: &RegionId) -> Option<u32> {
        let named = self.regions.is_empty() || self.regions.contains(region);
        let hot = self.replication == ReplicationMode::Hot && named;
        hot.then_some(match self.hot_after {
            0 => HOT_AFTER,
            after => after,
        })
    }

    /// Whether so many regions and wants are possible.
    #[must_use]
    pub fn regions_fit(&self) -> bool {
        self.regions.len() <= REGIONS_MAX && self.hot_after <= HOT_AFTER_MAX
    }

    /// What is wrong with its regions, for a namespace of this description.
    #[must_use]
    pub fn impossible_regions(&self, description: &Description) -> Option<String> {
        if self.replication == ReplicationMode::Push && self.regions.is_empty() {
            return Some("it is empty: name the regions that every block is brought to".to_owned());
        }
        let outside = |region: &&RegionId| !description.resides_in(region);
        let outsider = self.regions.iter().find(outside)?;
        Some(format!(
            "it names {outsider}, which the namespace's residency does not"
        ))
    }

    /// The first feature level at which a region keeps all that it says.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        if self.lossy {
            return FEATURE_LOSSY;
        }
        if !self.regions.is_empty() || self.hot_after != 0 {
            return FEATURE_REGIONS;
        }
        match self.attention_growth != 0.0 || self.dollars_per_gpu_hour != 0.0 {
            true => FEATURE_COSTS,
            false => 1,
        }
    }

    /// Without what a region of this feature level does not keep. All levels keep `lossy`; until
    /// [`FEATURE_LOSSY`] nobody acts on it.
    #[must_use]
    pub fn kept_at(&self, feature_level: u32) -> Self {
        let mut kept = self.clone();
        if feature_level < FEATURE_REGIONS {
            (kept.regions, kept.hot_after) = (Vec::new(), 0);
        }
        if feature_level < FEATURE_COSTS {
            (kept.attention_growth, kept.dollars_per_gpu_hour) = (0.0, 0.0);
        }
        kept
    }
}

/// A namespace as a region keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// [`Description::id`] of the description.
    pub id: NamespaceId,
    /// Alias for people, unique in a region.
    pub name: String,
    /// What makes the id.
    pub description: Description,
    /// What an operator may change.
    pub policy: Policy,
    /// Blocks put at or before it are invisible.
    pub generation: Hlc,
    /// Clock of the policy's last writer.
    pub policy_hlc: Hlc,
    /// Region of the policy's last writer; breaks ties.
    pub policy_region: RegionId,
}
