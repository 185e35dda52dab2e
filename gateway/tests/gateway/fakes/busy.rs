//! A holder that has begun to answer and is busy with something else.

use kvmesh_proto::v1 as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Holder, cache::obedient};

/// Sends one block, and does not end.
pub(super) async fn first_block(
    holder: &Holder,
    request: &wire::GetRequest,
    out: &mpsc::Sender<Result<wire::GetResponse, Status>>,
) -> Result<(), mpsc::error::SendError<Result<wire::GetResponse, Status>>> {
    let (own, mut frames) = mpsc::channel::<Result<wire::GetResponse, Status>>(4);
    let passing = async {
        while let Some(frame) = frames.recv().await {
            let whole = matches!(&frame, Ok(it) if it.end() == wire::BlockEnd::Complete);
            out.send(frame).await?;
            if whole {
                break;
            }
        }
        std::future::pending().await
    };
    let (_, passed) = tokio::join!(obedient(holder, request, &own), passing);
    passed
}
