//! What changes the region through any of its nodes: namespaces are opened, blocks deleted.

use std::time::Duration;

use kvmesh_client::{Problem, channel::Channel};
use kvmesh_directory::{
    Command, Description, FeedPosition, Hlc, Namespace, Outcome, command::Refusal,
    limits::TEXT_BYTES_MAX,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    asker::Asker,
    context::Gateway,
    rpc::control::{self, Deletion},
    templates::{self, Template},
};

/// How long one node may take before the next is asked.
const NODE_PATIENCE: Duration = Duration::from_secs(3);
/// How long opening and deleting may take over all nodes.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long an answer waits for this gateway's own view to show what was done.
const OWN_VIEW: Duration = Duration::from_secs(2);
/// Characters of an id that make a name.
const NAME_FROM_ID: usize = 12;

/// Opens a namespace, unless it is open already: what it is, its name, and the template of its
/// policies.
///
/// What a client of another region opens first is named after its id, whatever name it
/// gives: that the name is another namespace's would tell it of one that it may not know of.
pub(crate) async fn open(
    gateway: &Gateway,
    asker: &Asker,
    (description, name, template): (Description, String, &str),
    until: Instant,
) -> Result<(Namespace, FeedPosition), Problem> {
    check_residency(gateway, asker, &description)?;
    let policy = template_of(gateway, template)?.policy();
    let (id, mut name) = named(&description, name)?;
    let at = gateway.views.fresh()?;
    let (known, taken) = gateway.views.local.with(|state| {
        let known = state.namespace(id).cloned();
        let taken = state.namespace_named(&name).cloned();
        let others = |taken: &Namespace| taken.id != id && asker.may_see(&taken.description);
        (known, taken.filter(others))
    });
    if let Some(taken) = taken {
        let fields = description.differing(&taken.description);
        let fields = fields.into_iter().map(str::to_owned).collect();
        return Err(Problem::DescriptionDiffers { name, fields });
    }
    if let Some(known) = known {
        return Ok((known, at));
    }
    if !asker.is_near() {
        (_, name) = named(&description, String::new())?;
    }
    let namespace = Namespace {
        id,
        name,
        description,
        policy,
        generation: Hlc(0),
        policy_hlc: Hlc::from_millis(gateway.environment.clock.millis()),
        policy_region: gateway.region.clone(),
    };
    let command = Command::OpenNamespace(namespace);
    let (at, outcome) = propose(gateway, &command, until).await?;
    let opened = judge(outcome)?;
    if !shown_here(gateway, &at, until).await {
        let what = "the namespace is open, and this gateway does not show it yet: open it again";
        return Err(Problem::unavailable(what));
    }
    Ok((opened, at))
}

/// Refuses a description that may not be here, or not where it is asked from: whoever has it knows that
/// much already.
fn check_residency(
    gateway: &Gateway,
    asker: &Asker,
    description: &Description,
) -> Result<(), Problem> {
    let here = Some((&gateway.region, "this region"));
    let there = match asker {
        Asker::Far(region) => Some((region, "the caller's region")),
        Asker::Near | Asker::Unknown => None,
    };
    let mut regions = here.into_iter().chain(there);
    match regions.find(|(region, _)| !description.resides_in(region)) {
        None => Ok(()),
        Some((region, whose)) => {
            let why = format!("the description's residency does not name {whose}, {region}");
            Err(Problem::Denied(why))
        }
    }
}

fn template_of(gateway: &Gateway, name: &str) -> Result<Template, Problem> {
    let name = match name {
        "" => templates::DEFAULT,
        name => name,
    };
    let settings = gateway.settings.now();
    let templates = &settings.templates;
    templates.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = templates.keys().map(String::as_str).collect();
        let why = format!("{name:?} is not one of {}", known.join(", "));
        Problem::invalid("template", why)
    })
}

fn named(
    description: &Description,
    name: String,
) -> Result<(kvmesh_directory::NamespaceId, String), Problem> {
    let id = description.id();
    if name.len() > TEXT_BYTES_MAX {
        let why = format!("it has {} bytes, at most {TEXT_BYTES_MAX}", name.len());
        return Err(Problem::invalid("name", why));
    }
    if name.is_empty() {
        return Ok((id, id.to_string()[..NAME_FROM_ID].to_owned()));
    }
    Ok((id, name))
}

fn judge(outcome: Outcome) -> Result<Namespace, Problem> {
    match (outcome.refused, outcome.namespace) {
        (None, Some(namespace)) => Ok(namespace),
        (Some(Refusal::NameTaken { name, fields }), _) => {
            Err(Problem::DescriptionDiffers { name, fields })
        }
        (Some(Refusal::NotInitialised), _) => Err(Problem::NotInitialised),
        (Some(Refusal::Namespace(why)), _) => Err(Problem::invalid("description", why)),
        (Some(full @ Refusal::Full { .. }), _) => Err(Problem::Exhausted {
            limit: full.to_string(),
            retry_after: Duration::from_secs(60),
        }),
        (Some(other), _) => Err(Problem::Internal(other.to_string())),
        (None, None) => Err(Problem::Internal("the region said nothing".to_owned())),
    }
}

async fn propose(
    gateway: &Gateway,
    command: &Command,
    until: Instant,
) -> Result<(FeedPosition, Outcome), Problem> {
    on_some_node(gateway, until, "Propose", |channel, until| {
        control::propose(channel, command, until)
    })
    .await
}

/// Deletes by any node; says where a view no longer shows the blocks, and how many were present.
pub(crate) async fn delete(
    gateway: &Gateway,
    deletion: &Deletion,
    until: Instant,
) -> Result<(FeedPosition, u32), Problem> {
    gateway.views.fresh()?;
    let answer = on_some_node(gateway, until, "Delete", |channel, until| {
        control::delete(channel, deletion, until)
    });
    let (at, deleted) = answer.await?;
    shown_here(gateway, &at, until).await;
    Ok((at, deleted))
}

/// Waits for this gateway's own view, so that reads through it follow what was done without
/// naming its position. A view that is slow does not undo it.
pub(crate) async fn shown_here(gateway: &Gateway, at: &FeedPosition, until: Instant) -> bool {
    let seen = until.min(Instant::now() + OWN_VIEW);
    gateway.views.at_least(std::slice::from_ref(at), seen).await
}

/// Asks nodes in turn until one answers for good.
pub(crate) async fn on_some_node<T, F>(
    gateway: &Gateway,
    until: Instant,
    method: &'static str,
    ask: impl Fn(Channel, Instant) -> F,
) -> Result<T, Problem>
where
    F: Future<Output = Result<T, control::Failure>>,
{
    let until = until.min(Instant::now() + DEADLINE);
    let mut pause = Duration::from_millis(50);
    let mut last = Problem::unavailable("no node of the region answered: try again");
    loop {
        let addresses = gateway.views.node_addresses(&gateway.settings.now().nodes);
        for address in gateway.peers.in_turn(&addresses) {
            let channel = gateway.peers.channel(&address)?;
            gateway.meters.outbound(method);
            let patience = until.min(Instant::now() + NODE_PATIENCE);
            match timeout_at(patience, ask(channel, patience)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(control::Failure::Final(problem))) => return Err(problem),
                Ok(Err(control::Failure::Next(message))) => {
                    last = Problem::unavailable(message);
                }
                Ok(Err(control::Failure::Unreachable(message))) => {
                    gateway.peers.failed(&address);
                    last = Problem::unavailable(message);
                }
                Err(_) => gateway.peers.failed(&address),
            }
            if Instant::now() >= until {
                return Err(last);
            }
        }
        if Instant::now() + pause >= until {
            return Err(last);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
