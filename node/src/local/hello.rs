//! How a connection begins: for which namespace it is, and whether for gets or for puts.

use std::sync::Arc;

use kvmesh_client::{
    convert::local::{Answer, Ask, Response},
    local::socket::Socket,
};
use kvmesh_directory::{NamespaceId, limits::PROTOCOL_VERSION};

use super::packets::{self, Over};
use crate::{
    budget,
    node::Node,
    store::arena::{Guest, Staging, Stagings},
};

/// What a connection is for.
pub(super) struct Hello {
    pub(super) namespace: NamespaceId,
    pub(super) purpose: Purpose,
}

pub(super) enum Purpose {
    Gets(Guest),
    Puts(Arc<Staging>),
}

/// Reads the first packet and answers it.
pub(super) async fn read(node: &Node, socket: &Socket, stagings: &Stagings) -> Result<Hello, Over> {
    let request = packets::first(socket).await?;
    let greeted = match request.ask {
        Some(Ask::Hello {
            version,
            namespace,
            puts,
        }) if version == PROTOCOL_VERSION => {
            let purpose = purpose(node, namespace, puts, stagings);
            purpose.map(|purpose| Hello { namespace, purpose })
        }
        _ => Err(format!(
            "the first packet is a hello of version {PROTOCOL_VERSION}"
        )),
    };
    let staging = match &greeted {
        Ok(hello) => hello.purpose.staging(),
        Err(_) => None,
    };
    let answer = match &greeted {
        Ok(_) => Answer::Welcome {
            node: node.me,
            region: node.region.clone(),
            staging: staging.map_or(0, |staging| staging.bytes()),
        },
        Err(why) => Answer::Refused(why.clone()),
    };
    let response = Response {
        id: request.id,
        answer: Some(answer),
        ..Response::default()
    };
    let files: Vec<_> = staging.iter().map(|staging| staging.file()).collect();
    packets::send(socket, &response, &files).await?;
    greeted.map_err(Over::Wrong)
}

fn purpose(
    node: &Node,
    namespace: NamespaceId,
    puts: bool,
    stagings: &Stagings,
) -> Result<Purpose, String> {
    node.namespace(namespace)
        .map_err(|error| error.to_string())?;
    let room = node.store.room(namespace);
    let room = room.ok_or_else(|| "nothing can be mapped".to_owned())?;
    if !puts {
        return Ok(Purpose::Gets(room.enter()));
    }
    let inflight_max = budget::inflight_bytes(&node.settings.now());
    let opened = stagings.open(inflight_max).map_err(|error| {
        node.metrics.local.no_staging.increment(1);
        error.to_string()
    });
    opened.map(|staging| Purpose::Puts(Arc::new(staging)))
}

impl Purpose {
    fn staging(&self) -> Option<&Staging> {
        match self {
            Self::Gets(_) => None,
            Self::Puts(staging) => Some(staging),
        }
    }
}
