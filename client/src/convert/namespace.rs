//! Namespaces: descriptions, policies.

use bytes::Bytes;
use kvmesh_directory::{
    Description, Hlc, Namespace, NamespaceId, Policy, RegionId,
    limits::{HOT_AFTER_MAX, REGIONS_MAX, REPLICAS_MAX, TEXT_BYTES_MAX},
    namespace::{AckLevel, Fallback, ReplicationMode},
};
use kvmesh_proto::v1 as wire;

use super::{FromWire, ToWire, WireError, each, region, required};

impl ToWire for Description {
    type Wire = wire::NamespaceDescription;
    fn to_wire(&self) -> wire::NamespaceDescription {
        wire::NamespaceDescription {
            model: self.model.clone(),
            dtype: self.dtype.clone(),
            layout: self.layout.clone(),
            block_tokens: self.block_tokens,
            hash_width: self.hash_width,
            short_hashes: self.short_hashes,
            shard_count: self.shard_count,
            group_count: self.group_count,
            tenant: self.tenant.clone(),
            salt: Bytes::copy_from_slice(&self.salt),
            residency: each(&self.residency),
        }
    }
}

impl FromWire for Description {
    type Wire = wire::NamespaceDescription;
    /// Checks every field; residency is put in order, so that equal sets make equal ids.
    fn from_wire(wire: wire::NamespaceDescription) -> Result<Self, WireError> {
        let residency = regions("residency", &wire.residency)?;
        let description = Self {
            model: wire.model,
            dtype: wire.dtype,
            layout: wire.layout,
            block_tokens: wire.block_tokens,
            hash_width: wire.hash_width,
            short_hashes: wire.short_hashes,
            shard_count: wire.shard_count,
            group_count: wire.group_count,
            tenant: wire.tenant,
            salt: wire.salt.to_vec(),
            residency,
        };
        match description.check() {
            Ok(()) => Ok(description),
            Err(wrong) => Err(WireError::field(
                wrong.field,
                format!("it is {}: {}", wrong.got, wrong.want),
            )),
        }
    }
}

/// A set of regions, in order.
fn regions(field: &'static str, names: &[String]) -> Result<Vec<RegionId>, WireError> {
    let named = names.iter().map(|name| region(field, name));
    let mut regions = named.collect::<Result<Vec<_>, _>>()?;
    regions.sort_unstable();
    regions.dedup();
    Ok(regions)
}

impl ToWire for Policy {
    type Wire = wire::NamespacePolicy;
    fn to_wire(&self) -> wire::NamespacePolicy {
        wire::NamespacePolicy {
            replicas: self.replicas,
            ack: self.ack.to_wire(),
            ttl_ms: self.ttl_ms,
            quota_permille: self.quota_permille,
            fallback: self.fallback.to_wire(),
            replication: self.replication.to_wire(),
            lossy: self.lossy,
            prefetch_blocks: self.prefetch_blocks,
            prefill_rate: self.prefill_rate,
            attention_growth: self.attention_growth,
            dollars_per_gpu_hour: self.dollars_per_gpu_hour,
            regions: each(&self.regions),
            hot_after: self.hot_after,
        }
    }
}

impl FromWire for Policy {
    type Wire = wire::NamespacePolicy;
    fn from_wire(wire: wire::NamespacePolicy) -> Result<Self, WireError> {
        let policy = Self {
            replicas: wire.replicas,
            ack: AckLevel::from_wire(wire.ack)?,
            ttl_ms: wire.ttl_ms,
            quota_permille: wire.quota_permille,
            fallback: Fallback::from_wire(wire.fallback)?,
            replication: ReplicationMode::from_wire(wire.replication)?,
            lossy: wire.lossy,
            prefetch_blocks: wire.prefetch_blocks,
            prefill_rate: wire.prefill_rate,
            attention_growth: wire.attention_growth,
            dollars_per_gpu_hour: wire.dollars_per_gpu_hour,
            regions: regions("regions", &wire.regions)?,
            hot_after: wire.hot_after,
        };
        if policy.regions.len() > REGIONS_MAX {
            let why = format!("it names over {REGIONS_MAX} regions");
            return Err(WireError::field("regions", why));
        }
        if policy.hot_after > HOT_AFTER_MAX {
            let why = format!("it is {}: 0 to {HOT_AFTER_MAX}", policy.hot_after);
            return Err(WireError::field("hot_after", why));
        }
        if !policy.replicas_fit() {
            let why = format!("it is {}: 1 to {REPLICAS_MAX}", policy.replicas);
            return Err(WireError::field("replicas", why));
        }
        if policy.quota_permille > 1_000 {
            let why = format!("it is {}: 0 to 1000", policy.quota_permille);
            return Err(WireError::field("quota_permille", why));
        }
        if let Some((field, cost)) = policy.impossible_cost() {
            let why = format!("it is {cost}: a number of at least 0, 0 for unknown");
            return Err(WireError::field(field, why));
        }
        Ok(policy)
    }
}

impl ToWire for Namespace {
    type Wire = wire::Namespace;
    fn to_wire(&self) -> wire::Namespace {
        wire::Namespace {
            id: self.id.to_wire(),
            name: self.name.clone(),
            description: Some(self.description.to_wire()),
            policy: Some(self.policy.to_wire()),
            generation: self.generation.0,
            policy_hlc: self.policy_hlc.0,
            policy_region: self.policy_region.to_wire(),
        }
    }
}

impl FromWire for Namespace {
    type Wire = wire::Namespace;
    fn from_wire(wire: wire::Namespace) -> Result<Self, WireError> {
        let description: Description = required("description", wire.description)?;
        if wire.id.is_empty() {
            return Err(WireError::Missing("id"));
        }
        let id = NamespaceId::try_from(&wire.id[..]).map_err(|why| WireError::field("id", why))?;
        let want = description.id();
        if id != want {
            let why = format!("it is {id}, the description makes {want}");
            return Err(WireError::field("id", why));
        }
        if wire.name.len() > TEXT_BYTES_MAX {
            let why = format!(
                "it is {} bytes long: at most {TEXT_BYTES_MAX}",
                wire.name.len()
            );
            return Err(WireError::field("name", why));
        }
        Ok(Self {
            id,
            name: wire.name,
            description,
            policy: required("policy", wire.policy)?,
            generation: Hlc(wire.generation),
            policy_hlc: Hlc(wire.policy_hlc),
            policy_region: region("policy_region", &wire.policy_region)?,
        })
    }
}
