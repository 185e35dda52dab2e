//! What the kernel leaves in one for a device with offload: packets of one TCP connection, one
//! behind the other, under one header. Of a batch some may be lost, as of packets that come one
//! by one.
//!
//! Before the packet is a `virtio_net_hdr` of 10 bytes; see Linux' `include/uapi/linux/virtio_net.h`
//! for it, RFC 791 and RFC 9293, 3.1, for the headers.

/// Bytes of what is before a packet.
pub(crate) const OFFLOAD_HEADER: usize = 10;
/// Where that says what the packets of a batch are, and how long each but the last is.
const KIND: usize = 1;
const SIZE: usize = 4;
/// TCP over IPv4; with it the bit that says that the connection knows of congestion marks.
const TCP_V4: u8 = 1;
const ECN: u8 = 0x80;
/// Flags of TCP that only the first or only the last packet of a batch has.
const OF_FIRST: u8 = 0x80;
const OF_LAST: u8 = 0x09;

/// A batch, taken apart.
struct Batch<'a> {
    /// All headers.
    head: &'a [u8],
    /// Where TCP's begins.
    tcp: usize,
    payload: &'a [u8],
    size: usize,
}

/// How many packets there are in one, and their bytes, each with headers of its own.
pub(crate) fn size(batch: &[u8]) -> (usize, usize) {
    let bytes = batch.len().saturating_sub(OFFLOAD_HEADER);
    read(batch).map_or((1, bytes), |it| {
        let packets = it.payload.len().div_ceil(it.size).max(1);
        let headers = it.head.len() - OFFLOAD_HEADER;
        (packets, bytes + (packets - 1) * headers)
    })
}

/// What is left of a batch: one for each run of packets none of which is lost, asked in their order.
pub(crate) fn left(batch: &[u8], mut lost: impl FnMut() -> bool) -> Vec<Box<[u8]>> {
    let (packets, _) = size(batch);
    let kept: Vec<bool> = (0..packets).map(|_| !lost()).collect();
    if kept.iter().all(|kept| *kept) {
        return vec![batch.into()];
    }
    let Some(read) = read(batch) else {
        return Vec::new();
    };
    let mut left = Vec::new();
    let mut from = 0;
    for run in kept.chunk_by(|a, b| a == b) {
        let to = from + run.len();
        if run[0] {
            left.push(read.part(from, to, packets));
        }
        from = to;
    }
    left
}

/// None: it is one packet.
fn read(batch: &[u8]) -> Option<Batch<'_>> {
    let kind = batch.get(KIND)? & !ECN;
    let size = usize::from(u16::from_le_bytes(*batch.get(SIZE..)?.first_chunk()?));
    if kind != TCP_V4 || size == 0 {
        return None;
    }
    let tcp = OFFLOAD_HEADER + usize::from(batch.get(OFFLOAD_HEADER)? & 0x0f) * 4;
    let end = tcp + usize::from(batch.get(tcp + 12)? >> 4) * 4;
    let (head, payload) = batch.split_at_checked(end)?;
    Some(Batch {
        head,
        tcp,
        payload,
        size,
    })
}

impl Batch<'_> {
    /// The packets from one to before another of so many. TCP's checksum is not touched: the kernel
    /// has not made it yet, and so takes it for right where the batch comes out.
    fn part(&self, from: usize, to: usize, packets: usize) -> Box<[u8]> {
        let end = (to * self.size).min(self.payload.len());
        let payload = &self.payload[from * self.size..end];
        let mut part = [self.head, payload].concat();
        if to - from == 1 {
            part[KIND] = 0;
            part[SIZE..SIZE + 2].fill(0);
        }
        let bytes = (part.len() - OFFLOAD_HEADER) as u16;
        part[OFFLOAD_HEADER + 2..OFFLOAD_HEADER + 4].copy_from_slice(&bytes.to_be_bytes());
        let sequence = self.tcp + 4..self.tcp + 8;
        let before = part[sequence.clone()].first_chunk().copied();
        let before = u32::from_be_bytes(before.unwrap_or_default());
        let begins = before.wrapping_add((from * self.size) as u32);
        part[sequence].copy_from_slice(&begins.to_be_bytes());
        if from > 0 {
            part[self.tcp + 13] &= !OF_FIRST;
        }
        if to < packets {
            part[self.tcp + 13] &= !OF_LAST;
        }
        part[OFFLOAD_HEADER + 10..OFFLOAD_HEADER + 12].fill(0);
        let sum = checksum(&part[OFFLOAD_HEADER..self.tcp]);
        part[OFFLOAD_HEADER + 10..OFFLOAD_HEADER + 12].copy_from_slice(&sum.to_be_bytes());
        part.into()
    }
}

/// Of an IPv4 header, RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2);
    let words = words.map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: usize = OFFLOAD_HEADER + 52;

    /// Packets of 100 bytes, the last one of 50, whose bytes count up; from byte 1,000 on.
    fn batch(packets: usize) -> Vec<u8> {
        let bytes = packets * 100 - 50;
        let mut batch = vec![0; HEADS];
        (batch[KIND], batch[SIZE]) = (TCP_V4 | ECN, 100);
        (batch[10], batch[19]) = (0x45, 6);
        batch[12..14].copy_from_slice(&(52 + bytes as u16).to_be_bytes());
        batch[34..38].copy_from_slice(&1_000_u32.to_be_bytes());
        (batch[42], batch[43]) = (0x80, OF_FIRST | OF_LAST | 0x10);
        batch.extend((0..bytes).map(|at| at as u8));
        batch
    }

    /// First byte, bytes, flags.
    fn told(part: &[u8]) -> (u32, usize, u8) {
        let sequence = u32::from_be_bytes(*part[34..].first_chunk().unwrap());
        let length = u16::from_be_bytes([part[12], part[13]]);
        assert_eq!(usize::from(length), part.len() - OFFLOAD_HEADER);
        assert_eq!(checksum(&part[10..30]), 0, "its own checksum is in it");
        let first = (sequence - 1_000) as u8;
        assert!(
            part[HEADS..]
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == first.wrapping_add(at as u8))
        );
        (sequence, part.len() - HEADS, part[43])
    }

    #[test]
    fn what_is_not_lost_of_a_batch_comes_as_it_was() {
        let ten = batch(10);
        assert_eq!(size(&ten), (10, 950 + 10 * 52));
        let mut turn = 0;
        let parts = left(&ten, || {
            turn += 1;
            [1, 4, 9].contains(&turn)
        });
        let told: Vec<_> = parts.iter().map(|part| told(part)).collect();
        let whole = 0x10;
        assert_eq!(
            told,
            [
                (1_100, 200, whole),
                (1_400, 400, whole),
                (1_900, 50, whole | OF_LAST)
            ]
        );
        let kinds = parts.iter().map(|part| (part[KIND], part[SIZE]));
        assert_eq!(
            kinds.collect::<Vec<_>>(),
            [(TCP_V4 | ECN, 100), (TCP_V4 | ECN, 100), (0, 0)]
        );
    }

    #[test]
    fn all_or_nothing_of_one_packet_and_of_what_is_none() {
        let mut one = batch(1);
        one[KIND] = 0;
        for raw in [one, vec![0; 11], vec![], batch(10)[..40].to_vec()] {
            assert_eq!(size(&raw), (1, raw.len().saturating_sub(OFFLOAD_HEADER)));
            assert_eq!(left(&raw, || false), [raw.clone().into_boxed_slice()]);
            assert!(left(&raw, || true).is_empty());
        }
        let ten = batch(10);
        assert_eq!(left(&ten, || false), [ten.clone().into_boxed_slice()]);
        assert!(left(&ten, || true).is_empty());
    }
}
