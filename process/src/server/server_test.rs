use std::{sync::Arc, time::Duration};

use kvmesh_client::channel::{Channels, TcpConnect};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus as Wire, health_client::HealthClient,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ServeError>>,
}

#[allow(clippy::disallowed_methods, reason = "the test awaits it")]
async fn served(grace: Duration) -> Served {
    let (address, incoming) = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let stop = CancellationToken::new();
    let ended = tokio::spawn(serve(
        Routes::default(),
        Environment::real("test"),
        incoming,
        stop.clone(),
        grace,
    ));
    Served {
        address,
        stop,
        ended,
    }
}

fn health(served: &Served) -> HealthClient<kvmesh_client::channel::Channel> {
    let channels = Channels::new(Arc::new(TcpConnect));
    HealthClient::new(channels.to(&served.address.to_string()).unwrap())
}

#[tokio::test]
async fn health_is_served_and_an_idle_server_ends_at_once() {
    let served = served(Duration::from_secs(60)).await;
    let request = HealthCheckRequest::default();
    let answer = health(&served).check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), Wire::Serving);
    served.stop.cancel();
    timeout(SOON, served.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_without_end_does_not_outlive_the_grace_period() {
    let served = served(Duration::from_millis(50)).await;
    let mut client = health(&served);
    let request = HealthCheckRequest::default();
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), Wire::Serving);

    served.stop.cancel();
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.status(), Wire::NotServing);
    timeout(SOON, served.ended).await.unwrap().unwrap().unwrap();
    let broken = timeout(SOON, watch.message()).await.unwrap();
    assert!(broken.is_err(), "the stream goes on: {broken:?}");
}

#[tokio::test]
async fn an_unknown_service_is_unimplemented() {
    let served = served(Duration::ZERO).await;
    let channels = Channels::new(Arc::new(TcpConnect));
    let channel = channels.to(&served.address.to_string()).unwrap();
    let mut topology = kvmesh_proto::v1::topology_client::TopologyClient::new(channel);
    let status = topology.show(kvmesh_proto::v1::ShowRequest {}).await;
    assert_eq!(status.unwrap_err().code(), Code::Unimplemented);
    served.stop.cancel();
    served.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn connections_over_the_bound_are_closed() {
    let (_near, far) = tokio::io::duplex(64);
    let (_near_2, far_2) = tokio::io::duplex(64);
    let pair = [Ok(BoxedIo::new(far)), Ok(BoxedIo::new(far_2))];
    let incoming: Incoming = Box::pin(stream::iter(pair));
    let mut admitted = Vec::new();
    let meters = Connections::new(&"test".into());
    accept_all(incoming, 1, &meters, |io, counted| {
        admitted.push((io, counted))
    })
    .await;
    assert_eq!(admitted.len(), 1);
}
