//! What a model makes of KV that came over a link, beside what it makes of its own.

use super::{
    cache::Cache,
    link::Way,
    net::{Net, Row},
};

/// Tokens that are read at once.
const AT_ONCE: usize = 64;

/// How far a way's answers are from those of plain KV.
#[derive(Clone, Copy, Default)]
pub(super) struct Harm {
    /// Tokens foretold.
    pub(super) places: f64,
    /// Of them those whose likeliest token is that of plain KV.
    pub(super) same: f64,
    /// Of the text's tokens, the logarithms of their likeliness, negated.
    pub(super) surprise: f64,
    /// Differences of logits, and squares of plain ones.
    pub(super) off: f64,
    pub(super) off_max: f64,
    pub(super) numbers: f64,
    /// Bytes that travelled, and bytes of the KV.
    pub(super) travelled: f64,
    pub(super) bytes: f64,
}

impl Harm {
    pub(super) fn add(&mut self, other: &Self) {
        self.places += other.places;
        self.same += other.same;
        self.surprise += other.surprise;
        self.off += other.off;
        self.off_max = self.off_max.max(other.off_max);
        self.numbers += other.numbers;
        self.travelled += other.travelled;
        self.bytes += other.bytes;
    }

    pub(super) fn perplexity(&self) -> f64 {
        (self.surprise / self.places).exp()
    }

    /// Of the bytes, left.
    pub(super) fn left(&self) -> f64 {
        self.travelled / self.bytes
    }

    /// Counts one place.
    fn note(&mut self, plain: &[f32], came: &[f32], next: u32) {
        self.places += 1.0;
        self.same += f64::from(u8::from(likeliest(plain) == likeliest(came)));
        let most = came.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = came.iter().map(|it| f64::from(it - most).exp()).sum();
        self.surprise += sum.ln() - f64::from(came[next as usize] - most);
        for (plain, came) in plain.iter().zip(came) {
            let off = f64::from((plain - came).abs());
            self.off += off;
            self.off_max = self.off_max.max(off);
        }
        self.numbers += plain.len() as f64;
    }
}

/// The likeliest token; the first of several.
fn likeliest(logits: &[f32]) -> u32 {
    let first = (0, f32::MIN);
    let better =
        |best: (u32, f32), it: (u32, &f32)| if *it.1 > best.1 { (it.0, *it.1) } else { best };
    (0..).zip(logits).fold(first, better).0
}

/// Reads tokens into a new cache.
pub(super) fn prefix(net: &Net, tokens: &[u32]) -> Cache {
    let mut cache = [Cache::new(net.kv)];
    for tokens in tokens.chunks(AT_ONCE) {
        let rows = tokens.iter().map(|token| Row {
            cache: 0,
            token: *token,
        });
        net.read_rows(&mut cache, &rows.collect::<Vec<_>>());
    }
    let [cache] = cache;
    cache
}

/// KV as it comes to another region, by each way; and how many bytes travelled.
fn arrived(net: &Net, cache: &Cache, ways: &[Way]) -> (Vec<Cache>, Vec<Harm>) {
    let blocks = cache.blocks();
    let bytes = blocks.iter().map(Vec::len).sum::<usize>() as f64;
    let came = ways.iter().map(|way| {
        let came = way.send(&blocks, net.kv.heads * net.kv.width);
        let exact = !way.is_exact() || came.blocks == blocks;
        assert!(exact, "{}: other bytes came", way.name());
        let harm = Harm {
            travelled: came.bytes,
            bytes,
            ..Harm::default()
        };
        (Cache::of(net.kv, &came.blocks), harm)
    });
    came.unzip()
}

/// Reads the tokens before `at`, sends their KV by each way, and looks how well each foretells
/// the tokens from there on. The first way is plain.
pub(super) fn foretell(net: &Net, tokens: &[u32], at: usize, ways: &[Way]) -> Vec<Harm> {
    let (mut caches, mut harms) = arrived(net, &prefix(net, &tokens[..at]), ways);
    let pairs: Vec<_> = tokens[at..].windows(2).map(|it| (it[0], it[1])).collect();
    for pairs in pairs.chunks(AT_ONCE) {
        let rows = (0..ways.len()).flat_map(|cache| {
            pairs.iter().map(move |(token, _)| Row {
                cache,
                token: *token,
            })
        });
        let states = net.read_rows(&mut caches, &rows.collect::<Vec<_>>());
        let logits = net.logits(&states);
        let of_way = |way: usize| {
            let all = logits.chunks(net.vocabulary());
            all.skip(way * pairs.len()).take(pairs.len())
        };
        for (at, harm) in harms.iter_mut().enumerate() {
            for ((plain, came), (_, next)) in of_way(0).zip(of_way(at)).zip(pairs) {
                harm.note(plain, came, *next);
            }
        }
    }
    harms
}

/// Reads the tokens before the last, sends their KV by each way, and goes on from the last with
/// the likeliest token, `count` times. The first way is plain.
///
/// # Panics
/// When KV that came without loss gives other bytes or logits.
pub(super) fn go_on(net: &Net, tokens: &[u32], count: usize, ways: &[Way]) -> Vec<Vec<u32>> {
    let Some((last, before)) = tokens.split_last() else {
        return Vec::new();
    };
    let (mut caches, _) = arrived(net, &prefix(net, before), ways);
    let mut texts = vec![vec![*last]; ways.len()];
    for at in 0..count {
        let rows = texts.iter().enumerate().map(|(cache, text)| Row {
            cache,
            token: text[at],
        });
        let states = net.read_rows(&mut caches, &rows.collect::<Vec<_>>());
        let logits = net.logits(&states);
        let of_ways = logits.chunks(net.vocabulary());
        for ((text, way), logits) in texts.iter_mut().zip(ways).zip(of_ways.clone()) {
            let exact = !way.is_exact() || of_ways.clone().next() == Some(logits);
            assert!(exact, "{}: other logits", way.name());
            text.push(likeliest(logits));
        }
    }
    texts
}
