//! The services of a node. Generated types stop here.

mod cache;
mod compare;
pub(crate) mod copy_client;
mod feed;
pub(crate) mod join;
mod leading;
mod members;
mod policy;
mod replication;
mod topology;

use std::sync::Arc;

use bytes::Bytes;
use kvmesh_client::Problem;
use kvmesh_directory::{NamespaceId, limits::MESSAGE_BYTES_MAX};
use kvmesh_process::server::{CacheService, ReplicationService, Routes};
use kvmesh_proto::v1::{
    compare_server::CompareServer, feed_server::FeedServer, topology_server::TopologyServer,
};

pub(crate) use cache::put_local;

use crate::node::Node;

/// All services of a node.
pub(crate) fn routes(node: &Arc<Node>) -> Routes {
    let size = MESSAGE_BYTES_MAX;
    node.consensus
        .routes()
        .add_service(CacheService::new(cache::CacheRpc(Arc::clone(node))))
        .add_service(ReplicationService::new(replication::ReplicationRpc(
            Arc::clone(node),
        )))
        .add_service(
            FeedServer::new(feed::FeedService(Arc::clone(node)))
                .max_decoding_message_size(size)
                .max_encoding_message_size(size),
        )
        .add_service(
            CompareServer::new(compare::CompareService::new(Arc::clone(node)))
                .max_decoding_message_size(size)
                .max_encoding_message_size(size),
        )
        .add_service(
            TopologyServer::new(topology::TopologyService(Arc::clone(node)))
                .max_decoding_message_size(size)
                .max_encoding_message_size(size),
        )
}

fn namespace_id(raw: &Bytes) -> Result<NamespaceId, Problem> {
    NamespaceId::try_from(&raw[..]).map_err(|why| Problem::invalid("namespace_id", why))
}

fn not_built<T>(what: &str) -> Result<T, tonic::Status> {
    Err(Problem::Unimplemented(what.to_owned()).into())
}
