//! One trace from an engine through the gateways of two regions to a node, as a collector gets it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use kvmesh_client::{
    Block,
    channel::{Channels, TcpConnect},
    client::{Chain, ChainQuery, Client, GetOptions, Opened, PutBlock, PutOptions, PutResult},
};
use kvmesh_directory::{Description, Part};
use kvmesh_process::telemetry::{self, SPANS, TraceSettings, Traces};
use meshctl::dev::mesh::{Mesh, Settings};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, status::StatusCode},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, transport::Server};
use tracing::{Instrument, info_span};

const SOON: Duration = Duration::from_secs(30);
const BLOCKS: u32 = 3;

/// Keeps what it is sent.
struct Collector(watch::Sender<Vec<Span>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.0.send_modify(|all| all.extend(spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(tasks: &TaskTracker) -> (String, watch::Receiver<Vec<Span>>) {
    let (sender, spans) = watch::channel(Vec::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let server = Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tasks.spawn(async move { server.serve_with_incoming(Box::pin(incoming)).await });
    (endpoint, spans)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_of_another_regions_block_is_one_trace_through_both_regions() {
    let (endpoint, mut spans) = collector(&TaskTracker::new()).await;
    let settings = TraceSettings {
        endpoint,
        ratio: 1.0,
    };
    let traces = Traces::start(&settings, "dev", "dev").unwrap();
    telemetry::logs_and_traces("warn,openraft=off", &traces).unwrap();
    let mesh = Mesh::start(Settings {
        regions: 2,
        nodes: 3,
        link_scale: 0.0,
        memory_bytes: 512 << 20,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    })
    .await
    .unwrap();

    let [near, far] = [0, 1].map(|region| mesh.regions()[region].gateway.clone());
    let blocks: Vec<PutBlock> = (0..BLOCKS).map(block).collect();
    let chain = Chain::new(blocks.iter().map(|block| &block.hash)).unwrap();
    let at_home = open(near).await;
    for result in at_home.put(&blocks, PutOptions::default()).await.unwrap() {
        assert!(matches!(result, PutResult::Acked(_)), "{result:?}");
    }
    let abroad = open(far).await;
    until_seen(&abroad, &chain).await;

    let engine = info_span!(target: SPANS, "engine");
    let get = abroad.get(&chain, GetOptions::default());
    let got = get.instrument(engine).await.unwrap();
    assert_eq!(got.blocks.len(), BLOCKS as usize);

    // From the engine in eu-west to a node that stored the block in us-east …
    let down = [
        ("engine", ""),
        ("kvmesh.v1.Cache/Get", "eu-west/gateway-1"),
        ("fetch", ""),
        ("kvmesh.v1.Cache/Get", "us-east/gateway-1"),
        ("read", ""),
        ("kvmesh.v1.Cache/Get", "us-east/node-"),
    ];
    let path = path_of(&mut spans, &down).await;
    assert!(path[0].parent_span_id.is_empty());
    for span in &path {
        assert_eq!(span.trace_id, path[0].trace_id, "{}", span.name);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    let call = attributes(&path[1]);
    assert_eq!(call["rpc.system"], "grpc");
    assert_eq!(call["rpc.service"], "kvmesh.v1.Cache");
    assert_eq!(call["rpc.method"], "Get");
    assert_eq!(call["rpc.grpc.status_code"], "0");
    assert_eq!(call["kvmesh.region"], "eu-west");
    assert_eq!(attributes(&path[2])["kvmesh.region"], "us-east");

    // … and the block on its way into eu-west, after the get has ended. From the engine again: this
    // process may have spans of other meshes.
    let up = [
        down[0],
        down[1],
        down[2],
        ("fill", ""),
        ("put to owner", ""),
        ("kvmesh.v1.Cache/Put", "eu-west/node-"),
        ("store", ""),
        ("commit", ""),
    ];
    let path_up = path_of(&mut spans, &up).await;
    // Of the same get; where a call was made again, perhaps of the other fetch.
    assert_eq!(path_up[0].trace_id, path[0].trace_id);
    let copy = [
        ("store", ""),
        ("copy", ""),
        ("kvmesh.v1.Replication/Copy", "eu-west/node-"),
    ];
    path_of(&mut spans, &copy).await;

    timeout(Duration::from_secs(15), mesh.stop()).await.unwrap();
    timeout(SOON, traces.flush()).await.unwrap();
}

/// Waits for spans without an error of which each is the parent of the next: by name and
/// beginning of instance.
async fn path_of(spans: &mut watch::Receiver<Vec<Span>>, want: &[(&str, &str)]) -> Vec<Span> {
    let mut found = None;
    let arrived = spans.wait_for(|all| {
        found = path_in(all, want);
        found.is_some()
    });
    if timeout(SOON, arrived).await.is_err() {
        let all = spans.borrow();
        let names: Vec<_> = all
            .iter()
            .map(|span| (&span.name, attributes(span)))
            .collect();
        panic!("no {want:?} in {names:#?}");
    }
    found.unwrap()
}

fn path_in(all: &[Span], want: &[(&str, &str)]) -> Option<Vec<Span>> {
    let fits = |span: &&Span, (name, instance): (&str, &str)| {
        let of = attributes(span).remove("kvmesh.instance");
        let status = span.status.clone().unwrap_or_default().code();
        let named = span.name == name && of.unwrap_or_default().starts_with(instance);
        named && status == StatusCode::Unset
    };
    let (&last, above) = want.split_last()?;
    all.iter().filter(|span| fits(span, last)).find_map(|last| {
        let mut path = vec![last.clone()];
        for &want in above.iter().rev() {
            let child = path.last()?;
            let parent = all
                .iter()
                .find(|span| span.span_id == child.parent_span_id)?;
            if !fits(&parent, want) {
                return None;
            }
            path.push(parent.clone());
        }
        path.reverse();
        Some(path)
    })
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let attributes = span.attributes.iter().map(|attribute| {
        let value = attribute
            .value
            .as_ref()
            .and_then(|value| value.value.as_ref());
        let text = match value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), text)
    });
    attributes.collect()
}

async fn open(gateway: String) -> Opened {
    let channels = Channels::new(Arc::new(TcpConnect));
    let client = Client::connect(vec![gateway], channels).unwrap();
    let description = description();
    let opened = client.open(&description, "traces", "", SOON);
    opened.await.unwrap()
}

async fn until_seen(opened: &Opened, chain: &Chain) {
    let query = [ChainQuery {
        chain: chain.clone(),
        start: 0,
        parts: Vec::new(),
    }];
    let looking = async {
        loop {
            let answer = opened.lookup(&query, SOON).await.unwrap();
            if answer.matches[0].mesh_blocks == BLOCKS {
                return;
            }
        }
    };
    timeout(SOON, looking).await.unwrap();
}

fn block(depth: u32) -> PutBlock {
    PutBlock {
        hash: Bytes::copy_from_slice(&[depth as u8 + 1; 32]),
        part: Part::default(),
        block: Block::of(&Bytes::from(vec![depth as u8; 70_000]), depth),
    }
}

fn description() -> Description {
    Description {
        model: "traces".into(),
        dtype: "bf16".into(),
        layout: "opaque".into(),
        block_tokens: 16,
        hash_width: 32,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    }
}
