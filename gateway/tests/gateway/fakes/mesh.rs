//! A made-up region-sync: says which far region has what.

use std::sync::{Arc, Mutex};

use kvmesh_client::{ToWire, convert::mesh::pack_appeared};
use kvmesh_directory::{BlockName, FeedPosition, LogIncarnation, RegionId};
use kvmesh_proto::v1::{self as wire, mesh_frame::Kind};
use tokio::sync::watch;

pub(crate) struct Mesh {
    pub(crate) frames: watch::Sender<Vec<wire::MeshFrame>>,
    /// What the gateway said that it saw of links.
    pub(crate) told: Told,
}

pub(crate) type Told = Arc<Mutex<Vec<wire::LinkTransfer>>>;

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            frames: watch::Sender::new(Vec::new()),
            told: Told::default(),
        }
    }

    fn say(&self, region: &str, kind: Kind) {
        self.frames.send_modify(|frames| {
            frames.push(wire::MeshFrame {
                region: region.to_owned(),
                kind: Some(kind),
            });
        });
    }

    pub(crate) fn link(&self, region: &str, rtt_ms: f64, gateways: &[String]) {
        self.link_is(region, link(rtt_ms, gateways));
    }

    /// `bandwidth` in bytes per second.
    pub(crate) fn link_of(&self, region: &str, rtt_ms: f64, bandwidth: f64, gateways: &[String]) {
        let link = wire::LinkState {
            bandwidth,
            ..link(rtt_ms, gateways)
        };
        self.link_is(region, link);
    }

    pub(crate) fn link_is(&self, region: &str, link: wire::LinkState) {
        self.say(region, Kind::Link(link));
    }

    pub(crate) fn has(&self, region: &str, index: u64, names: &[(BlockName, u32)]) -> FeedPosition {
        let position = position(region, index);
        let tags: Vec<_> = names
            .iter()
            .map(|(name, bytes)| (name.tag(), *bytes))
            .collect();
        let tags = wire::MeshTags {
            position: Some(position.to_wire()),
            appeared: pack_appeared(&tags),
            ..Default::default()
        };
        self.say(region, Kind::Tags(tags));
        position
    }
}

/// A link to a region that is asked.
pub(crate) fn link(rtt_ms: f64, gateways: &[String]) -> wire::LinkState {
    wire::LinkState {
        reachable: true,
        rtt_ms,
        bandwidth: 125_000_000.0,
        gateways: gateways.to_vec(),
        ..wire::LinkState::default()
    }
}

pub(crate) fn position(region: &str, index: u64) -> FeedPosition {
    let region: RegionId = region.parse().unwrap();
    FeedPosition {
        region,
        log_incarnation: LogIncarnation(9),
        index,
    }
}
