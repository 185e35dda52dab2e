//! Runs the product's processes on simulated hosts.

use std::{error::Error, future::Future, rc::Rc, time::Duration};

use kvmesh_node::consensus::{MemoryStorage, Storage};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::{
    net::{environment, listen},
    shared::Shared,
    trace,
};

/// Between two looks whether a process is to run.
const LOOK: Duration = Duration::from_millis(20);

/// Adds all servers of a mesh. A node's Raft store outlives its crashes, its blocks do not.
pub(crate) fn add(sim: &mut Sim<'_>, shared: &Rc<Shared>) {
    let shape = shared.shape;
    for region in 0..shape.regions {
        for node in 0..shape.nodes_of(region) {
            add_node(sim, Rc::clone(shared), region, node);
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
                    let why = run(&host, serving).await;
                    wrong(&host, &why).await
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
                let why = run(&host, serving).await;
                wrong(&host, &why).await
            }
        });
    }
}

fn add_node(sim: &mut Sim<'_>, shared: Rc<Shared>, region: usize, node: usize) {
    let shape = shared.shape;
    let host = shape.node(region, node);
    let kept = MemoryStorage::default();
    sim.host(host.clone(), move || {
        let (host, kept, shared) = (host.clone(), kept.clone(), Rc::clone(&shared));
        async move {
            while !shared.nodes.borrow().runs(region, node) {
                sleep(LOOK).await;
            }
            let incoming = listen(&host).await?;
            let settings = shape.node_settings(region, node);
            let storage = Storage::Memory(kept);
            let stop = CancellationToken::new();
            let serving =
                kvmesh_node::serve_with(settings, environment(&host), storage, incoming, stop);
            let why = run(&host, serving).await;
            if shared.nodes.borrow_mut().ended(region, node) {
                return std::future::pending().await;
            }
            wrong(&host, &why).await
        }
    });
}

/// Serves; how it ended.
async fn run<E: Error>(host: &str, serving: impl Future<Output = Result<(), E>>) -> String {
    trace::event(format_args!("{host} starts"));
    let ended = serving.await;
    let why = ended.map_or_else(|error| chain(&error), |()| "without an error".to_owned());
    trace::event(format_args!("{host} ENDED: {why}"));
    why
}

/// No server of a simulated mesh is told to stop: one that ends by itself has a bug, but for a
/// node that has left.
async fn wrong(host: &str, why: &str) -> turmoil::Result {
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
