//! A client that goes to a node itself, by the ring that it learnt when it began: a node that
//! has another ring by now must say so.

use kvmesh_client::Client;
use kvmesh_directory::RingEpoch;
use rand::Rng;
use tokio::time::{Duration, sleep};

use crate::{
    content::Name,
    history::Kind,
    rpc::{self, Opening},
    shape::address,
    trace,
    workload::{Worker, engine_chain},
};

/// Of one call.
const DEADLINE: Duration = Duration::from_millis(800);
/// Before a call is made again.
const PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// Learns the ring of the beginning, by a gateway.
    pub(crate) async fn learn_ring(&mut self, name: Name) {
        let (chain, current) = (engine_chain(&[name]), RingEpoch(0));
        loop {
            let asked = self.namespaces[0].locate(&chain, &[], current, DEADLINE);
            match asked.await {
                Ok(located) => return self.first_epoch = located.ring_epoch,
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Opens a put at a node that has said to have a newer ring, and names the first one.
    pub(crate) async fn straggle(&mut self, name: Name) {
        let shape = self.shared.shape;
        let node = self.rng.random_range(0..shape.nodes_of(self.region));
        let at = address(&shape.node(self.region, node));
        let client = Client::connect_once(&at, self.channels.clone());
        let client = client.expect("the addresses of a run are possible");
        let known = self.namespaces[usize::from(name.namespace)]
            .namespace()
            .clone();
        let begun = trace::mark();
        let (chain, current) = (engine_chain(&[name]), RingEpoch(0));
        let (id, node_itself) = (known.id, client.namespace(known));
        let asked = node_itself.locate(&chain, &[], current, DEADLINE);
        let Ok(located) = asked.await else { return };
        let (epoch, newer) = (self.first_epoch, located.ring_epoch);
        if newer <= epoch {
            return;
        }
        let kind = |told| Kind::Straggle { node, told };
        let op = self
            .shared
            .begin(&self.host, self.region, begun, kind(Opening::Unknown));
        let told = rpc::open_put(&self.channels, &at, id, epoch).await;
        trace::event(format_args!(
            "{} puts at {at} by ring {epoch}, which has ring {newer}: {told:?}",
            self.host
        ));
        self.shared.end(op, kind(told));
    }
}
