//! What `meshctl dev` prints once its mesh is ready.

use std::{net::SocketAddr, path::Path};

use serde::Serialize;

use super::mesh::Mesh;
use crate::{
    args::Global,
    output::{self, emit},
};

#[derive(Serialize)]
struct Ready {
    ready_ms: f64,
    metrics: String,
    control: String,
    regions: Vec<Endpoints>,
    rtt_ms: Vec<Rtt>,
}

#[derive(Serialize)]
struct Endpoints {
    region: String,
    gateway: String,
    region_sync: String,
    local: String,
    nodes: Vec<String>,
}

#[derive(Serialize)]
struct Rtt {
    between: [String; 2],
    rtt_ms: f64,
}

pub(super) fn say(
    global: &Global,
    mesh: &Mesh,
    metrics: SocketAddr,
    control: &Path,
) -> anyhow::Result<()> {
    let regions = mesh.regions();
    let endpoints = regions.iter().map(|region| Endpoints {
        region: region.id.to_string(),
        gateway: region.gateway.clone(),
        region_sync: region.region_sync.clone(),
        local: region.local.display().to_string(),
        nodes: region
            .nodes
            .iter()
            .map(|node| node.address.clone())
            .collect(),
    });
    let mut rtt_ms = Vec::new();
    for other in 0..regions.len() {
        for one in 0..other {
            rtt_ms.push(Rtt {
                between: [one, other].map(|at| regions[at].id.to_string()),
                rtt_ms: mesh.links().rtt(one, other).as_secs_f64() * 1e3,
            });
        }
    }
    let ready = Ready {
        ready_ms: mesh.started_in().as_secs_f64() * 1e3,
        metrics: format!("http://{metrics}/metrics"),
        control: control.display().to_string(),
        regions: endpoints.collect(),
        rtt_ms,
    };
    emit(global.output, &ready, || table(&ready))
}

fn table(ready: &Ready) -> String {
    let mut table = output::table(&["region", "gateway", "nodes", "region-sync"], &[]);
    for region in &ready.regions {
        table.add_row(vec![
            region.region.clone(),
            region.gateway.clone(),
            region.nodes.join("\n"),
            region.region_sync.clone(),
        ]);
    }
    let links = ready.rtt_ms.iter().map(|rtt| {
        let [one, other] = &rtt.between;
        format!("{one} - {other} {:.1} ms", rtt.rtt_ms)
    });
    let links: Vec<String> = links.collect();
    let gateway = &ready.regions[0].gateway;
    format!(
        "a mesh is ready after {:.0} ms; it ends with Ctrl-C\n{table}\n\
         round trips: {}\nmetrics: {}\n\
         try: meshctl region list --gateway {gateway}, meshctl dev link",
        ready.ready_ms,
        links.join(", "),
        ready.metrics
    )
}
