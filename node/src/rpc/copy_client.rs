//! Hands one copy of a block to another owner.

use std::sync::Arc;

use futures::stream;
use kvmesh_client::{Block, FromWire, ToWire, WireError, bulk, channel::AddressError};
use kvmesh_directory::{BlockName, Copy};
use kvmesh_process::Environment;
use kvmesh_proto::v1::{self as wire, replication_client::ReplicationClient};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Why another owner did not take a copy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The member's address cannot be.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The call failed.
    #[error("the owner could not be asked: {}", .0.message())]
    Call(Box<Status>),
    /// It refused.
    #[error("the owner refused ({reason}): {message}")]
    Refused {
        /// As on the wire.
        reason: &'static str,
        /// What it said.
        message: String,
    },
    /// Its answer cannot be read.
    #[error("the owner's answer cannot be read")]
    Answer(#[from] WireError),
    /// It took the copy, and not to disk.
    #[error("the owner does not say that the copy is on disk")]
    NotDurable,
    /// It did not answer in time.
    #[error("the owner took too long")]
    OutOfTime,
}

/// Sends a block to the node at an address; the copy that it took, on disk when it is to be
/// `durable`.
pub(crate) async fn send(
    environment: &Environment,
    address: &str,
    name: BlockName,
    (block, durable): (&Arc<Block>, bool),
    until: Instant,
) -> Result<Copy, CopyError> {
    let channel = environment.channels.to(address)?;
    let frames = stream::iter(frames(name, Arc::clone(block), durable));
    let sending = async {
        let mut answers = bulk::call(channel, bulk::COPY, frames, None).await?;
        answers.message().await
    };
    let answer: wire::CopyResponse = match timeout_at(until, sending).await {
        Err(_) => return Err(CopyError::OutOfTime),
        Ok(Err(status)) => return Err(CopyError::Call(Box::new(status))),
        Ok(Ok(None)) => return Err(WireError::Missing("copy").into()),
        Ok(Ok(Some(answer))) => answer,
    };
    match answer.copy {
        // A node of before the disk does not know what was asked.
        Some(_) if durable && !answer.durable => Err(CopyError::NotDurable),
        Some(copy) => Ok(Copy::from_wire(copy)?),
        None => Err(CopyError::Refused {
            reason: answer.refused().as_str_name(),
            message: answer.message,
        }),
    }
}

/// Asks the node at an address whether it has a copy, on disk when that is to be `durable`;
/// what it has it keeps for longer.
pub(crate) async fn confirm(
    environment: &Environment,
    address: &str,
    name: BlockName,
    (copy, durable): (Copy, bool),
    until: Instant,
) -> Result<bool, CopyError> {
    let channel = environment.channels.to(address)?;
    let mut client = ReplicationClient::new(channel);
    let listed = wire::ListedCopy {
        name: Some(name.to_wire()),
        copy: Some(copy.to_wire()),
    };
    let request = wire::ConfirmRequest {
        copies: vec![listed],
        durable,
    };
    match timeout_at(until, client.confirm(request)).await {
        Err(_) => Err(CopyError::OutOfTime),
        Ok(Err(status)) => Err(CopyError::Call(Box::new(status))),
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            Ok(answer.missing.is_empty() && (answer.durable || !durable))
        }
    }
}

fn frames(
    name: BlockName,
    block: Arc<Block>,
    durable: bool,
) -> impl Iterator<Item = wire::CopyRequest> {
    (0..block.pieces.len()).map(move |index| wire::CopyRequest {
        id: 1,
        header: (index == 0).then(|| wire::CopyHeader {
            name: Some(name.to_wire()),
            meta: Some(block.meta.to_wire()),
            durable,
        }),
        piece: block.pieces[index].clone(),
    })
}
