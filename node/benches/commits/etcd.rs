//! Three members of etcd on loopback, and puts into them. The two messages of its wire that are
//! needed are written out here.

use std::{
    io,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::{self, Instant};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

const MEMBERS: usize = 3;
const CONNECTIONS: usize = 8;
const VALUE_BYTES: usize = 200;
const READY_MAX: Duration = Duration::from_secs(30);
const PUT: &str = "/etcdserverpb.KV/Put";

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Its header is not read.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Members that are killed with this.
struct Members(Vec<Child>);

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.0 {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Puts per second, so many at a time.
pub(super) async fn measure(dir: &Path, puts: u64, open: usize) -> io::Result<f64> {
    let ports = free_ports(2 * MEMBERS)?;
    let (clients, peers) = ports.split_at(MEMBERS);
    let cluster = peers.iter().enumerate();
    let cluster: Vec<String> = cluster
        .map(|(at, port)| format!("e{at}=http://127.0.0.1:{port}"))
        .collect();
    let mut members = Members(Vec::new());
    for at in 0..MEMBERS {
        let (client, peer) = (url(clients[at]), url(peers[at]));
        let spawned = Command::new("etcd")
            .args(["--name", &format!("e{at}"), "--log-level", "error"])
            .arg("--data-dir")
            .arg(dir.join(format!("etcd-{at}")))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--quota-backend-bytes", "4294967296", "--logger", "zap"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        members.0.push(spawned.map_err(|error| {
            let why = format!("etcd cannot be started ({error}): install Debian's etcd-server");
            io::Error::new(error.kind(), why)
        })?);
    }
    let mut channels = Vec::new();
    for at in 0..CONNECTIONS {
        let endpoint = Endpoint::from_shared(url(clients[at % MEMBERS]));
        let endpoint = endpoint.map_err(io::Error::other)?;
        channels.push(endpoint.tcp_nodelay(true).connect_lazy());
    }
    ready(&channels).await?;
    let began = Instant::now();
    let sending = stream::iter(0..puts).map(|number| {
        let channel = channels[number as usize % CONNECTIONS].clone();
        async move { put(channel, number).await }
    });
    let sent: Vec<Result<(), Status>> = sending.buffer_unordered(open).collect().await;
    let took = began.elapsed();
    match sent.into_iter().find_map(Result::err) {
        Some(status) => Err(io::Error::other(status)),
        None => Ok(puts as f64 / took.as_secs_f64()),
    }
}

/// Waits until every member takes puts.
async fn ready(channels: &[Channel]) -> io::Result<()> {
    let deadline = Instant::now() + READY_MAX;
    let mut tick = time::interval(Duration::from_millis(100));
    for channel in channels {
        while let Err(status) = put(channel.clone(), u64::MAX).await {
            if Instant::now() >= deadline {
                return Err(io::Error::other(status));
            }
            tick.tick().await;
        }
    }
    Ok(())
}

async fn put(channel: Channel, number: u64) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    let gone = |error| Status::unavailable(format!("{error}"));
    client.ready().await.map_err(gone)?;
    let request = PutRequest {
        key: format!("block/{number:032}").into_bytes(),
        value: vec![7; VALUE_BYTES],
    };
    let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static(PUT);
    client.unary(Request::new(request), path, codec).await?;
    Ok(())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Ports that nobody listens at now.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listen = |_| TcpListener::bind(("127.0.0.1", 0));
    let taken: Vec<TcpListener> = (0..count).map(listen).collect::<io::Result<_>>()?;
    taken.iter().map(|it| Ok(it.local_addr()?.port())).collect()
}
