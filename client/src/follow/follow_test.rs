//! Followers run as tasks.

use tokio_util::sync::CancellationToken;

use super::{MeshScopeFollower, MeshViewFollower, RegionFollower};

fn spawnable<T: Send + 'static>(_: T) {}

#[allow(dead_code, reason = "it only has to compile")]
fn followers_can_be_spawned(
    region: RegionFollower,
    scope: MeshScopeFollower,
    mesh: MeshViewFollower,
) {
    let stop = CancellationToken::new();
    spawnable(region.run(stop.clone()));
    spawnable(scope.run(stop.clone()));
    spawnable(mesh.run(stop));
}
