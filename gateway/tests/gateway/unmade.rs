//! A gateway that knows no region: there is none, or nobody has told it of one.

use std::time::Duration;

use kvmesh_client::Problem;
use kvmesh_gateway::Settings;
use kvmesh_process::server::Routes;
use kvmesh_proto::v1::{
    self as wire,
    feed_server::{Feed, FeedServer},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::fakes::{
    feed::Answers,
    start::{host, host_gateway},
};

/// A node whose region was never made.
struct Unmade;

#[tonic::async_trait]
impl Feed for Unmade {
    type FollowStream = Answers<wire::FeedFrame>;
    type FollowMeshStream = Answers<wire::MeshFrame>;

    async fn follow(
        &self,
        _request: Request<wire::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Problem::NotInitialised.into())
    }

    async fn follow_mesh(
        &self,
        _request: Request<wire::FollowMeshRequest>,
    ) -> Result<Response<Self::FollowMeshStream>, Status> {
        Err(Status::unimplemented("a node"))
    }
}

/// What a gateway that follows this node says in the end.
async fn said_of(node: String, stop: &CancellationToken, code: Code) -> Status {
    let settings = Settings {
        region: "us-east".to_owned(),
        nodes: vec![node],
        ..Settings::default()
    };
    let mut client = host_gateway(settings, "us-east/gateway", stop).await;
    let asking = async {
        loop {
            let asked = client.lookup(wire::LookupRequest::default()).await;
            let status = asked.unwrap_err();
            if status.code() == code {
                return status;
            }
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(30), asking);
    asked.await.expect("the gateway says so in time")
}

#[tokio::test]
async fn only_who_was_told_that_there_is_no_region_says_so() {
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let node = host(Routes::new(FeedServer::new(Unmade)), stop.clone()).await;
    let said = said_of(node, &stop, Code::FailedPrecondition).await;
    assert_eq!(Problem::from_status(&said), Some(Problem::NotInitialised));

    // Nobody listens on port 1.
    let said = said_of("127.0.0.1:1".to_owned(), &stop, Code::Unavailable).await;
    assert!(said.message().contains("not heard yet"), "{said}");
}
