//! `meshctl health` against a process that says of itself that it takes no calls.

use crate::support::meshctl;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;

#[tokio::test]
async fn a_process_that_takes_no_calls_exits_1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (health, service) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let asked = async {
        let serving = meshctl(["health", &address]).await.ok();
        assert_eq!(serving.out.trim(), format!("{address}: SERVING"));
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        let ending = meshctl(["health", "--gateway", &address]).await;
        assert_eq!(ending.code, 1, "{ending:?}");
        assert!(ending.out.contains("NOT_SERVING"), "{ending:?}");
        assert!(ending.err.contains("does not take calls"), "{ending:?}");
    };
    tokio::select! {
        served = server => panic!("the server ended: {served:?}"),
        () = asked => {}
    }
}
