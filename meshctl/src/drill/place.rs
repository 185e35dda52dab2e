//! The mesh that is drilled: its regions' gateways, how clients reach them, and how a region is
//! cut off. Either a mesh in this process, or one of which nothing is known but gateways.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use kvmesh_client::{Client, channel::Channels, tls::Role};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{process::Command, time::timeout};

use crate::{
    args::{Global, RegionLossArgs},
    dev::{
        link::Links,
        mesh::{Mesh, Settings},
        rtt,
    },
    exit,
    rpc::Peer,
};

/// The variable in which an operator's command finds the region.
const REGION: &str = "KVMESH_DRILL_REGION";

/// See the module.
pub(super) struct Place {
    pub(super) sites: Vec<Site>,
    /// Of every region, or none.
    pub(super) syncs: Vec<Sync>,
    /// What the clients of each region call with.
    engines: Vec<Channels>,
    /// Blocks go straight to nodes, where clients may.
    direct: bool,
    fence: Fence,
}

/// A region, by its gateway.
pub(super) struct Site {
    pub(super) region: String,
    pub(super) gateway: Peer,
}

/// A region-sync.
pub(super) struct Sync {
    /// By the place of its region.
    pub(super) region: usize,
    pub(super) peer: Peer,
}

enum Fence {
    Links(Links),
    Commands {
        fence: String,
        mend: String,
        limit: Duration,
    },
}

/// Whether a mesh of these settings has the region, and another one.
pub(super) fn check(settings: &Settings, region: &str) -> anyhow::Result<()> {
    let names = rtt::REGIONS.iter().take(settings.regions);
    find(&names.copied().collect::<Vec<_>>(), region)?;
    Ok(())
}

/// A region's place among all.
fn find(regions: &[&str], region: &str) -> anyhow::Result<usize> {
    let known = || regions.join(", ");
    if regions.len() < 2 {
        return Err(exit::set_up(format!(
            "there is only one region, {}: nobody could go on without it. Name one gateway per \
             region with --gateway, or raise --regions",
            known()
        )));
    }
    let at = regions.iter().position(|name| *name == region);
    at.ok_or_else(|| {
        exit::set_up(format!(
            "region {region:?} is not among {}: name one of these with --region",
            known()
        ))
    })
}

impl Place {
    /// A mesh of this process.
    pub(super) fn own(mesh: &Mesh, call_timeout: Duration) -> anyhow::Result<Self> {
        let channels = Channels::new(mesh.links().outside());
        let regions = mesh.regions().iter().map(|region| {
            Ok(Site {
                region: region.id.to_string(),
                gateway: Peer::new(&channels, &region.gateway, call_timeout)?,
            })
        });
        let sites = regions.collect::<anyhow::Result<_>>()?;
        let syncs = mesh.regions().iter().enumerate().map(|(region, of)| {
            let peer = Peer::new(&channels, &of.region_sync, call_timeout)?;
            Ok(Sync { region, peer })
        });
        Ok(Self {
            engines: vec![channels.clone(); mesh.regions().len()],
            sites,
            syncs: syncs.collect::<anyhow::Result<_>>()?,
            direct: true,
            fence: Fence::Links(mesh.links().clone()),
        })
    }

    /// The mesh whose gateways the flags or the context name.
    pub(super) async fn given(
        global: &Global,
        (fence, mend, limit): (&str, &str, Duration),
        args: &RegionLossArgs,
    ) -> anyhow::Result<Self> {
        let channels = global.tls.channels(Some(Role::Gateway))?;
        let mut sites: Vec<Site> = Vec::new();
        for address in &global.gateway {
            let gateway = Peer::new(&channels, address, global.call_timeout())?;
            let region = gateway.show().await?.region;
            if let Some(same) = sites.iter().find(|site| site.region == region) {
                return Err(exit::set_up(format!(
                    "{} and {address} are both gateways of {region}: name one per region",
                    same.gateway.address()
                )));
            }
            sites.push(Site { region, gateway });
        }
        let syncs = syncs(global, &args.region_syncs, &sites).await?;
        let own = args.client_cert.as_deref().zip(args.client_key.as_deref());
        let engines = sites.iter().map(|site| match own {
            None => Ok(channels.clone()),
            Some(own) => engines(global, own, &site.region),
        });
        let engines = engines.collect::<anyhow::Result<_>>()?;
        Ok(Self {
            sites,
            syncs,
            engines,
            // An operator's certificate is not for nodes.
            direct: global.tls.tls_cert.is_none() || own.is_some(),
            fence: Fence::Commands {
                fence: fence.to_owned(),
                mend: mend.to_owned(),
                limit,
            },
        })
    }

    pub(super) fn find(&self, region: &str) -> anyhow::Result<usize> {
        let names: Vec<&str> = self.sites.iter().map(|site| site.region.as_str()).collect();
        find(&names, region)
    }

    /// All regions but one.
    pub(super) fn others(&self, lost: usize) -> impl Iterator<Item = &Site> {
        let sites = self.sites.iter().enumerate();
        sites.filter_map(move |(at, site)| (at != lost).then_some(site))
    }

    /// An engine of a region, with connections of its own: it has its region's gateway first,
    /// then another region's.
    pub(super) fn client(&self, region: usize) -> anyhow::Result<Client> {
        let next = (region + 1) % self.sites.len();
        let gateways = [region, next].map(|at| self.sites[at].gateway.address().to_owned());
        let channels = self.engines[region].apart();
        Ok(match self.direct {
            true => Client::connect(gateways.into(), channels)?,
            false => Client::connect_through(gateways.into(), channels)?,
        })
    }

    /// From now on nobody reaches the region, and it reaches nobody.
    pub(super) async fn fence(&self, region: usize) -> anyhow::Result<()> {
        match &self.fence {
            Fence::Links(links) => {
                links.cut(region);
                Ok(())
            }
            Fence::Commands { fence, limit, .. } => {
                run("--fence", fence, &self.sites[region].region, *limit).await
            }
        }
    }

    /// Undoes [`Self::fence`].
    pub(super) async fn mend(&self, region: usize) -> anyhow::Result<()> {
        match &self.fence {
            Fence::Links(links) => {
                links.mend(region);
                Ok(())
            }
            Fence::Commands { mend, limit, .. } => {
                run("--mend", mend, &self.sites[region].region, *limit).await
            }
        }
    }
}

/// What clients of a region call with: their certificate and its key, `{region}` being its name.
fn engines(
    global: &Global,
    (certificate, key): (&str, &str),
    region: &str,
) -> anyhow::Result<Channels> {
    let [certificate, key] = [certificate, key].map(|path| path.replace("{region}", region));
    global.tls.channels_as(&certificate, &key, None)
}

/// The region-syncs at these addresses, by their regions.
async fn syncs(global: &Global, addresses: &[String], sites: &[Site]) -> anyhow::Result<Vec<Sync>> {
    let channels = global.tls.channels(Some(Role::RegionSync))?;
    let names: Vec<&str> = sites.iter().map(|site| site.region.as_str()).collect();
    let mut syncs = Vec::new();
    for address in addresses {
        let peer = Peer::new(&channels, address, global.call_timeout())?;
        let region = find(&names, &peer.region_of_sync().await?)?;
        syncs.push(Sync { region, peer });
    }
    let lacking = (0..sites.len()).find(|at| !syncs.iter().any(|sync| sync.region == *at));
    match lacking {
        Some(at) if !syncs.is_empty() => Err(exit::set_up(format!(
            "none of --region-syncs is of {}: name all of them, or none",
            names[at]
        ))),
        _ => Ok(syncs),
    }
}

/// An operator's command.
async fn run(flag: &str, command: &str, region: &str, limit: Duration) -> anyhow::Result<()> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env(REGION, region)
        .stdin(Stdio::null())
        // Standard output is the report's.
        .stdout(Stdio::from(std::io::stderr()))
        .process_group(0);
    let cannot = || format!("{flag} {command:?} cannot be run");
    let mut running = shell.spawn().with_context(cannot)?;
    // What it started ends with it when it takes too long, or when nobody waits any more.
    let group = Group(running.id());
    let ran = timeout(limit, running.wait()).await;
    let status = ran
        .with_context(|| format!("{flag} {command:?} has not ended in {limit:?}"))?
        .with_context(cannot)?;
    group.has_ended();
    ensure!(
        status.success(),
        "{flag} {command:?} ended with {status}: see what state region {region} is in"
    );
    Ok(())
}

/// The processes of a command; they are killed when it is dropped.
struct Group(Option<u32>);

impl Group {
    /// Its number may be another one's from now on.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader.and_then(Pid::from_raw) {
            // There may be none left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsRawFd};

    use super::*;

    #[test]
    fn a_region_must_be_there_and_not_be_the_only_one() {
        assert_eq!(find(&["a", "b"], "b").unwrap(), 1);
        let unknown = find(&["a", "b"], "c").unwrap_err().to_string();
        assert!(unknown.contains("a, b"), "{unknown}");
        let only = find(&["a"], "a").unwrap_err().to_string();
        assert!(only.contains("--regions"), "{only}");
    }

    #[tokio::test]
    async fn a_command_knows_its_region_and_its_failure_is_told() {
        let limit = Duration::from_secs(60);
        let asks = format!("test \"${REGION}\" = eu-west");
        run("--fence", &asks, "eu-west", limit).await.unwrap();
        let error = run("--fence", &asks, "us-east", limit).await.unwrap_err();
        assert!(error.to_string().contains("us-east"), "{error:#}");
        // The reader of the pipe is done once nobody holds its other end.
        let (mut reader, writer) = std::io::pipe().unwrap();
        let held = format!(
            "tail -f /dev/null >/proc/{}/fd/{}",
            std::process::id(),
            writer.as_raw_fd()
        );
        let forks = format!("{held} & {held}");
        let limit = Duration::from_millis(500);
        let slow = run("--mend", &forks, "eu-west", limit).await;
        assert!(slow.unwrap_err().to_string().contains("has not ended"));
        drop(writer);
        let ended = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
        let ended = timeout(Duration::from_secs(60), ended).await;
        ended.expect("what it started has ended").unwrap().unwrap();
    }
}
