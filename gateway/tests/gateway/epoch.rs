//! Puts that name a ring epoch.

use crate::fakes::start::World;
use kvmesh_client::{Problem, ToWire};
use kvmesh_directory::{Command, NodeId};
use kvmesh_proto::v1::{self as wire, put_request::Frame};
use tonic::{Code, Status};

/// Opens a put, and says nothing more.
async fn begin(world: &World, ring_epoch: u64) -> Result<(), Status> {
    let open = wire::PutOpen {
        namespace_id: world.namespace.id.to_wire(),
        ring_epoch,
        ..Default::default()
    };
    let frame = Some(Frame::Open(open));
    let only = tokio_stream::iter([wire::PutRequest { frame }]);
    world.client.clone().put(only).await.map(drop)
}

#[tokio::test]
async fn a_put_that_names_an_old_ring_is_told_the_current_one() {
    let world = World::start(2, |settings| settings.epoch_wait_ms = 50).await;
    let named = world.region.state().topology().epoch.0;
    assert!(begin(&world, 0).await.is_ok());
    assert!(begin(&world, named).await.is_ok());
    let ahead = begin(&world, named + 1).await.unwrap_err();
    assert_eq!(ahead.code(), Code::Unavailable, "{ahead}");
    world.region.apply(Command::LeaveNode {
        node: NodeId(2),
        forget: true,
    });
    world.catch_up().await;
    let current = world.region.state().topology().epoch.0;
    assert!(current > named);
    let stale = begin(&world, named).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition, "{stale}");
    let want = Problem::StaleEpoch { current, named };
    assert_eq!(Problem::from_status(&stale), Some(want));
}
