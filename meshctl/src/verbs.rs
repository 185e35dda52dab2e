//! One file per family of verbs; here: which verb runs, and what all of them need.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::CommandFactory;
use kvmesh_client::{client::Chain, tls::Role};
use kvmesh_directory::{Namespace, NamespaceId};
use tokio::time::Instant;

use crate::{
    args::{Args, Global, NamespaceVerb, NodeVerb, RegionVerb, TopologyVerb, Verb},
    bench,
    chain::{self, ChainFile},
    context, dev, drill, exit, logs, replay,
    rpc::{Peer, cache::Cache},
};

#[path = "verbs/context.rs"]
mod contexts;
mod delete;
mod get;
mod health;
mod lease;
mod lookup;
mod namespace;
mod node;
mod pki;
mod policy;
mod prefetch;
mod put;
mod region;
mod region_sync;
mod stats;
mod topology;
mod watch;

/// A view that does not show in this time what a chain file says is far behind.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(5);

/// Runs the verb that the flags name.
///
/// # Errors
/// [`exit::code`] turns them into the exit code.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if !matches!(args.verb, Verb::Dev(_) | Verb::Drill(_)) {
        logs::start(&args.global.log, None)?;
    }
    let verb = match args.verb {
        Verb::Context(verb) => return contexts::run(&args.global, verb),
        Verb::Completions { shell } => return completions(shell),
        verb => verb,
    };
    let global = &context::resolve(args.global)?;
    match verb {
        Verb::Region(RegionVerb::Init) => region::init(global).await,
        Verb::Region(RegionVerb::Upgrade) => region::upgrade(global).await,
        Verb::Region(RegionVerb::List) => region::list(global).await,
        Verb::Region(RegionVerb::Sync(sync)) => region_sync::run(global, &sync).await,
        Verb::Topology(TopologyVerb::Show) => topology::show(global).await,
        Verb::Node(NodeVerb::List) => node::list(global).await,
        Verb::Node(NodeVerb::Join(join)) => node::join(global, &join).await,
        Verb::Node(NodeVerb::Leave(leave)) => node::leave(global, &leave).await,
        Verb::Namespace(NamespaceVerb::Open(open)) => namespace::open(global, open).await,
        Verb::Namespace(NamespaceVerb::List) => namespace::list(global).await,
        Verb::Namespace(NamespaceVerb::Show(args)) => policy::show(global, &args).await,
        Verb::Namespace(NamespaceVerb::Set(args)) => policy::set(global, &args).await,
        Verb::Namespace(NamespaceVerb::Raise(args)) => policy::raise(global, &args).await,
        Verb::Lookup(lookup) => lookup::run(global, &lookup).await,
        Verb::Lease(verb) => lease::run(global, verb).await,
        Verb::Put(put) => put::run(global, &put).await,
        Verb::Get(get) => get::run(global, &get).await,
        Verb::Delete(delete) => delete::run(global, &delete).await,
        Verb::Health(health) => health::run(global, &health).await,
        Verb::Prefetch(prefetch) => prefetch::run(global, &prefetch).await,
        Verb::Watch(watch) => watch::run(global, &watch).await,
        Verb::Stats => stats::run(global).await,
        Verb::Pki(verb) => pki::run(global, verb),
        Verb::Context(_) | Verb::Completions { .. } => Ok(()),
        Verb::Dev(dev) => dev::run(global, dev).await,
        Verb::Replay(replay) => replay::run(global, replay).await,
        Verb::Drill(drill) => drill::run(global, drill).await,
        Verb::Bench(args) => bench::run(global, args).await,
    }
}

/// The script that makes a shell complete what is typed.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "meshctl", &mut script);
    let script = String::from_utf8(script).context("the completions are no text")?;
    crate::output::line(script.trim_end())
}

/// Says where something is about to be destroyed; gives the region's name.
async fn aim(global: &Global, peer: &Peer, what: &str) -> anyhow::Result<String> {
    let region = peer.show().await?.region;
    announce(global, &region, peer.address(), what);
    Ok(region)
}

/// Says in which region something is about to be destroyed.
fn announce(global: &Global, region: &str, address: &str, what: &str) {
    let context = match &global.context {
        Some(name) => format!("context {name}"),
        None => "no context".to_owned(),
    };
    eprintln!("{context}, region {region}, by {address}: {what}");
}

/// The process that the flags name.
fn peer(global: &Global) -> anyhow::Result<Peer> {
    let role = match &global.node {
        Some(_) => Role::Node,
        None => Role::Gateway,
    };
    at(global, Some(role), global.address())
}

/// The process at an address, of a role or of any.
fn at(global: &Global, role: Option<Role>, address: &str) -> anyhow::Result<Peer> {
    Peer::new(&global.tls.channels(role)?, address, global.call_timeout())
}

/// What blocks are put and got through: by the gateway alone, or by nodes on this host as well.
async fn cache_of(
    global: &Global,
    peer: &Peer,
    namespace: &Namespace,
    local: Option<&Path>,
) -> anyhow::Result<Cache> {
    Ok(match local {
        None => peer.cache(namespace, &[])?,
        // It calls nodes as well.
        Some(place) => {
            let peer = at(global, None, peer.address())?;
            peer.cache_on_host(namespace, &[], place).await?
        }
    })
}

/// The namespace with this alias or id.
async fn named(peer: &Peer, name: &str) -> anyhow::Result<Namespace> {
    let id = chain::from_hex(name).and_then(|raw| NamespaceId::try_from(&raw[..]).ok());
    let namespaces = peer.namespaces().await?;
    let known = namespaces.len();
    namespaces
        .into_iter()
        .find(|namespace| namespace.name == name || Some(namespace.id) == id)
        .ok_or_else(|| {
            anyhow::anyhow!(
                "namespace {name:?} is not among the {known} that {} knows: make it known with \
                 `meshctl namespace open {name} --model MODEL`",
                peer.address()
            )
        })
}

/// Refuses a chain whose hashes have another width than the namespace's.
fn check_width(chain: &Chain, namespace: &Namespace) -> anyhow::Result<()> {
    let (got, want) = (chain.width(), namespace.description.hash_width);
    if got == want {
        return Ok(());
    }
    Err(exit::set_up(format!(
        "the chain's hashes have {got} bytes, those of namespace {:?} have {want}: name the chain's own namespace",
        namespace.name
    )))
}

/// Waits until the views of the process asked show the chain's blocks as its file says.
async fn catch_up(peer: &Peer, namespace: &Namespace, file: &ChainFile) -> anyhow::Result<()> {
    let cache = peer.cache(namespace, &file.after)?;
    let until = Instant::now() + CATCH_UP_WITHIN;
    while !file.after.is_empty() && cache.lookup(&file.chain, 0).await?.view_behind {
        anyhow::ensure!(
            Instant::now() < until,
            "the views of {} have not reached the position in the chain file in {CATCH_UP_WITHIN:?}: \
             look at `meshctl region list`; if the region that stored the chain began anew, drop \
             the file's `# after` line",
            peer.address()
        );
    }
    Ok(())
}
