//! A model of llama's kind on the processor: norm, attention, norm, gated sum, in each layer.
//!
//! Invariant: what comes of a row depends on its token and its sequence's KV, bit for bit, and
//! on no other row.

use super::{
    cache::{Cache, Shape},
    gguf::{Gguf, GgufError},
    matrix::{Matrix, dot},
};

struct Layer {
    norm: Vec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out: Matrix,
    gated_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A model.
pub(super) struct Net {
    pub(super) kv: Shape,
    /// Heads that ask.
    heads: usize,
    epsilon: f32,
    turn_base: f64,
    /// What tokens are, and in the end what they are likened to.
    tokens: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
}

/// A token that follows others of a sequence.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// Place of the sequence among the caches.
    pub(super) cache: usize,
    pub(super) token: u32,
}

impl Net {
    pub(super) fn read(file: &Gguf) -> Result<Self, GgufError> {
        let size = |name: &str| file.number(&format!("llama.{name}")).map(|it| it as usize);
        let width = size("embedding_length")?;
        let (heads, head_width) = (size("attention.head_count")?, size("rope.dimension_count")?);
        let kv = Shape {
            layers: size("block_count")?,
            heads: size("attention.head_count_kv")?,
            width: head_width,
        };
        let inner = size("feed_forward_length")?;
        let matrix = |name: &str, width: usize, rows: usize| {
            let numbers = file.tensor(&format!("{name}.weight"), width * rows);
            numbers.map(|numbers| Matrix::new(width, &numbers))
        };
        let norm = |name: &str| file.tensor(&format!("{name}.weight"), width);
        let layer = |at: usize| {
            let of = |name: &str, width, rows| matrix(&format!("blk.{at}.{name}"), width, rows);
            Ok::<_, GgufError>(Layer {
                norm: norm(&format!("blk.{at}.attn_norm"))?,
                q: of("attn_q", width, heads * head_width)?,
                k: of("attn_k", width, kv.heads * head_width)?,
                v: of("attn_v", width, kv.heads * head_width)?,
                out: of("attn_output", heads * head_width, width)?,
                gated_norm: norm(&format!("blk.{at}.ffn_norm"))?,
                gate: of("ffn_gate", width, inner)?,
                up: of("ffn_up", width, inner)?,
                down: of("ffn_down", inner, width)?,
            })
        };
        Ok(Self {
            kv,
            heads,
            epsilon: file.number("llama.attention.layer_norm_rms_epsilon")? as f32,
            turn_base: file.number("llama.rope.freq_base")?,
            tokens: matrix("token_embd", width, size("vocab_size")?)?,
            layers: (0..kv.layers).map(layer).collect::<Result<_, _>>()?,
            norm: norm("output_norm")?,
        })
    }

    /// Reads tokens: rows of one sequence follow one another. What comes of each, for
    /// [`Self::logits`].
    pub(super) fn read_rows(&self, caches: &mut [Cache], rows: &[Row]) -> Vec<f32> {
        let mut next: Vec<usize> = caches.iter().map(Cache::tokens).collect();
        let places = rows.iter().map(|row| {
            next[row.cache] += 1;
            next[row.cache] - 1
        });
        let places: Vec<usize> = places.collect();
        let embedded = rows.iter().map(|row| self.tokens.row(row.token as usize));
        let mut states: Vec<f32> = embedded.flatten().collect();
        for (at, layer) in self.layers.iter().enumerate() {
            let normed = self.normed(&states, &layer.norm);
            let (mut q, mut k) = (layer.q.times(&normed), layer.k.times(&normed));
            let v = layer.v.times(&normed);
            self.turn(&mut q, &places);
            self.turn(&mut k, &places);
            let kv_row = self.kv.heads * self.kv.width;
            for ((row, k), v) in rows.iter().zip(k.chunks(kv_row)).zip(v.chunks(kv_row)) {
                caches[row.cache].push(at, [k, v]);
            }
            let mut seen = Vec::with_capacity(q.len());
            let q_row = self.heads * self.kv.width;
            for ((row, place), q) in rows.iter().zip(&places).zip(q.chunks(q_row)) {
                self.attend(&caches[row.cache], at, q, place + 1, &mut seen);
            }
            add(&mut states, &layer.out.times(&seen));
            let normed = self.normed(&states, &layer.gated_norm);
            let mut gated = layer.gate.times(&normed);
            let up = layer.up.times(&normed);
            let pairs = gated.iter_mut().zip(up);
            pairs.for_each(|(gate, up)| *gate = *gate / (1.0 + (-*gate).exp()) * up);
            add(&mut states, &layer.down.times(&gated));
        }
        self.normed(&states, &self.norm)
    }

    /// How likely each token is next, for each row.
    pub(super) fn logits(&self, states: &[f32]) -> Vec<f32> {
        self.tokens.times(states)
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.tokens.rows()
    }

    fn normed(&self, states: &[f32], by: &[f32]) -> Vec<f32> {
        let row = |row: &[f32]| {
            let square = dot(row, row) / row.len() as f32;
            let scale = 1.0 / (square + self.epsilon).sqrt();
            let normed = row.iter().zip(by).map(move |(it, by)| it * scale * by);
            normed.collect::<Vec<f32>>()
        };
        states.chunks(by.len()).flat_map(row).collect()
    }

    /// Turns pairs of numbers by their token's place.
    fn turn(&self, rows: &mut [f32], places: &[usize]) {
        let width = self.kv.width;
        let row = rows.len() / places.len();
        for (row, place) in rows.chunks_mut(row).zip(places) {
            let angle = |pair: usize| {
                let power = -2.0 * pair as f64 / width as f64;
                let (sin, cos) = (*place as f64 * self.turn_base.powf(power)).sin_cos();
                (sin as f32, cos as f32)
            };
            let angles: Vec<_> = (0..width / 2).map(angle).collect();
            for head in row.chunks_mut(width) {
                for (pair, (sin, cos)) in head.as_chunks_mut::<2>().0.iter_mut().zip(&angles) {
                    let [x, y] = *pair;
                    *pair = [x * cos - y * sin, x * sin + y * cos];
                }
            }
        }
    }

    /// What each head of a row sees in the first `tokens` tokens.
    fn attend(&self, cache: &Cache, layer: usize, q: &[f32], tokens: usize, seen: &mut Vec<f32>) {
        let width = self.kv.width;
        let scale = 1.0 / (width as f32).sqrt();
        let [k, v] = &cache.layers[layer];
        for (at, q) in q.chunks(width).enumerate() {
            let head = at * self.kv.heads / self.heads;
            let keys = k.heads[head].chunks(width).take(tokens);
            let mut weights: Vec<f32> = keys.map(|key| dot(q, key) * scale).collect();
            let most = weights.iter().copied().fold(f32::MIN, f32::max);
            weights.iter_mut().for_each(|it| *it = (*it - most).exp());
            let sum: f32 = weights.iter().sum();
            let begin = seen.len();
            seen.resize(begin + width, 0.0);
            let seen = &mut seen[begin..];
            for (value, weight) in v.heads[head].chunks(width).zip(&weights) {
                let weight = weight / sum;
                let pairs = seen.iter_mut().zip(value);
                pairs.for_each(|(seen, value)| *seen += weight * value);
            }
        }
    }
}

fn add(to: &mut [f32], what: &[f32]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
}
