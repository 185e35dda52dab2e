//! The wire's edge: what comes in is read into words, what goes out is written from them.

pub(crate) mod ask;
pub(crate) mod cache;
pub(crate) mod control;
mod decode;
mod encode;
pub(crate) mod hand;
pub(crate) mod hold;
mod lease;
pub(crate) mod measure;
pub(crate) mod messages;
pub(crate) mod policy;
mod prefetch;
mod report;
pub(crate) mod topology;
pub(crate) mod touch;
pub(crate) mod transferred;
mod watch;

use std::sync::Arc;

use kvmesh_directory::limits::MESSAGE_BYTES_MAX;
use kvmesh_process::server::{CacheService, Routes};
use kvmesh_proto::v1::topology_server::TopologyServer;

use crate::context::Gateway;

/// Everything that a gateway serves.
pub(crate) fn routes(gateway: &Arc<Gateway>) -> Routes {
    let cache = CacheService::new(cache::Rpc::new(Arc::clone(gateway)));
    let topology = TopologyServer::new(topology::Rpc::new(Arc::clone(gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let congestion = &gateway.settings.now().congestion_control;
    Routes::new(cache)
        .add_service(topology)
        .add_service(measure::service(congestion))
}
