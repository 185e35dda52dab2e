//! The KV of one sequence: numbers of bf16, which leave as blocks and come back from them.
//!
//! A block has the order layer, K or V, token, head, number.

/// Tokens of a block.
pub(super) const BLOCK_TOKENS: usize = 256;

/// How a model's KV is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    /// Heads of K, and of V.
    pub(super) heads: usize,
    /// Numbers of a head.
    pub(super) width: usize,
}

/// K or V of one layer.
#[derive(Clone, Default)]
pub(super) struct Half {
    /// Of each head the numbers of each token.
    pub(super) heads: Vec<Vec<f32>>,
}

/// K and V of each layer.
#[derive(Clone)]
pub(super) struct Cache {
    shape: Shape,
    pub(super) layers: Vec<[Half; 2]>,
}

/// The nearest number of bf16; of two, the even one.
fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl Cache {
    pub(super) fn new(shape: Shape) -> Self {
        let heads = vec![Vec::new(); shape.heads];
        let half = Half { heads };
        Self {
            shape,
            layers: vec![[half.clone(), half]; shape.layers],
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.layers[0][0].heads[0].len() / self.shape.width
    }

    /// Keeps K and V of one more token in a layer, as bf16.
    pub(super) fn push(&mut self, layer: usize, numbers: [&[f32]; 2]) {
        for (half, numbers) in self.layers[layer].iter_mut().zip(numbers) {
            for (head, numbers) in half.heads.iter_mut().zip(numbers.chunks(self.shape.width)) {
                head.extend(numbers.iter().map(|it| widened(rounded(*it))));
            }
        }
    }

    /// All blocks that are full.
    pub(super) fn blocks(&self) -> Vec<Vec<u8>> {
        let width = self.shape.width;
        let block = |at: usize| {
            let mut bytes = Vec::new();
            for half in self.layers.iter().flatten() {
                for token in at * BLOCK_TOKENS..(at + 1) * BLOCK_TOKENS {
                    let heads = half
                        .heads
                        .iter()
                        .map(|head| &head[token * width..][..width]);
                    bytes.extend(heads.flatten().flat_map(|it| rounded(*it).to_le_bytes()));
                }
            }
            bytes
        };
        (0..self.tokens() / BLOCK_TOKENS).map(block).collect()
    }

    /// From blocks, as they came.
    pub(super) fn of(shape: Shape, blocks: &[Vec<u8>]) -> Self {
        let mut cache = Self::new(shape);
        let row = shape.heads * shape.width * 2;
        for block in blocks {
            let halves = block.chunks(BLOCK_TOKENS * row);
            for (half, bytes) in cache.layers.iter_mut().flatten().zip(halves) {
                let (numbers, _) = bytes.as_chunks::<2>();
                let heads = half.heads.len();
                for (at, numbers) in numbers.chunks(shape.width).enumerate() {
                    let numbers = numbers.iter().map(|it| widened(u16::from_le_bytes(*it)));
                    half.heads[at % heads].extend(numbers);
                }
            }
        }
        cache
    }
}
