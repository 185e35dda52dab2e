//! What crossed a link in one direction, by its packets.

use std::sync::atomic::{AtomicU64, Ordering};

/// The protocol number of TCP in an IPv4 header.
const TCP: u8 = 6;

/// Counts packets that come out at the other end; what is lost does not cross.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    packets: AtomicU64,
    payload: AtomicU64,
}

/// So much until a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crossed {
    /// Packets of the link's size.
    pub(crate) packets: u64,
    /// Bytes that they carry for whoever speaks over TCP: TLS's and HTTP/2's are among them,
    /// headers of IP and TCP are not; twice, what was sent twice and came twice.
    pub(crate) payload: u64,
}

impl Counter {
    /// Counts an IP packet, or a batch of so many that the kernel left in one.
    pub(crate) fn count(&self, packet: &[u8], packets: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.payload.fetch_add(payload(packet), Ordering::Relaxed);
    }

    pub(crate) fn so_far(&self) -> Crossed {
        Crossed {
            packets: self.packets.load(Ordering::Relaxed),
            payload: self.payload.load(Ordering::Relaxed),
        }
    }
}

impl Crossed {
    /// What crossed since an earlier moment.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(before.packets),
            payload: self.payload.saturating_sub(before.payload),
        }
    }
}

/// Bytes behind the headers of TCP over IPv4; 0 for anything else. See RFC 791 and RFC 9293, 3.1.
fn payload(packet: &[u8]) -> u64 {
    let of_tcp = || {
        let first = *packet.first()?;
        let tcp = usize::from(first & 0x0f) * 4;
        let offset = packet.get(tcp + 12)?;
        let headers = tcp + usize::from(offset >> 4) * 4;
        let is_tcp = first >> 4 == 4 && packet.get(9) == Some(&TCP);
        is_tcp.then_some(packet.len().saturating_sub(headers) as u64)
    };
    of_tcp().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers of 20 and 32 bytes, as Linux sends them, and so many behind.
    fn tcp(bytes: usize) -> Vec<u8> {
        let mut packet = vec![0; 52 + bytes];
        (packet[0], packet[9], packet[32]) = (0x45, TCP, 0x80);
        packet
    }

    #[test]
    fn only_what_is_behind_the_headers_counts() {
        let counter = Counter::default();
        counter.count(&tcp(1_448), 1);
        counter.count(&tcp(0), 1);
        let before = counter.so_far();
        let want = |packets, payload| Crossed { packets, payload };
        assert_eq!(before, want(2, 1_448));
        // A batch; UDP; IPv6; and what is no packet.
        counter.count(&tcp(14_480), 10);
        let others = [(9, 17), (0, 0x65)].map(|(at, byte)| {
            let mut packet = tcp(100);
            packet[at] = byte;
            packet
        });
        others.iter().for_each(|packet| counter.count(packet, 1));
        counter.count(&[], 1);
        counter.count(&[0x45; 20], 1);
        assert_eq!(counter.so_far().since(before), want(14, 14_480));
    }
}
