//! Runs the product's processes on simulated hosts.

use std::{error::Error, future::Future};

use kvmesh_node::consensus::{MemoryStorage, Storage};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::{
    net::{environment, listen},
    shape::Shape,
    trace,
};

/// Adds all servers of a mesh. A node's Raft store outlives its crashes, its blocks do not.
pub(crate) fn add(sim: &mut Sim<'_>, shape: Shape) {
    for region in 0..shape.regions {
        for node in 0..shape.nodes {
            add_node(sim, shape, region, node);
        }
        for gateway in 0..shape.gateways {
            let host = shape.gateway(region, gateway);
            sim.host(host.clone(), move || {
                let host = host.clone();
                async move {
                    let incoming = listen(&host).await?;
                    let settings = shape.gateway_settings(region);
                    let stop = CancellationToken::new();
                    let serving =
                        kvmesh_gateway::serve(settings, environment(&host), incoming, stop);
                    run(&host, serving).await
                }
            });
        }
        let host = shape.region_sync(region);
        sim.host(host.clone(), move || {
            let host = host.clone();
            async move {
                let incoming = listen(&host).await?;
                let settings = shape.sync_settings(region);
                let stop = CancellationToken::new();
                let serving =
                    kvmesh_region_sync::serve(settings, environment(&host), incoming, stop);
                run(&host, serving).await
            }
        });
    }
}

fn add_node(sim: &mut Sim<'_>, shape: Shape, region: usize, node: usize) {
    let host = shape.node(region, node);
    let kept = MemoryStorage::default();
    sim.host(host.clone(), move || {
        let (host, kept) = (host.clone(), kept.clone());
        async move {
            let incoming = listen(&host).await?;
            let settings = shape.node_settings(region, node);
            let storage = Storage::Memory(kept);
            let stop = CancellationToken::new();
            let serving =
                kvmesh_node::serve_with(settings, environment(&host), storage, incoming, stop);
            run(&host, serving).await
        }
    });
}

/// No server of a simulated mesh is told to stop: one that ends by itself has a bug.
async fn run<E: Error>(
    host: &str,
    serving: impl Future<Output = Result<(), E>>,
) -> turmoil::Result {
    trace::event(format_args!("{host} starts"));
    let ended = serving.await;
    let why = ended.map_or_else(|error| chain(&error), |()| "without an error".to_owned());
    trace::event(format_args!("{host} ENDED: {why}"));
    trace::bug(format!("{host} ended by itself: {why}"));
    std::future::pending().await
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
