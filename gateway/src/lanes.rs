//! Over how many connections blocks come from another region.
//!
//! A link carries its bandwidth times its round trip at any time, and one connection only what its
//! sender says and the kernels' buffers let it. So a fetch that is long enough is dealt to several
//! ones, its *lanes*, which stay warm.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use kvmesh_client::{
    channel::{AT_ONCE_BYTES, Channel},
    follow::Link,
};
use kvmesh_directory::RegionId;

use crate::context::Gateway;

/// One more connection for a fetch is worth so many bytes.
const LANE_BYTES: u64 = 2 << 20;
/// Of one gateway of another region, at most: 3.3 Gbit/s over 80 ms.
pub(crate) const LANES_MAX: usize = 16;

/// More than these come in the time that an answer may take where blocks do; probes of the
/// connection are shorter.
const SIGNS_OF_LIFE_BYTES: u64 = 1 << 10;

/// The lanes to one gateway, and what came by each until it was looked at last.
pub(crate) struct Lanes(BTreeMap<usize, (Channel, AtomicU64)>);

impl Lanes {
    /// Those that fill the link, and this one.
    pub(crate) fn to(gateway: &Gateway, region: &RegionId, address: &str, lane: usize) -> Self {
        let link = gateway.views.mesh.link(region);
        let filling = 0..link.map_or(0, |link| of_link(gateway, region, &link));
        let all = filling.chain([lane]).filter_map(|lane| {
            let channel = gateway.peers.far(region, address, lane);
            Some((lane, channel.ok()?))
        });
        Self::of(all)
    }

    pub(crate) fn of(lanes: impl IntoIterator<Item = (usize, Channel)>) -> Self {
        let lanes = lanes.into_iter().map(|(lane, channel)| {
            let before = channel.received().into();
            (lane, (channel, before))
        });
        Self(lanes.collect())
    }

    /// The one by which most came since this was asked last; none: no blocks came. Where they
    /// come, the gateway lives, and what does not come by another lane is lost on a full link.
    pub(crate) fn busiest(&self) -> Option<usize> {
        let came = self.0.iter().map(|(&lane, (channel, before))| {
            let now = channel.received();
            (now - before.swap(now, Ordering::Relaxed), lane)
        });
        let came: Vec<_> = came.collect();
        let all: u64 = came.iter().map(|(bytes, _)| bytes).sum();
        let most = came.into_iter().max().map(|(_, lane)| lane);
        most.filter(|_| all > SIGNS_OF_LIFE_BYTES)
    }
}

/// Lanes that fill a link; at least one, and one where its bandwidth is not known.
pub(crate) fn of_link(gateway: &Gateway, region: &RegionId, link: &Link) -> usize {
    filling(link, gateway.links.sent_at_once(region))
}

/// Whether they may be several, if the other end's buffers are the usual ones.
pub(crate) fn may_be_several(link: &Link) -> bool {
    filling(link, AT_ONCE_BYTES) > 1
}

/// Lanes of a fetch: no more than fill the link, none for less than it is worth, and few enough
/// that the blocks which come together, the largest of them on each lane, take no more than
/// `room`.
pub(crate) fn of_fetch(filling: usize, bytes: u64, largest: u64, room: u64) -> usize {
    let fit = usize::try_from(room / largest.max(1)).unwrap_or(usize::MAX);
    filling
        .min(as_many(bytes as f64, LANE_BYTES))
        .min(fit)
        .max(1)
}

fn filling(link: &Link, at_once: u64) -> usize {
    as_many(link.bandwidth * link.rtt_ms / 1e3, at_once)
}

fn as_many(bytes: f64, each: u64) -> usize {
    // What is no number, or is negative, becomes 0.
    let lanes = (bytes / each.max(1) as f64).ceil() as usize;
    lanes.clamp(1, LANES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_filled_and_a_short_fetch_is_one_call() {
        let mib = 1 << 20;
        let filling =
            |bandwidth: f64, rtt_ms: f64, at_once| as_many(bandwidth * rtt_ms / 1e3, at_once);
        assert_eq!(filling(125e6, 80.0, AT_ONCE_BYTES), 5);
        assert_eq!(filling(125e6, 80.0, 64 * mib), 1);
        assert_eq!(filling(1.25e9, 80.0, 64 * mib), 2);
        assert_eq!(filling(125e6, 10.0, AT_ONCE_BYTES), 1);
        assert_eq!(filling(0.0, 80.0, AT_ONCE_BYTES), 1);
        assert_eq!(filling(f64::NAN, 80.0, AT_ONCE_BYTES), 1);
        assert_eq!(filling(f64::INFINITY, 80.0, AT_ONCE_BYTES), LANES_MAX);
        assert_eq!(of_fetch(5, 32 * mib, 2 * mib, 1024 * mib), 5);
        assert_eq!(of_fetch(5, 2 * mib, 2 * mib, 1024 * mib), 1);
        assert_eq!(of_fetch(5, 5 * mib, mib, 1024 * mib), 3);
        assert_eq!(of_fetch(16, 512 * mib, 256 * mib, 512 * mib), 2);
        assert_eq!(of_fetch(16, 512 * mib, 256 * mib, 128 * mib), 1);
    }
}
