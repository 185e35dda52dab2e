//! A node that may not join, however often it asks, ends and says why.

use std::{
    convert::Infallible,
    error::Error,
    future::{Ready, ready},
    task::{Context, Poll},
};

use kvmesh_node::{
    Settings,
    consensus::{MemoryStorage, Storage},
};
use kvmesh_process::{Environment, server};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use crate::region_test::PATIENCE;

/// Answers every call as a member does whose caller's certificate is another's.
#[derive(Clone)]
struct Denying;

impl NamedService for Denying {
    const NAME: &'static str = "kvmesh.v1.Topology";
}

impl Service<http::Request<Body>> for Denying {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        ready(Ok(Status::permission_denied("you are nobody").into_http()))
    }
}

#[tokio::test]
async fn a_node_that_is_denied_when_it_joins_ends_and_says_why() {
    let (stop, grace) = (CancellationToken::new(), std::time::Duration::ZERO);
    let here = || server::listen(([127, 0, 0, 1], 0).into());
    let (member, incoming) = here().await.unwrap();
    let environment = Environment::real("us-east/node-1");
    let denying = server::serve(
        server::Routes::new(Denying),
        environment,
        incoming,
        stop.clone(),
        grace,
    );
    let (listen, incoming) = here().await.unwrap();
    let settings = Settings {
        region: "us-east".to_owned(),
        node: 2,
        listen,
        join: vec![member.to_string()],
        memory_bytes: 1 << 20,
        shutdown_grace_ms: 0,
        ..Settings::default()
    };
    let joining = kvmesh_node::serve_with(
        settings,
        Environment::real("us-east/node-2"),
        Storage::Memory(MemoryStorage::default()),
        incoming,
        stop.clone(),
    );
    let ended = tokio::select! {
        ended = timeout(PATIENCE, joining) => ended.expect("it goes on asking"),
        _ = denying => panic!("the member ended first"),
    };
    let error = ended.unwrap_err();
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("you are nobody"), "{error}: {why}");
}
