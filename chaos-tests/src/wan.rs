//! Two network namespaces that stand for two regions' networks, and the link between them, with
//! delay, rate, loss and a queue.
//!
//! Each namespace has a network of its own with this host (a pair of veth), by which a bench
//! reaches what runs there. From one to the other every packet passes through this process, by
//! a TUN device at each end: real kernel TCP at both ends, no kernel module for the link. Needs
//! root, `ip` and `/dev/net/tun`.

mod batch;
pub(crate) mod copy;
pub(crate) mod crossed;
pub(crate) mod shape;
mod sockets;

use std::{
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use self::{
    batch::OFFLOAD_HEADER,
    crossed::{Counter, Crossed},
    shape::{Shape, Shaper},
};

/// Bytes of a packet on the link.
const MTU: usize = 1_500;
/// The largest packet, with what is put before it.
const PACKET_MAX: usize = 66_000;
/// Packets on their way in one direction, at most: the shape's queue bounds them before.
const UNDER_WAY_MAX: usize = 1 << 18;

/// See the module. It ends when it is dropped.
pub(crate) struct Wan {
    ends: [End; 2],
    /// By the end that packets come from.
    crossed: [Arc<Counter>; 2],
}

/// One region's network.
pub(crate) struct End {
    /// Of the namespace.
    pub(crate) name: String,
    /// Of its processes.
    pub(crate) address: String,
}

impl Wan {
    /// Makes both networks and the link.
    ///
    /// # Errors
    /// Without root, `ip` or TUN devices.
    pub(crate) fn up(shape: Shape) -> Result<Self> {
        let own = std::process::id();
        let net = free_net(own)?;
        let ends = [1, 2].map(|at| End {
            name: format!("kvmesh-{own}-{at}"),
            address: format!("10.{net}.{at}.2"),
        });
        // Whatever fails from here on takes away what was made.
        let wan = Self {
            ends,
            crossed: Default::default(),
        };
        let devices: Result<Vec<SyncDevice>> = (1..=2).map(|at| wan.make((own, net), at)).collect();
        let devices: Vec<Arc<SyncDevice>> = devices?.into_iter().map(Arc::new).collect();
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = (Arc::clone(&devices[from]), Arc::clone(&devices[to]));
            let counter = Arc::clone(&wan.crossed[from]);
            carry(ends, Shaper::new(shape, from as u64), counter);
        }
        Ok(wan)
    }

    /// The network of a region, 0 or 1.
    pub(crate) fn end(&self, region: usize) -> &End {
        &self.ends[region]
    }

    /// What came out at the other end so far, of what a region, 0 or 1, sent.
    pub(crate) fn crossed(&self, from: usize) -> Crossed {
        self.crossed[from].so_far()
    }

    /// Sets a kernel setting at both ends.
    pub(crate) fn sysctl(&self, setting: &str) -> Result<()> {
        self.ends.iter().try_for_each(|end| {
            let name = &end.name;
            sh(&format!("ip netns exec {name} sysctl -qw {setting}"))
        })
    }

    fn make(&self, (own, net): (u32, u32), at: usize) -> Result<SyncDevice> {
        let End { name, address } = &self.ends[at - 1];
        let other = 3 - at;
        let (here, there, link) = (
            format!("kv{own}h{at}"),
            format!("kv{own}n{at}"),
            format!("kv{own}w{at}"),
        );
        sh(&format!(
            "ip netns add {name} && ip -n {name} link set lo up \
             && ip link add {here} type veth peer name {there} netns {name} \
             && ip addr add 10.{net}.{at}.1/24 dev {here} && ip link set {here} up \
             && ip -n {name} addr add {address}/24 dev {there} && ip -n {name} link set {there} up"
        ))?;
        // In batches of the kernel's making, as network cards get them: else this process would be
        // what limits the link.
        let device = DeviceBuilder::new()
            .name(&link)
            .layer(Layer::L3)
            .offload(true)
            .build_sync()
            .context("no TUN device: /dev/net/tun and root are needed")?;
        sh(&format!(
            "ip link set {link} netns {name} \
             && ip -n {name} link set {link} mtu {MTU} txqueuelen 10000 up \
             && ip -n {name} route add 10.{net}.{other}.0/24 dev {link} src {address}"
        ))?;
        Ok(device)
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for end in &self.ends {
            // One that was not made is not there. What it has goes with it.
            let _ = Command::new("ip")
                .args(["netns", "del", &end.name])
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}

/// One in which this host has no address: what an earlier process left may still be there, and
/// would be spoken to in place of this one's.
fn free_net(own: u32) -> Result<u32> {
    let listed = Command::new("ip").args(["-o", "-4", "addr"]).output();
    let listed = listed.context("`ip` is needed")?;
    let taken = String::from_utf8_lossy(&listed.stdout);
    let mut nets = (0..64).map(|next| 64 + (own + next) % 64);
    let free = nets.find(|net| !taken.contains(&format!(" 10.{net}.")));
    free.context("all networks from 10.64 to 10.127 are taken on this host")
}

fn sh(line: &str) -> Result<()> {
    let ran = Command::new("sh").args(["-c", line]).output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(
        ran.status.success(),
        "root and `ip` are needed: {line}: {said}"
    );
    Ok(())
}

/// Carries packets one way, on two threads that end with the devices' namespaces.
fn carry(
    (from, to): (Arc<SyncDevice>, Arc<SyncDevice>),
    mut shaper: Shaper,
    counter: Arc<Counter>,
) {
    let (send, receive) = mpsc::sync_channel::<(Instant, Box<[u8]>)>(UNDER_WAY_MAX);
    thread::spawn(move || {
        let mut packet = vec![0; PACKET_MAX];
        while let Ok(bytes) = from.recv(&mut packet) {
            let now = Instant::now();
            for part in batch::left(&packet[..bytes], || shaper.loses()) {
                let carried = part.get(OFFLOAD_HEADER..).unwrap_or_default();
                let (packets, bytes) = batch::size(&part);
                let Some(at) = shaper.pass(now, bytes, packets) else {
                    continue;
                };
                counter.count(carried, packets);
                if send.send((at, part)).is_err() {
                    return;
                }
            }
        }
    });
    thread::spawn(move || {
        while let Ok((at, packet)) = receive.recv() {
            let left = at.saturating_duration_since(Instant::now());
            // Shorter waits than a sleep can be are not waited for.
            if left > Duration::from_micros(50) {
                thread::sleep(left);
            }
            // A device that is gone takes nothing.
            let _ = to.send(&packet);
        }
    });
}
