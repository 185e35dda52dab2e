//! Serves `Lease`, and the leasing half of `Lookup`.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{Problem, ToWire};
use kvmesh_directory::FeedPosition;
use kvmesh_proto::v1 as wire;
use tokio::time::Instant;
use tonic::Request;

use super::decode;
use crate::{
    asker::Asker,
    context::Gateway,
    deadline::Deadline,
    lease::{self, Taken, Token},
};

/// Holders of a block, one after the other, for which a call waits that names no deadline.
const HOLDERS_WAITED_FOR: u32 = 2;

/// How long a call that leases may take when it names no deadline.
pub(super) fn limit(gateway: &Gateway) -> Duration {
    let own = Duration::from_millis(gateway.settings.now().lookup_deadline_ms);
    own + gateway.owner_timeout(0) * HOLDERS_WAITED_FOR
}

pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    asker: &Asker,
    request: Request<wire::LeaseRequest>,
) -> Result<wire::LeaseResponse, Problem> {
    let _room = gateway.admit()?;
    let deadline = Deadline::of(request.metadata(), 0, limit(gateway)).with_room_to_answer();
    let request = request.into_inner();
    for (field, is_empty) in [
        ("id", request.id.is_empty()),
        ("keys", request.keys.is_empty()),
    ] {
        if !is_empty {
            let why = "it is for calls to nodes: name chains, renew or release";
            return Err(Problem::invalid(field, why));
        }
    }
    match (
        request.chains.is_empty(),
        request.renew.is_empty(),
        request.release.is_empty(),
    ) {
        (false, true, true) => take(gateway, asker, request, deadline.at).await,
        (true, false, true) => {
            let token = token("renew", &request.renew)?;
            gateway.views.fresh()?;
            let namespace = decode::namespace_of(gateway, asker, request.namespace_id)?.id;
            let (hold_ms, until) = (request.hold_ms, deadline.at);
            let told = lease::renew(gateway, namespace, &token, hold_ms, until).await?;
            Ok(wire::LeaseResponse {
                lease: request.renew,
                blocks: told.blocks,
                hold_ms: told.hold_ms,
                partial: told.partial,
                ..Default::default()
            })
        }
        (true, true, false) => {
            let token = token("release", &request.release)?;
            gateway.views.fresh()?;
            let namespace = decode::namespace_of(gateway, asker, request.namespace_id)?.id;
            let told = lease::release(gateway, namespace, &token, deadline.at).await?;
            Ok(wire::LeaseResponse {
                blocks: told.blocks,
                partial: told.partial,
                ..Default::default()
            })
        }
        _ => {
            let why = "name exactly one of chains, renew and release";
            Err(Problem::invalid("chains", why))
        }
    }
}

fn token(field: &'static str, raw: &[u8]) -> Result<Token, Problem> {
    Token::decode(raw).map_err(|why| Problem::invalid(field, why))
}

async fn take(
    gateway: &Arc<Gateway>,
    asker: &Asker,
    request: wire::LeaseRequest,
    until: Instant,
) -> Result<wire::LeaseResponse, Problem> {
    let positions = decode::positions(request.at_least)?;
    let before = gateway.views.fresh()?;
    let wait = Duration::from_millis(gateway.settings.now().at_least_wait_ms);
    let shown_until = until.min(Instant::now() + wait);
    if !gateway.views.at_least(&positions, shown_until).await {
        return Ok(wire::LeaseResponse {
            view_behind: true,
            position: Some(before.to_wire()),
            ..Default::default()
        });
    }
    let position: FeedPosition = gateway.views.fresh()?;
    let namespace = decode::namespace_of(gateway, asker, request.namespace_id)?;
    let queries = decode::queries(request.chains, &namespace)?;
    let taken = lease::take(gateway, namespace.id, &queries, request.hold_ms, until).await?;
    Ok(wire::LeaseResponse {
        lease: name_of(&taken),
        blocks: taken.blocks,
        hold_ms: taken.hold_ms,
        runs: taken.runs,
        position: Some(position.to_wire()),
        ..Default::default()
    })
}

fn name_of(taken: &Taken) -> bytes::Bytes {
    let token = taken.token.as_ref();
    token.map(Token::encode).unwrap_or_default()
}

/// Writes what was leased into the answer of a lookup.
pub(super) fn write(answer: &mut wire::LookupResponse, taken: &Taken) {
    answer.lease = name_of(taken);
    answer.lease_ms = taken.hold_ms;
    for (found, run) in answer.matches.iter_mut().zip(&taken.runs) {
        found.leased_blocks = *run;
    }
}
