//! After everything healed: waits until the mesh has converged, then reads all of it.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use futures::future::join_all;
use kvmesh_client::{
    Client,
    client::{ChainQuery, GetOptions, Opened},
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep};

use crate::{
    audit::{Auditor, block_name},
    content::Name,
    net::environment,
    shape::address,
    shared::{Phase, Shared},
    trace,
    workload::{Worker, connect, engine_chain},
};

/// A mesh that has healed has converged by then.
const CONVERGED_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Of one call of the audit.
const CALL: Duration = Duration::from_secs(2);

/// Watches the mesh, and judges it at the end.
pub(crate) async fn watch(shared: Rc<Shared>) {
    let mut auditor = Auditor::new(Rc::clone(&shared));
    while shared.phase() < Phase::Settle {
        note_whole(&shared, &mut auditor);
        see_nodes(&shared, &auditor);
        sleep(LOOK).await;
    }
    let until = Instant::now() + CONVERGED_MAX;
    loop {
        see_nodes(&shared, &auditor);
        let mut wrong = auditor.replicas();
        if wrong.is_empty() {
            wrong = answers(&shared, &auditor).await;
        }
        if wrong.is_empty() {
            trace::event(format_args!("operator: the mesh has converged"));
            break;
        }
        if Instant::now() > until {
            for what in &wrong {
                trace::event(format_args!("operator: NOT CONVERGED: {what}"));
            }
            let wrong = wrong.into_iter().take(5);
            let bugs =
                wrong.map(|what| format!("Converged: {what}, {CONVERGED_MAX:?} after all healed"));
            shared.audit.borrow_mut().extend(bugs);
            break;
        }
        sleep(LOOK).await;
    }
    let present = (0..shared.shape.regions).map(|region| auditor.present(region));
    shared.history.borrow_mut().present = present.collect();
    read_all(&shared).await;
    shared.set_phase(Phase::Done);
}

fn note_whole(shared: &Shared, auditor: &mut Auditor) {
    for region in 0..shared.shape.regions {
        if auditor.is_whole(region) {
            let at = trace::mark();
            shared.history.borrow_mut().whole.push((region, at));
        }
    }
}

fn see_nodes(shared: &Shared, auditor: &Auditor) {
    for region in 0..shared.shape.regions {
        if let Some(view) = auditor.newest(region) {
            view.with(|state| shared.nodes.borrow_mut().see(region, state));
        }
    }
}

/// What is wrong with what nodes and gateways answer.
async fn answers(shared: &Rc<Shared>, auditor: &Auditor) -> Vec<String> {
    let shape = shared.shape;
    let mut asked = Vec::new();
    for region in 0..shape.regions {
        for node in auditor.members(region) {
            asked.push(claims(shared, auditor, region, node));
        }
    }
    let mut wrong: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    let mut asked = Vec::new();
    for region in 0..shape.regions {
        for gateway in 0..shape.gateways {
            asked.push(lookups(shared, auditor, region, gateway));
        }
    }
    wrong.extend(join_all(asked).await.into_iter().flatten());
    wrong
}

/// All namespaces, through one process.
fn opened(shared: &Shared, auditor: &Auditor, region: usize, host: &str) -> Vec<Opened> {
    let client = Client::connect_once(&address(host), auditor.channels.clone());
    let client = client.expect("the addresses of a run are possible");
    let view = auditor.newest(region);
    let known = (0..shared.namespaces).filter_map(|number| {
        let id = crate::content::description(number).id();
        view.as_ref()?.with(|state| state.namespace(id).cloned())
    });
    known.map(|namespace| client.namespace(namespace)).collect()
}

/// What a node is said to hold and does not serve.
async fn claims(shared: &Shared, auditor: &Auditor, region: usize, node: usize) -> Vec<String> {
    let host = shared.shape.node(region, node);
    let namespaces = opened(shared, auditor, region, &host);
    let number = node as u64 + 1;
    let held: Vec<Name> = match auditor.newest(region) {
        None => Vec::new(),
        Some(view) => view.with(|state| {
            let present = auditor.present(region).into_keys();
            let held = present.filter(|name| {
                let entry = state.entry(&block_name(*name));
                entry.is_some_and(|entry| entry.holders.iter().any(|copy| copy.node.0 == number))
            });
            held.collect()
        }),
    };
    let mut wrong = Vec::new();
    for name in held {
        let options = GetOptions {
            deadline: Some(CALL),
            ..GetOptions::default()
        };
        let Some(namespace) = namespaces.get(usize::from(name.namespace)) else {
            continue;
        };
        let got = namespace.get(&engine_chain(&[name]), options).await;
        let what = match got {
            Ok(got) if got.blocks.len() == 1 => {
                match crate::content::recognise(name, &got.blocks[0].block) {
                    Ok(_) => continue,
                    Err(why) => why,
                }
            }
            Ok(got) => format!("{:?}", got.summary.outcome),
            Err(error) => error.to_string(),
        };
        wrong.push(format!(
            "{host} is said to hold {name}, and answers: {what}"
        ));
    }
    wrong
}

/// Where a gateway's lookups differ from the directories.
async fn lookups(shared: &Shared, auditor: &Auditor, region: usize, gateway: usize) -> Vec<String> {
    let shape = shared.shape;
    let host = shape.gateway(region, gateway);
    let present: Vec<_> = (0..shape.regions)
        .map(|region| auditor.present(region))
        .collect();
    let all = crate::audit::names(shared.namespaces);
    let mut wrong = Vec::new();
    for (number, namespace) in opened(shared, auditor, region, &host).iter().enumerate() {
        let names: Vec<Name> = all
            .values()
            .filter(|name| usize::from(name.namespace) == number)
            .copied()
            .collect();
        let queries: Vec<ChainQuery> = names
            .iter()
            .map(|name| ChainQuery::from(engine_chain(&[*name])))
            .collect();
        let answer = match namespace.lookup(&queries, CALL).await {
            Ok(answer) => answer,
            Err(error) => {
                wrong.push(format!("{host} does not look up: {error}"));
                continue;
            }
        };
        for (name, found) in names.iter().zip(&answer.matches) {
            let local = present[region].contains_key(name);
            if local != (found.local_blocks > 0) {
                let held = if local { "holds" } else { "does not hold" };
                let region = shape.region(region);
                wrong.push(format!("{region} {held} {name}, and {host} says otherwise"));
            }
            let here = |other: &usize| *other != region && present[*other].contains_key(name);
            let want: BTreeSet<&str> = (0..shape.regions)
                .filter(here)
                .map(|other| shape.region(other))
                .collect();
            let runs = found.remote.iter().filter(|run| run.blocks > 0);
            let have: BTreeSet<&str> = runs.map(|run| run.region.as_str()).collect();
            if want != have {
                wrong.push(format!(
                    "{host} says {name} is in {have:?}, it is in {want:?}"
                ));
            }
        }
    }
    wrong
}

/// Gets every block by every region; the oracle judges what comes.
async fn read_all(shared: &Rc<Shared>) {
    let names: Vec<Name> = crate::audit::names(shared.namespaces)
        .into_values()
        .collect();
    let readers = (0..shared.shape.regions).map(|region| {
        let (shared, names) = (Rc::clone(shared), &names);
        async move {
            let rng = SmallRng::seed_from_u64(region as u64);
            let host = "operator".to_owned();
            let channels = environment(&host).channels;
            let client = connect(&shared, region, 0, channels, false);
            let mut worker = Worker::open(host, region, shared, client, rng).await;
            for name in names {
                worker.get(&[*name], true).await;
            }
        }
    });
    join_all(readers).await;
}
