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
            let (host, shared) = (shape.gateway(region, gateway), Rc::clone(shared));
            sim.host(host.clone(), move || {
                let (host, shared) = (host.clone(), Rc::clone(&shared));
                async move {
                    let incoming = listen(&host).await?;
                    let settings = shape.gateway_settings(region);
                    let serving =
                        |stop| kvmesh_gateway::serve(settings, environment(&host), incoming, stop);
                    let ended = run(&shared, &host, serving).await;
                    rest(&host, ended).await
                }
            });
        }
        let (host, shared) = (shape.region_sync(region), Rc::clone(shared));
        sim.host(host.clone(), move || {
            let (host, shared) = (host.clone(), Rc::clone(&shared));
            async move {
                let incoming = listen(&host).await?;
                let settings = shape.sync_settings(region);
                let serving =
                    |stop| kvmesh_region_sync::serve(settings, environment(&host), incoming, stop);
                let ended = run(&shared, &host, serving).await;
                rest(&host, ended).await
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
            let serving = |stop| {
                kvmesh_node::serve_with(settings, environment(&host), storage, incoming, stop)
            };
            let ended = run(&shared, &host, serving).await;
            let asked = ended.is_ok() || shared.nodes.borrow_mut().ended(region, node);
            rest(&host, if asked { Ok(()) } else { ended }).await
        }
    });
}

/// Serves until it is told to stop.
///
/// # Errors
/// In words, how it ended otherwise.
async fn run<E, F>(
    shared: &Shared,
    host: &str,
    serve: impl FnOnce(CancellationToken) -> F,
) -> Result<(), String>
where
    E: Error,
    F: Future<Output = Result<(), E>>,
{
    trace::event(format_args!("{host} starts"));
    let stop = shared.processes.borrow_mut().starts(host);
    let served = serve(stop).await;
    let told = shared.processes.borrow_mut().ended(host);
    let well = served.is_ok();
    let why = served.map_or_else(|error| chain(&error), |()| "without an error".to_owned());
    trace::event(format_args!("{host} ENDED: {why}"));
    match told && well {
        true => Ok(()),
        false => Err(why),
    }
}

/// After a process. One that ends without being told to, or with an error, has a bug.
async fn rest(host: &str, ended: Result<(), String>) -> turmoil::Result {
    if let Err(why) = ended {
        trace::bug(format!("{host} ended by itself: {why}"));
    }
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
