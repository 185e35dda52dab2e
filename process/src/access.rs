//! Who may call what: one table, by the role and region in the caller's certificate.
//!
//! Invariants: a call without a row is refused; on a connection without certificates, which is
//! on loopback or in a simulation, everybody may everything.
//!
//! Not here: tenants; which namespaces a client may see is not bound to its certificate yet.

mod guests;

#[cfg(test)]
mod access_test;

use kvmesh_client::{
    Problem,
    channel::Link,
    tls::{Identity, Role},
};
use tonic::{Request, Status, body::Body};
use tracing::info;

pub use guests::Guests;

/// Where a caller is, as seen from who is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// In the same region.
    Here,
    /// In another region.
    Elsewhere,
    /// A client in another region, one of those whose clients are served as well.
    Guest,
    /// Of no region.
    Outside,
}

type Caller = (Role, From);

const NODE: Caller = (Role::Node, From::Here);
const GATEWAY: Caller = (Role::Gateway, From::Here);
const REGION_SYNC: Caller = (Role::RegionSync, From::Here);
const CLIENT: Caller = (Role::Client, From::Here);
const GUEST: Caller = (Role::Client, From::Guest);
const OPERATOR: Caller = (Role::Operator, From::Outside);
const FAR_GATEWAY: Caller = (Role::Gateway, From::Elsewhere);
const FAR_REGION_SYNC: Caller = (Role::RegionSync, From::Elsewhere);

/// One row: who may make which calls of a service where.
struct Row {
    at: Role,
    service: &'static str,
    methods: &'static [&'static str],
    /// Only calls whose body says this; the service itself checks it by [`check`].
    variant: Option<&'static str>,
    callers: &'static [Caller],
}

const CACHE: &[&str] = &[
    "Open", "Lookup", "Put", "Locate", "Delete", "Prefetch", "Lease", "Watch", "Report",
];
/// What a client of another region may ask a gateway that serves it. Each of these finds a
/// namespace by who asks (`gateway/src/asker.rs`), so that one that may not be in the caller's region
/// is none; a new call is refused until it does so, and is named here.
const GUESTS_CACHE: &[&str] = &[
    "Open", "Lookup", "Put", "Locate", "Delete", "Prefetch", "Lease", "Watch", "Report",
];
const TOPOLOGY_READS: &[&str] = &["Show", "ListRegions", "ListNamespaces", "Stats", "AtRisk"];
const TOPOLOGY_WRITES: &[&str] = &[
    "InitRegion",
    "Join",
    "Leave",
    "Upgrade",
    "SetPolicy",
    "Raise",
];

/// `docs/protocol.md` has the same in words.
const TABLE: &[Row] = &[
    row(
        Role::Node,
        "Consensus",
        &[
            "AppendEntries",
            "Vote",
            "InstallSnapshot",
            "Attend",
            "Prepare",
        ],
        &[NODE],
    ),
    variant(
        Role::Node,
        "Consensus",
        &["Propose"],
        "any command",
        &[NODE, REGION_SYNC],
    ),
    // A gateway opens the namespaces that its clients ask for, and proposes nothing else.
    variant(
        Role::Node,
        "Consensus",
        &["Propose"],
        "a namespace",
        &[NODE, GATEWAY, REGION_SYNC],
    ),
    row(Role::Node, "Replication", &["Copy", "Confirm"], &[NODE]),
    row(Role::Node, "Replication", &["ApplyRemote"], &[REGION_SYNC]),
    variant(
        Role::Node,
        "Feed",
        &["Follow"],
        "REGION",
        &[NODE, GATEWAY, REGION_SYNC],
    ),
    variant(Role::Node, "Feed", &["Follow"], "MESH", &[FAR_REGION_SYNC]),
    row(Role::Node, "Feed", &["FollowMesh"], &[GATEWAY]),
    row(
        Role::Node,
        "Compare",
        &["Digest", "Blocks", "Objects"],
        &[FAR_REGION_SYNC],
    ),
    row(
        Role::Node,
        "Cache",
        CACHE,
        &[NODE, GATEWAY, REGION_SYNC, CLIENT],
    ),
    row(
        Role::Node,
        "Cache",
        &["Get"],
        &[NODE, GATEWAY, REGION_SYNC, CLIENT],
    ),
    row(
        Role::Node,
        "Topology",
        TOPOLOGY_READS,
        &[OPERATOR, NODE, GATEWAY, REGION_SYNC],
    ),
    row(
        Role::Node,
        "Topology",
        &["InitRegion", "Upgrade"],
        &[OPERATOR],
    ),
    // Passed on by a gateway to a node, and by a node to the leader.
    row(
        Role::Node,
        "Topology",
        &["Join", "Leave", "SetPolicy", "Raise"],
        &[OPERATOR, NODE, GATEWAY],
    ),
    row(Role::Gateway, "Cache", CACHE, &[CLIENT, OPERATOR]),
    row(Role::Gateway, "Cache", GUESTS_CACHE, &[GUEST]),
    // What is pushed to a region is brought by its own gateways.
    row(Role::Gateway, "Cache", &["Prefetch"], &[REGION_SYNC]),
    variant(
        Role::Gateway,
        "Cache",
        &["Get"],
        "hop 0",
        &[CLIENT, OPERATOR, GUEST],
    ),
    variant(Role::Gateway, "Cache", &["Get"], "hop 1", &[FAR_GATEWAY]),
    row(Role::Gateway, "Link", &["Measure"], &[FAR_GATEWAY]),
    row(
        Role::Gateway,
        "Topology",
        TOPOLOGY_READS,
        &[OPERATOR, NODE, GATEWAY],
    ),
    row(Role::Gateway, "Topology", TOPOLOGY_WRITES, &[OPERATOR]),
    row(
        Role::RegionSync,
        "Feed",
        &["Follow", "FollowMesh"],
        &[GATEWAY],
    ),
    row(
        Role::RegionSync,
        "RegionSync",
        &["Peers", "Sync"],
        &[OPERATOR],
    ),
    row(Role::RegionSync, "RegionSync", &["Transferred"], &[GATEWAY]),
];

const fn row(
    at: Role,
    service: &'static str,
    methods: &'static [&'static str],
    callers: &'static [Caller],
) -> Row {
    Row {
        at,
        service,
        methods,
        variant: None,
        callers,
    }
}

const fn variant(
    at: Role,
    service: &'static str,
    methods: &'static [&'static str],
    variant: &'static str,
    callers: &'static [Caller],
) -> Row {
    Row {
        at,
        service,
        methods,
        variant: Some(variant),
        callers,
    }
}

/// Every service and method that somebody may call somewhere; some come twice.
pub(crate) fn methods() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().flat_map(|row| {
        let methods = row.methods.iter();
        methods.map(|method| (row.service, *method))
    })
}

/// Both ends of the connection that a call came by, where they are known.
pub fn link_of<T>(request: &Request<T>) -> Option<&Link> {
    request.extensions().get::<Option<Link>>()?.as_ref()
}

/// Refuses a call whose body decides who may make it: `Feed.Follow` by its scope, `Cache.Get`
/// of gateways by its hop, `Consensus.Propose` by its command. It narrows what the server has
/// admitted already: a client of another region came so far because it is served.
///
/// # Errors
/// [`Problem::Denied`], with who the caller is and who may.
pub fn check(
    link: Option<&Link>,
    service: &str,
    method: &str,
    variant: &str,
) -> Result<(), Problem> {
    let admitted = Guests::of(|_| true);
    link.map_or(Ok(()), |link| {
        admit(link, &admitted, service, method, Some(variant))
    })
}

/// Why a server refuses a call before its service sees it; none: the caller may make it.
pub(crate) fn refusal(request: &http::Request<Body>, guests: &Guests) -> Option<Status> {
    let link = request.extensions().get::<Option<Link>>()?.as_ref()?;
    let problem = check_path(link, guests, request.uri().path()).err()?;
    info!(%problem, "a call was refused");
    Some(problem.into())
}

/// Refuses the call of a path such as `/kvmesh.v1.Cache/Get`, unless one of its rows admits
/// the caller. Health and reflection are for everybody.
fn check_path(link: &Link, guests: &Guests, path: &str) -> Result<(), Problem> {
    if ["/grpc.health.", "/grpc.reflection."]
        .iter()
        .any(|free| path.starts_with(free))
    {
        return Ok(());
    }
    let call = path
        .strip_prefix("/kvmesh.v1.")
        .and_then(|call| call.split_once('/'));
    match call {
        Some((service, method)) => admit(link, guests, service, method, None),
        None => Err(denied(&link.peer, path, &[])),
    }
}

fn admit(
    link: &Link,
    guests: &Guests,
    service: &str,
    method: &str,
    body: Option<&str>,
) -> Result<(), Problem> {
    let rows = TABLE.iter().filter(|row| {
        row.at == link.own.role()
            && row.service == service
            && row.methods.contains(&method)
            && body.is_none_or(|body| row.variant.is_none_or(|variant| variant == body))
    });
    let callers: Vec<Caller> = rows.flat_map(|row| row.callers).copied().collect();
    if callers.contains(&(link.peer.role(), from(link, guests))) {
        return Ok(());
    }
    let body = body.map_or_else(String::new, |body| format!(" ({body})"));
    let region = link
        .own
        .region()
        .map_or_else(String::new, ToString::to_string);
    let what = format!(
        "{service}.{method}{body} of a {} of {region}",
        link.own.role()
    );
    Err(denied(&link.peer, &what, &callers))
}

fn from(link: &Link, guests: &Guests) -> From {
    let peer = link.peer.region();
    match peer {
        None => From::Outside,
        _ if peer == link.own.region() => From::Here,
        Some(region) if link.peer.role() == Role::Client && guests.admits(region) => From::Guest,
        Some(_) => From::Elsewhere,
    }
}

fn denied(peer: &Identity, what: &str, callers: &[Caller]) -> Problem {
    let mut who: Vec<String> = Vec::new();
    for (role, from) in callers {
        let from = match from {
            From::Here => " of the same region",
            From::Elsewhere => " of another region",
            From::Guest => " of a region that the setting clients_of names",
            From::Outside => "",
        };
        let caller = format!("a {role}{from}").replace("a operator", "an operator");
        if !who.contains(&caller) {
            who.push(caller);
        }
    }
    let may = match who.is_empty() {
        true => "nobody may".to_owned(),
        false => format!("it takes the certificate of {}", who.join(" or ")),
    };
    Problem::Denied(format!("{peer} may not call {what}: {may}"))
}
