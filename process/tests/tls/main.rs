//! Mutual TLS over real sockets: who is refused, by whom, and with which words.
#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod certs;
mod congestion;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use certs::{Ca, Files, GOOD, Pair};
use futures::StreamExt;
use kvmesh_client::{
    channel::{BoxedIo, Channel, Channels, Connect, Incoming, TcpConnect},
    tls::{self, Credentials, Expected, Role, TlsConnect},
};
use kvmesh_process::{Environment, server, tls::incoming};
use kvmesh_proto::v1::{ShowRequest, topology_client::TopologyClient};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const BOUND: Duration = Duration::from_secs(60);
const NODE: &str = "spiffe://m/region/e/node/1";
const GATEWAY: &str = "spiffe://m/region/e/gateway/g";
const CLIENT: &str = "spiffe://m/region/e/client/c";

async fn listen() -> (SocketAddr, Incoming) {
    server::listen(([127, 0, 0, 1], 0).into()).await.unwrap()
}

/// A server without services but health; who may not call a service is refused before that.
async fn serve(credentials: Option<Credentials>) -> (String, DropGuard) {
    let (address, plain) = listen().await;
    let accepted = match credentials {
        Some(credentials) => incoming(plain, credentials),
        None => plain,
    };
    let stop = CancellationToken::new();
    let served = server::serve(
        server::Routes::default(),
        Environment::real("test"),
        accepted,
        stop.clone(),
        Duration::ZERO,
    );
    TaskTracker::new().spawn(async { served.await.unwrap() });
    (address.to_string(), stop.drop_guard())
}

fn channel(files: &Files, address: &str, expected: Expected) -> Channel {
    let connect = TlsConnect::new(Arc::new(TcpConnect), files.credentials());
    let channels = Channels::new(Arc::new(connect)).expecting(expected);
    channels.to(address).unwrap()
}

async fn health(channel: Channel) -> Result<(), String> {
    let mut client = HealthClient::new(channel);
    answered(client.check(HealthCheckRequest::default())).await
}

async fn answered<T>(call: impl Future<Output = Result<T, Status>>) -> Result<(), String> {
    let answer = timeout(BOUND, call).await.unwrap();
    answer.map(drop).map_err(|status| causes(&status))
}

async fn show(channel: Channel) -> Status {
    let mut topology = TopologyClient::new(channel);
    let shown = timeout(BOUND, topology.show(ShowRequest {}));
    shown.await.unwrap().unwrap_err()
}

fn causes(status: &Status) -> String {
    let (mut text, mut cause) = (status.to_string(), std::error::Error::source(status));
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What a server says of a caller that is refused; the caller must not get through.
async fn refused(
    server: &Files,
    caller: impl AsyncFnOnce(SocketAddr) -> Result<(), String>,
) -> String {
    let (address, mut plain) = listen().await;
    let credentials = server.credentials();
    let accept = async {
        let stream = plain.next().await.unwrap().unwrap();
        timeout(BOUND, tls::accept(stream, &credentials))
            .await
            .unwrap()
    };
    let (accepted, called) = tokio::join!(accept, caller(address));
    called.unwrap_err();
    accepted.err().map(|error| error.to_string()).unwrap()
}

/// A caller of another make, which sends what it is told to.
async fn stranger(address: SocketAddr, ca: &Ca, pair: Option<&Pair>) -> Result<(), String> {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem));
    let config = match pair {
        Some(pair) => config.identity(Identity::from_pem(&pair.certificate, &pair.key)),
        None => config,
    };
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(config).unwrap().connect_lazy();
    let mut client = HealthClient::new(channel);
    answered(client.check(HealthCheckRequest::default())).await
}

#[tokio::test]
async fn callers_with_bad_certificates_are_refused_with_reasons() {
    let (ca, other) = (Ca::new(), Ca::new());
    let node = Files::new(&ca.good(NODE), &ca.pem);
    let cases = [
        (None, "no certificate"),
        (Some(other.good(GATEWAY)), "not signed by a CA"),
        (Some(ca.issue(Some(GATEWAY), (2019, 2020))), "has expired"),
        (Some(ca.issue(Some(GATEWAY), (2099, 2100))), "not valid yet"),
        (Some(ca.issue(None, GOOD)), "names nobody of a mesh"),
        (Some(ca.good("https://m/g")), "names nobody of a mesh"),
        (
            Some(ca.good("spiffe://n/operator/a")),
            "another trust domain",
        ),
    ];
    for (pair, why) in cases {
        let said = refused(&node, async |at| stranger(at, &ca, pair.as_ref()).await).await;
        assert!(said.contains(why), "{said:?} does not say {why:?}");
    }
}

#[tokio::test]
async fn plaintext_and_tls_do_not_meet_and_both_ends_say_so() {
    let ca = Ca::new();
    let node = Files::new(&ca.good(NODE), &ca.pem);
    let plain = async |at: SocketAddr| {
        let channels = Channels::new(Arc::new(TcpConnect));
        health(channels.to(&at.to_string()).unwrap()).await
    };
    let said = refused(&node, plain).await;
    assert!(said.contains("does not speak TLS"), "{said}");

    let (address, _stop) = serve(None).await;
    let gateway = Files::new(&ca.good(GATEWAY), &ca.pem);
    let error = health(channel(&gateway, &address, Expected::default())).await;
    let error = error.unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn calls_are_admitted_by_role_and_region() {
    let ca = Ca::new();
    let node = Files::new(&ca.good(NODE), &ca.pem);
    let (address, _stop) = serve(Some(node.credentials())).await;
    let show_as = async |uri: &str| {
        let files = Files::new(&ca.good(uri), &ca.pem);
        health(channel(&files, &address, Expected::default()))
            .await
            .unwrap();
        show(channel(&files, &address, Expected::default())).await
    };
    // Admitted: only then it shows that the service is not there.
    assert_eq!(show_as(GATEWAY).await.code(), Code::Unimplemented);
    for uri in [CLIENT, "spiffe://m/region/w/gateway/g"] {
        let status = show_as(uri).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(uri), "{status}");
        assert!(status.message().contains("an operator"), "{status}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_who_is_expected_is_not_talked_to() {
    let (ca, other) = (Ca::new(), Ca::new());
    let node = Files::new(&ca.good(NODE), &ca.pem);
    let (address, _stop) = serve(Some(node.credentials())).await;
    let gateway = Files::new(&ca.good(GATEWAY), &ca.pem);
    let (east, west) = ("e".parse().unwrap(), "w".parse().unwrap());
    let expect = async |expected| health(channel(&gateway, &address, expected)).await;
    expect(Expected::of(Role::Node, &east)).await.unwrap();
    for expected in [
        Expected::of(Role::Node, &west),
        Expected::role(Role::Gateway),
    ] {
        let error = expect(expected.clone()).await.unwrap_err();
        assert!(
            error.contains(&format!("{expected} was expected")),
            "{error}"
        );
    }
    let stranger = Files::new(&other.good(GATEWAY), &other.pem);
    let error = health(channel(&stranger, &address, Expected::default())).await;
    assert!(error.unwrap_err().contains("not signed by a CA"));
}

#[tokio::test]
async fn a_silent_caller_holds_up_nobody_and_is_given_up() {
    let ca = Ca::new();
    let node = Files::new(&ca.good(NODE), &ca.pem);
    let (address, _stop) = serve(Some(node.credentials())).await;
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let gateway = Files::new(&ca.good(GATEWAY), &ca.pem);
    health(channel(&gateway, &address, Expected::default()))
        .await
        .unwrap();
    let closed = timeout(BOUND, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn new_files_are_taken_up_and_bad_ones_are_not() {
    let (old, new) = (Ca::new(), Ca::new());
    let node = Files::new(&old.good(NODE), &old.pem);
    let (address, _stop) = serve(Some(node.credentials())).await;
    let both = format!("{}{}", old.pem, new.pem);
    let gateway = Files::new(&new.good(GATEWAY), &both);
    let call = async || health(channel(&gateway, &address, Expected::default())).await;
    call().await.unwrap_err();
    // Of another node: not this process's.
    node.write(&new.good("spiffe://m/region/e/node/2"), &both);
    call().await.unwrap_err();
    node.write(&new.good(NODE), &both);
    call().await.unwrap();
}

/// A connection over TLS keeps what it was made for: bytes, both ways.
#[tokio::test]
async fn both_ends_know_one_another() {
    let ca = Ca::new();
    let (node, gateway) = (
        Files::new(&ca.good(NODE), &ca.pem),
        Files::new(&ca.good(GATEWAY), &ca.pem),
    );
    let (address, mut plain) = listen().await;
    let connect = TlsConnect::new(Arc::new(TcpConnect), gateway.credentials());
    let credentials = node.credentials();
    let accept = async {
        let stream: io::Result<BoxedIo> = plain.next().await.unwrap();
        tls::accept(stream?, &credentials).await
    };
    let address = address.to_string();
    let (accepted, connected) = tokio::join!(accept, connect.connect(&address));
    connected.unwrap();
    let link = accepted.unwrap().link().cloned().unwrap();
    assert_eq!(link.own.to_string(), NODE);
    assert_eq!(link.peer.to_string(), GATEWAY);
}
