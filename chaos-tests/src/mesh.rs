//! A mesh of real processes on loopback: a region of three nodes and two of one, each
//! with a gateway and a region-sync.

pub(crate) mod ports;
mod settings;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kvmesh_client::{
    Client,
    channel::{Channels, TcpConnect},
};

use self::settings::Place;
pub(crate) use self::settings::{LOSSY, PUSHED, Spot};
use crate::{
    poll,
    process::Process,
    programs,
    rpc::{self, Seen},
    scrape,
};

/// Names of the regions with the number of their nodes; the first one is put into.
pub const REGIONS: [(&str, u64); 3] = [("us-east", 3), ("eu-west", 1), ("ap-south", 1)];

const READY_BOUND: Duration = Duration::from_secs(60);

/// One region's processes.
pub struct Region {
    place: Place,
    /// In the order of their numbers, from 1.
    pub nodes: Vec<Process>,
    /// The front door.
    pub gateway: Process,
    /// Follows the other regions.
    pub region_sync: Process,
    /// Does the same, where there are two.
    second_sync: Option<Process>,
}

/// All processes. They end when it is dropped.
pub struct Mesh {
    /// In the order of [`REGIONS`].
    pub regions: Vec<Region>,
    channels: Channels,
}

impl Mesh {
    /// Starts everything, with settings, logs and Raft stores in this folder, and makes
    /// the regions.
    ///
    /// # Errors
    /// When a process does not start or a region cannot be made in time.
    pub async fn start(folder: &Path) -> Result<Self> {
        let channels = Channels::new(Arc::new(TcpConnect));
        Self::start_with(folder, &REGIONS, None, channels).await
    }

    /// Starts these regions, with the certificates of this folder; an operator calls by
    /// `channels`.
    pub(crate) async fn start_with(
        folder: &Path,
        regions: &[(&'static str, u64)],
        pki: Option<&Path>,
        channels: Channels,
    ) -> Result<Self> {
        let here = regions.iter().map(|_| Spot::here()).collect();
        Self::start_at(folder, regions, here, pki, channels).await
    }

    /// As [`Self::start_with`], each region where it is said to be.
    pub(crate) async fn start_at(
        folder: &Path,
        regions: &[(&'static str, u64)],
        spots: Vec<Spot>,
        pki: Option<&Path>,
        channels: Channels,
    ) -> Result<Self> {
        let programs = programs::folder()?;
        let places = settings::places(regions, spots, pki)?;
        let regions: Result<Vec<Region>> = places
            .iter()
            .map(|place| Region::new(place, &places, &programs, folder))
            .collect();
        let mut mesh = Self {
            regions: regions?,
            channels,
        };
        for region in &mut mesh.regions {
            region.start(&mesh.channels).await?;
        }
        Ok(mesh)
    }

    /// A client of one region's gateway, with channels of its own.
    ///
    /// # Errors
    /// When the gateway's address cannot be.
    pub fn client(&self, region: usize) -> Result<Client> {
        let gateway = self.regions[region].place.gateway.clone();
        let channels = Channels::new(Arc::new(TcpConnect));
        Ok(Client::connect(vec![gateway], channels)?)
    }

    /// Where a region's first node and its gateway listen.
    pub(crate) fn addresses(&self, region: usize) -> (&str, &str) {
        let place = &self.regions[region].place;
        (&place.nodes[0].listen, &place.gateway)
    }

    /// Where a region's region-sync listens.
    pub(crate) fn region_sync(&self, region: usize) -> &str {
        self.regions[region].place.region_sync()
    }

    /// Where everybody of a region listens.
    pub(crate) fn listeners(&self, region: usize) -> Vec<&str> {
        let place = &self.regions[region].place;
        let nodes = place.nodes.iter().map(|node| node.listen.as_str());
        nodes
            .chain([&*place.gateway, place.region_sync()])
            .collect()
    }

    /// Tells a region's gateway whose clients it serves besides its own region's; it takes it up in
    /// a moment.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn serve_clients_of(&mut self, region: usize, others: &[&str]) -> Result<()> {
        let region = &mut self.regions[region];
        region.place.clients_of = others.iter().map(|&name| name.to_owned()).collect();
        let settings = region.place.gateway_settings()?;
        region.gateway.hang_up(&settings)
    }

    /// Starts a second region-sync, with settings and log in this folder, and the gateway anew,
    /// which then knows both.
    pub(crate) async fn add_region_sync(&mut self, region: usize, folder: &Path) -> Result<()> {
        let mut ports = ports::free(2)?.into_iter();
        let all: Vec<Place> = self.regions.iter().map(|it| it.place.clone()).collect();
        let region = &mut self.regions[region];
        region.place.second_sync = ports.next().zip(ports.next());
        let settings = region.place.region_sync_settings(&all)?;
        let name = format!("{}-region-sync-2", region.place.region);
        let program = programs::folder()?.join("kvmesh-region-sync");
        let settings = settings.last().map_or("", String::as_str);
        let sync = Process::new(name, program, folder, settings)?;
        region.second_sync.insert(sync).start().await?;
        region.gateway.kill()?;
        region.gateway.settle(&region.place.gateway_settings()?)?;
        region.gateway.start().await
    }

    /// What a node of a region sees.
    pub(crate) async fn see(&self, region: usize, node: usize) -> Result<Seen> {
        let address = &self.regions[region].place.nodes[node].listen;
        let seen = rpc::see(&self.channels, address).await;
        seen.with_context(|| {
            format!(
                "{} does not answer",
                self.regions[region].nodes[node].name()
            )
        })
    }

    /// `kvmesh_blocks_under_replicated` as a node of a region exports it.
    pub(crate) async fn under_replicated_metric(&self, region: usize, node: usize) -> Result<f64> {
        let metrics = &self.regions[region].place.nodes[node].metrics;
        let values = scrape::metric(metrics, "kvmesh_blocks_under_replicated").await?;
        ensure!(values.len() == 1, "{} values instead of one", values.len());
        Ok(values[0])
    }

    /// Whether every process still runs.
    ///
    /// # Errors
    /// Names one that has ended.
    pub fn check(&mut self) -> Result<()> {
        self.regions
            .iter_mut()
            .flat_map(Region::processes)
            .try_for_each(Process::check)
    }
}

impl Region {
    fn new(place: &Place, all: &[Place], programs: &Path, folder: &Path) -> Result<Self> {
        let process = |name: String, program: &str, settings: Result<String>| {
            let process = Process::new(name, programs.join(program), folder, &settings?)?;
            Ok::<_, anyhow::Error>(process.within(place.spot.network.as_deref()))
        };
        let region = place.region;
        let nodes: Result<Vec<Process>> = (1..=place.nodes.len() as u64)
            .map(|node| {
                let name = format!("{region}-node-{node}");
                let raft = folder.join(format!("{name}-raft"));
                process(name, "kvmesh-node", place.node_settings(node, raft))
            })
            .collect();
        let gateway = process(
            format!("{region}-gateway"),
            "kvmesh-gateway",
            place.gateway_settings(),
        );
        let region_sync = process(
            format!("{region}-region-sync"),
            "kvmesh-region-sync",
            place
                .region_sync_settings(all)
                .map(|mut all| all.swap_remove(0)),
        );
        Ok(Self {
            place: place.clone(),
            nodes: nodes?,
            gateway: gateway?,
            region_sync: region_sync?,
            second_sync: None,
        })
    }

    /// The numbers of its processes, as `kill` takes them.
    pub(crate) fn ids(&self) -> Result<String> {
        let doors = [&self.gateway, &self.region_sync];
        let ids = self.nodes.iter().chain(doors).map(Process::id);
        let ids: Result<Vec<String>> = ids.map(|id| Ok(id?.to_string())).collect();
        Ok(ids?.join(" "))
    }

    /// Kills all its processes.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.processes().try_for_each(Process::kill)
    }

    /// Starts its processes again, each as its settings were last.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        for process in self.processes() {
            process.start().await?;
        }
        Ok(())
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let doors = [&mut self.gateway, &mut self.region_sync];
        self.nodes
            .iter_mut()
            .chain(doors)
            .chain(&mut self.second_sync)
    }

    /// One, or two.
    pub(crate) fn region_syncs(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.region_sync]
            .into_iter()
            .chain(&mut self.second_sync)
    }

    async fn start(&mut self, channels: &Channels) -> Result<()> {
        for process in self.processes() {
            process.start().await?;
        }
        let what = format!("making region {}", self.place.region);
        poll::until(&what, READY_BOUND, async || {
            let first = &self.place.nodes[0].listen;
            // A repeated try may find that an earlier one was heard.
            let made = rpc::init_region(channels, first).await;
            let seen = rpc::see(channels, first).await?;
            if seen.nodes.is_empty() {
                made?;
            }
            let alive = seen.nodes.iter().filter(|(_, _, alive)| *alive).count();
            ensure!(
                alive == self.place.nodes.len(),
                "{alive} of {} nodes have begun",
                self.place.nodes.len()
            );
            Ok(())
        })
        .await
    }
}
