//! Clients that put, get, look up and delete, and note what they are told.

use std::{fmt::Write, rc::Rc, time::Duration};

use kvmesh_client::{
    Block, Client,
    channel::Channels,
    client::{Chain, ChainQuery, GetOptions, Opened, PutBlock, PutOptions, PutResult},
};
use kvmesh_directory::{Part, RingEpoch};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::sleep;

use crate::{
    content::{self, Name, description},
    history::{Kind, PutTold},
    net::environment,
    shared::{Phase, Shared},
    trace,
};

/// Chains of each namespace.
pub(crate) const CHAINS: u8 = 6;
/// Blocks of each chain.
pub(crate) const CHAIN_BLOCKS: u8 = 4;
/// Of one open.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Before an open is tried again.
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// Of one lookup.
const LOOKUP_DEADLINE: Duration = Duration::from_millis(500);
/// Puts whose blocks are looked up by another gateway right after.
const OWN_LOOKUPS: f64 = 0.3;

/// The names of a chain.
pub(crate) fn chain_of(namespace: u8, chain: u8) -> Vec<Name> {
    let name = |index| Name {
        namespace,
        chain,
        index,
    };
    (0..CHAIN_BLOCKS).map(name).collect()
}

/// A chain in the client's words.
pub(crate) fn engine_chain(names: &[Name]) -> Chain {
    let hashes = names.iter().map(|name| name.hash());
    Chain::new(hashes).expect("a chain of the run is possible")
}

/// One client of a region.
pub(crate) struct Worker {
    pub(crate) host: String,
    pub(crate) region: usize,
    pub(crate) shared: Rc<Shared>,
    pub(crate) namespaces: Vec<Opened>,
    /// The same, each call made once and by the gateway that is furthest.
    elsewhere: Vec<Opened>,
    pub(crate) channels: Channels,
    /// The ring of the beginning.
    pub(crate) first_epoch: RingEpoch,
    pub(crate) rng: SmallRng,
}

/// Runs a client until the faults are over.
pub(crate) async fn run(shared: Rc<Shared>, region: usize, client: usize, seed: u64) {
    let host = shared.shape.client(region, client);
    let mut rng = SmallRng::seed_from_u64(seed);
    let once = rng.random_bool(0.5);
    let client = connect(&shared, region, client, environment(&host).channels, once);
    let mut worker = Worker::open(host, region, shared, client, rng).await;
    worker.learn_ring(chain_of(0, 0)[0]).await;
    let shared = Rc::clone(&worker.shared);
    shared.ready.set(shared.ready.get() + 1);
    shared.wait_for(Phase::Load).await;
    while shared.phase() == Phase::Load {
        worker.work().await;
        let pause = worker.rng.random_range(20..400);
        sleep(Duration::from_millis(pause)).await;
    }
    shared.resting.set(shared.resting.get() + 1);
}

impl Worker {
    /// Opens all namespaces.
    pub(crate) async fn open(
        host: String,
        region: usize,
        shared: Rc<Shared>,
        (client, elsewhere): (Client, Client),
        rng: SmallRng,
    ) -> Self {
        let channels = environment(&host).channels;
        let mut namespaces = Vec::new();
        for number in 0..shared.namespaces {
            let description = description(number);
            let template = if number == 0 { "default" } else { "always" };
            let opened = loop {
                match client.open(&description, "", template, OPEN_DEADLINE).await {
                    Ok(opened) => break opened,
                    Err(_) => sleep(OPEN_PAUSE).await,
                }
            };
            namespaces.push(opened);
        }
        trace::event(format_args!("{host} has opened its namespaces"));
        let known = namespaces.iter().map(|opened| opened.namespace().clone());
        let elsewhere = known.map(|namespace| elsewhere.namespace(namespace));
        Self {
            host,
            region,
            shared,
            elsewhere: elsewhere.collect(),
            namespaces,
            channels,
            first_epoch: RingEpoch(0),
            rng,
        }
    }

    async fn work(&mut self) {
        let namespace = self.rng.random_range(0..self.shared.namespaces);
        let chain = self.rng.random_range(0..CHAINS);
        let names = chain_of(namespace, chain);
        match self.rng.random_range(0..100) {
            0..40 => self.put(&names).await,
            40..78 => self.get(&names, false).await,
            78..88 => self.delete(&names).await,
            88..96 => self.lookup(&names).await,
            _ => self.straggle(names[0]).await,
        }
    }

    async fn put(&mut self, names: &[Name]) {
        let count = self.rng.random_range(1..=names.len());
        let mut blocks = Vec::new();
        let mut ops = Vec::new();
        let mut line = format!("{} puts", self.host);
        for name in &names[..count] {
            let known = self.shared.last_content(*name);
            let known = known.filter(|_| self.rng.random_bool(0.7));
            let (content, len) = known.unwrap_or_else(|| {
                let len = block_len(&mut self.rng);
                (self.shared.new_content(*name, len), len)
            });
            write!(line, " {name}={content}({len})").ok();
            let bytes = content::bytes(*name, content, len);
            blocks.push(PutBlock {
                hash: name.hash().to_vec().into(),
                part: Part::default(),
                block: Block::of(&bytes, u32::from(name.index)),
            });
            ops.push((*name, content));
        }
        let begun = trace::event(format_args!("{line}"));
        let kind = |(name, content), told| Kind::Put {
            name,
            content,
            told,
        };
        let begin = |op| {
            let kind = kind(op, PutTold::Unknown);
            self.shared.begin(&self.host, self.region, begun, kind)
        };
        let numbers: Vec<usize> = ops.iter().map(|op| begin(*op)).collect();
        let options = PutOptions {
            ack: None,
            deadline: Some(Duration::from_millis(self.rng.random_range(800..5_000))),
        };
        let namespace = &self.namespaces[usize::from(names[0].namespace)];
        let results = namespace.put(&blocks, options).await;
        let mut line = format!("{} put", self.host);
        for (at, (number, op)) in numbers.into_iter().zip(ops).enumerate() {
            let told = match &results {
                Ok(results) => told(&results[at]),
                Err(_) => PutTold::Unknown,
            };
            write!(line, " {} {told:?}", op.0).ok();
            self.shared.end(number, kind(op, told));
        }
        if let Err(error) = results {
            write!(line, " ({error})").ok();
        }
        trace::event(format_args!("{line}"));
        if self.rng.random_bool(OWN_LOOKUPS) {
            self.look_elsewhere(&names[..count]).await;
        }
    }

    /// Looks names up by another gateway, which is to show everything that this client wrote.
    async fn look_elsewhere(&mut self, names: &[Name]) {
        let number = usize::from(names[0].namespace);
        let (own, other) = (&self.namespaces[number], &self.elsewhere[number]);
        for position in own.client().positions() {
            other.client().observe(&position);
        }
        let begun = trace::mark();
        let kind = |found| Kind::Lookup { found };
        let op = self
            .shared
            .begin(&self.host, self.region, begun, kind(Vec::new()));
        let queries = names.iter().map(|name| engine_chain(&[*name]));
        let queries: Vec<ChainQuery> = queries.map(ChainQuery::from).collect();
        let found = match other.lookup(&queries, LOOKUP_DEADLINE).await {
            Ok(answer) if !answer.view_behind => {
                let present = answer.matches.iter().map(|it| it.local_blocks > 0);
                names.iter().copied().zip(present).collect()
            }
            _ => Vec::new(),
        };
        trace::event(format_args!("{} looked for {found:?}", self.host));
        self.shared.end(op, kind(found));
    }

    /// Reads a chain from its start.
    pub(crate) async fn get(&mut self, names: &[Name], settled: bool) {
        let (first, host) = (names[0], self.host.clone());
        let begun = trace::event(format_args!("{host} gets from {first} settled {settled}"));
        let kind = |got| Kind::Get { got, settled };
        let op = self
            .shared
            .begin(&host, self.region, begun, kind(Vec::new()));
        let deadline = self.rng.random_range(500..5_000);
        let options = GetOptions {
            deadline: self
                .rng
                .random_bool(0.5)
                .then(|| Duration::from_millis(deadline)),
            start: 0,
            await_fill: self.rng.random_bool(0.3),
            any_order: self.rng.random_bool(0.3),
            ..GetOptions::default()
        };
        let namespace = &self.namespaces[usize::from(first.namespace)];
        let mut got = Vec::new();
        let ended = match namespace.get_stream(&engine_chain(names), options) {
            Err(error) => error.to_string(),
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(block)) => {
                        let name = names[block.index as usize];
                        let content = content::recognise(name, &block.block);
                        got.push((name, content, block.region.to_string()));
                    }
                    Ok(None) => break format!("{:?}", stream.into_summary().outcome),
                    Err(error) => break error.to_string(),
                }
            },
        };
        let mut line = format!("{host} got");
        for (name, content, region) in &got {
            match content {
                Ok(content) => write!(line, " {name}={content}@{region}").ok(),
                Err(why) => write!(line, " {name}: {why} @{region}").ok(),
            };
        }
        trace::event(format_args!("{line}: {ended}"));
        self.shared.end(op, kind(got));
    }

    async fn delete(&mut self, names: &[Name]) {
        let start = self.rng.random_range(0..names.len());
        let count = self.rng.random_range(1..=names.len() - start);
        let deleted = names[start..start + count].to_vec();
        let first = deleted[0];
        let begun = trace::event(format_args!("{} deletes {count} from {first}", self.host));
        let kind = |acked| Kind::Delete {
            names: deleted.clone(),
            acked,
        };
        let op = self
            .shared
            .begin(&self.host, self.region, begun, kind(false));
        let deadline = Duration::from_millis(self.rng.random_range(1_000..6_000));
        let namespace = &self.namespaces[usize::from(first.namespace)];
        let (start, count) = (start as u32, count as u32);
        let chain = engine_chain(names);
        let told = namespace.delete(&chain, start, count, &[], deadline).await;
        match &told {
            Ok(told) => trace::event(format_args!(
                "{} deleted {count} from {first}: {} were there, at {}",
                self.host, told.names, told.position.index
            )),
            Err(error) => trace::event(format_args!(
                "{} deleted {count} from {first} or not: {error}",
                self.host
            )),
        };
        self.shared.end(op, kind(told.is_ok()));
    }

    async fn lookup(&mut self, names: &[Name]) {
        let namespace = &self.namespaces[usize::from(names[0].namespace)];
        let query = ChainQuery::from(engine_chain(names));
        let answer = namespace.lookup(&[query], LOOKUP_DEADLINE).await;
        match answer {
            Ok(answer) => {
                let found = answer.matches.first();
                let local = found.map(|found| (found.local_blocks, found.mesh_blocks));
                trace::event(format_args!(
                    "{} looked {} up: {local:?}",
                    self.host, names[0]
                ));
            }
            Err(error) => {
                trace::event(format_args!(
                    "{} looked {} up: {error}",
                    self.host, names[0]
                ));
            }
        }
    }
}

/// A client of a region's gateways, each of which is the nearest to some; `once`: of one
/// gateway only, and calls are not made again by the client. And one of the furthest gateway.
pub(crate) fn connect(
    shared: &Shared,
    region: usize,
    client: usize,
    channels: Channels,
    once: bool,
) -> (Client, Client) {
    let mut gateways = shared.shape.gateways(region);
    let nearest = client % gateways.len();
    gateways.rotate_left(nearest);
    let furthest = &gateways[gateways.len() - 1];
    let elsewhere = Client::connect_once(furthest, channels.clone());
    let client = match once {
        true => Client::connect_once(&gateways[0], channels),
        false => Client::connect(gateways, channels),
    };
    let possible = "the addresses of a run are possible";
    (client.expect(possible), elsewhere.expect(possible))
}

/// Mostly small; now and then several pieces.
fn block_len(rng: &mut SmallRng) -> usize {
    match rng.random_range(0..100) {
        0..70 => rng.random_range(100..8_192),
        70..97 => rng.random_range(8_192..65_536),
        _ => rng.random_range(1 << 20..5 << 19),
    }
}

fn told(result: &PutResult) -> PutTold {
    match result {
        PutResult::Acked(acked) => PutTold::Acked {
            copies: acked.copies,
            existed: acked.existed,
        },
        PutResult::Refused(_) => PutTold::Refused,
        PutResult::Unanswered { .. } => PutTold::Unknown,
    }
}
