//! Makes a connection to another region ready for blocks: it carries some bytes that nobody waits
//! for, by which the kernel at its other end finds out how fast it may send, and this gateway how
//! fast the link is.
//!
//! A lone block shows a connection no more than itself: without this it would be sent at the rate
//! of the first ones for good (`docs/decisions/0029-the-link.md`).

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use kvmesh_client::{
    channel::{Channel, FAR_STREAM_WINDOW_BYTES},
    follow::Link,
};
use kvmesh_directory::{RegionId, cost::Transfer};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;

use crate::{
    context::Gateway,
    lanes, rpc,
    warm::{self, Known},
};

/// What a link has on its way at once, so many times: a rate that doubles with each round trip
/// has reached the link's by then.
const FULL_LINKS: f64 = 2.0;
/// A call that has this part of its window on its way is held up by it, and not by the link.
const WINDOW_PART: f64 = 0.7;
/// Fewer bytes are not worth it: a block makes up for them by itself.
const BYTES_MIN: u64 = 2 << 20;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often new connections are looked for.
const TICK: Duration = Duration::from_millis(500);
/// One that gave way before it was done, or that failed, is tried so often,
const TRIES_MAX: u32 = 3;
/// so far apart.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A lane whose connection breaks again and again is not measured more often.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

/// What was done on a lane.
#[derive(Debug, Clone, Copy)]
struct Done {
    /// On which of its connections.
    connection: u64,
    /// How often it was tried; as often as may be when it was done.
    tries: u32,
    begun: Instant,
}

/// Measures what is new of the connections that `warm` keeps until `over`, one at a time.
pub(crate) async fn run(gateway: Arc<Gateway>, over: CancellationToken) {
    // Bounded by the gateways that are kept warm, and by the lanes of a link.
    let mut done: BTreeMap<(Known, usize), Done> = BTreeMap::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while over.run_until_cancelled(tick.tick()).await.is_some() {
        let known = warm::known(&gateway);
        done.retain(|(at, _), _| known.contains(at));
        for at in known {
            let measured = measure_new(&gateway, &at, &mut done);
            if over.run_until_cancelled(measured).await.is_none() {
                return;
            }
        }
    }
}

/// Measures the new lanes of one gateway.
async fn measure_new(gateway: &Gateway, at: &Known, done: &mut BTreeMap<(Known, usize), Done>) {
    let (region, address) = at;
    let Some(link) = gateway.views.mesh.link(region) else {
        return;
    };
    let lanes = lanes::of_link(gateway, region, &link);
    for lane in 0..lanes {
        let bandwidth = gateway.links.bandwidth(region, &link);
        let most = gateway.settings.now().measure_bytes_max;
        let fill = bytes(bandwidth, link.rtt_ms, most);
        let channel = gateway.peers.far(region, address, lane);
        let (Some(fill), Ok(channel)) = (fill, channel) else {
            return;
        };
        // Lone blocks come by the first lane; the others fill the link together with it.
        let bytes = match lane {
            0 => fill,
            _ => fill / lanes as u64,
        };
        let (connection, begun) = (channel.connections(), Instant::now());
        let key = (at.clone(), lane);
        let before = done.get(&key);
        if !is_due(before, connection, begun) || gateway.links.expected(region) >= bytes {
            continue;
        }
        let again = before.filter(|done| done.connection == connection);
        let tries = again.map_or(0, |done| done.tries);
        let measured = measure(gateway, (region, &link), channel, bytes).await;
        // A gateway that has no place for it now is asked again, however often.
        let has_place = !matches!(&measured, Err(Code::ResourceExhausted));
        let came = measured.unwrap_or_default();
        let all = came.last().map_or(0, |(_, all)| *all);
        gateway.meters.measured(region, all);
        // Where the time ends it, the link is slow, and was filled all the same.
        let whole = all == bytes || begun.elapsed() >= LIMIT;
        let lane_done = Done {
            connection,
            tries: match whole {
                true => TRIES_MAX,
                false => tries + u32::from(has_place),
            },
            begun,
        };
        done.insert(key, lane_done);
        let configured = &link.configured;
        let transfer = shown(begun, configured.rtt.median, &came);
        // The other lanes do not fill the link, and so do not tell how fast it is.
        let tells = |it: &Transfer| whole && lane == 0 && tells(it, bandwidth, most);
        if let Some(transfer) = transfer.filter(tells) {
            gateway.links.transferred(region, configured, transfer);
        }
    }
}

/// Whether a lane's connection was not measured yet, and may be now.
fn is_due(done: Option<&Done>, connection: u64, now: Instant) -> bool {
    let again = |done: &Done| match done.connection == connection {
        true => done.tries < TRIES_MAX && now >= done.begun + AGAIN_AFTER,
        false => now >= done.begun + MEASURE_EVERY,
    };
    connection > 0 && done.is_none_or(again)
}

/// Has so many bytes sent, until somebody waits for as many of blocks. Says when how many of them
/// had come.
///
/// # Errors
/// With what the other gateway refused it by, or that it did not answer.
async fn measure(
    gateway: &Gateway,
    (region, link): (&RegionId, &Link),
    channel: Channel,
    bytes: u64,
) -> Result<Vec<(Instant, u64)>, Code> {
    let until = Instant::now() + LIMIT;
    let asked = timeout_at(until, rpc::measure::ask(channel, bytes, until)).await;
    let asked = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
    let came = asked.map_err(|status| {
        debug!(%region, rtt_ms = link.rtt_ms, %status, "a link is not measured");
        status.code()
    })?;
    let mut came = pin!(came);
    // Bounded by the messages in so many bytes.
    let mut all: Vec<(Instant, u64)> = Vec::new();
    while let Some(more) = came.next().await {
        let before = all.last().map_or(0, |(_, bytes)| *bytes);
        all.push((Instant::now(), before + more as u64));
        // So many that the connection is made ready by these.
        if gateway.links.expected(region) >= bytes {
            break;
        }
    }
    Ok(all)
}

/// How many bytes fill a link; none: it is short, or not known yet.
fn bytes(bandwidth: f64, rtt_ms: f64, most: u64) -> Option<u64> {
    let fill = bandwidth * rtt_ms / 1e3 * FULL_LINKS;
    // What is no number becomes 0.
    let bytes = (fill as u64).min(most);
    (bytes >= BYTES_MIN).then_some(bytes)
}

/// Whether a transfer tells the bandwidth of a link that is thought to have so much. One call has
/// no more on its way than its window, and fewer bytes than fill the link end while their rate
/// still grows: what these show is told only where it is more than was thought.
fn tells(transfer: &Transfer, bandwidth: f64, most: u64) -> bool {
    let rate = transfer.bytes as f64 / transfer.took;
    let window = f64::from(FAR_STREAM_WINDOW_BYTES) * WINDOW_PART;
    let filled = bandwidth * transfer.rtt * FULL_LINKS <= most as f64;
    rate > bandwidth || filled && rate * transfer.rtt < window
}

/// What the second half of the bytes showed: the first came while the rate grew.
fn shown(begun: Instant, rtt: f64, came: &[(Instant, u64)]) -> Option<Transfer> {
    let ((first, _), (last, all)) = (came.first()?, came.last()?);
    let (half, before) = came.iter().find(|(_, bytes)| *bytes >= all / 2)?;
    Some(Transfer {
        first_byte: first.duration_since(begun).as_secs_f64(),
        rtt,
        bytes: all - before,
        took: last.duration_since(*half).as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_long_link_is_filled_and_a_short_one_is_left_alone() {
        let most = 16 * MIB;
        assert_eq!(bytes(125e6, 80.0, most), Some(most));
        assert_eq!(bytes(12.5e6, 150.0, most), Some(3_750_000));
        assert_eq!(bytes(f64::INFINITY, 80.0, most), Some(most));
        assert_eq!(bytes(125e6, 1.0, most), None);
        assert_eq!(bytes(125e6, 0.0, most), None);
        assert_eq!(bytes(f64::NAN, 80.0, most), None);
        assert_eq!(bytes(125e6, 80.0, 0), None, "it is turned off");
    }

    #[test]
    fn each_connection_is_measured_once_and_one_that_breaks_often_seldom() {
        let begun = Instant::now();
        let done = |tries| Done {
            connection: 1,
            tries,
            begun,
        };
        assert!(!is_due(None, 0, begun), "there is none yet");
        assert!(is_due(None, 1, begun));
        let (whole, cut) = (done(TRIES_MAX), done(1));
        assert!(!is_due(Some(&whole), 1, begun + 2 * MEASURE_EVERY));
        assert!(!is_due(Some(&cut), 1, begun + AGAIN_AFTER / 2));
        assert!(is_due(Some(&cut), 1, begun + AGAIN_AFTER));
        for done in [whole, cut] {
            assert!(!is_due(Some(&done), 2, begun + MEASURE_EVERY / 2));
            assert!(is_due(Some(&done), 2, begun + MEASURE_EVERY));
        }
    }

    #[test]
    fn what_a_window_or_too_few_bytes_held_up_is_told_only_where_it_is_more_than_was_thought() {
        let (rtt, most) = (0.08, 16 * MIB);
        let tells = |rate: f64, bandwidth: f64, most: u64| {
            let transfer = Transfer {
                first_byte: rtt,
                rtt,
                bytes: 8 * MIB,
                took: 8.0 * MIB as f64 / rate,
            };
            tells(&transfer, bandwidth, most)
        };
        assert!(
            tells(20e6, 62.5e6, most),
            "the link is slower than it is set to be"
        );
        assert!(
            !tells(300e6, 400e6, 64 * MIB),
            "a window of 32 MiB carries no more"
        );
        assert!(tells(100e6, 62.5e6, most));
        assert!(!tells(20e6, 62.5e6, 4 * MIB), "the rate still grew");
        assert!(!tells(0.0, 62.5e6, 4 * MIB));
    }

    #[test]
    fn it_shows_the_rate_that_was_reached() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        // It doubles each 80 ms.
        let came = [
            (80, 2 * MIB),
            (160, 4 * MIB),
            (240, 8 * MIB),
            (320, 16 * MIB),
        ];
        let came = came.map(|(ms, bytes)| (at(ms), bytes));
        let shown = shown(begun, 0.08, &came).unwrap();
        assert!((shown.first_byte - 0.08).abs() < 1e-9);
        assert_eq!(shown.bytes, 8 * MIB);
        assert!((shown.took - 0.08).abs() < 1e-9);
        assert_eq!(super::shown(begun, 0.08, &[]), None);
    }
}
