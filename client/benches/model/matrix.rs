//! Products of matrices. The numbers of a row of the result depend on that row alone, bit for
//! bit, whatever else is multiplied with it: each is a sum in the order of its inputs.

/// Results that a processor sums at once: the compiler makes vectors of them.
const LANES: usize = 8;
/// Rows of inputs that are multiplied at once.
const ROWS_MAX: usize = 4;
/// Rows of inputs that stay near while all weights pass by.
const NEAR: usize = 32;

/// Weights: a row for each number of the result.
pub(super) struct Matrix {
    pub(super) width: usize,
    /// Of each [`LANES`] rows the first numbers, then the second ones, and so on.
    numbers: Vec<[f32; LANES]>,
}

impl Matrix {
    /// From row after row.
    ///
    /// # Panics
    /// When the rows cannot be taken [`LANES`] at a time.
    pub(super) fn new(width: usize, rows: &[f32]) -> Self {
        assert!(rows.len().is_multiple_of(width * LANES), "odd rows");
        let numbers = rows.chunks(width * LANES).flat_map(|rows| {
            (0..width).map(|at| std::array::from_fn(|lane| rows[lane * width + at]))
        });
        Self {
            width,
            numbers: numbers.collect(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.numbers.len() / self.width * LANES
    }

    /// A row.
    pub(super) fn row(&self, at: usize) -> impl Iterator<Item = f32> {
        let numbers = &self.numbers[at / LANES * self.width..][..self.width];
        numbers.iter().map(move |lanes| lanes[at % LANES])
    }

    /// Multiplies rows of inputs with all weights.
    pub(super) fn times(&self, inputs: &[f32]) -> Vec<f32> {
        let rows = self.rows();
        let mut results = vec![0.0; inputs.len() / self.width * rows];
        let near = inputs.chunks(NEAR * self.width);
        for (inputs, results) in near.zip(results.chunks_mut(NEAR * rows)) {
            for (at, weights) in self.numbers.chunks(self.width).enumerate() {
                let groups = inputs.chunks(ROWS_MAX * self.width);
                for (inputs, results) in groups.zip(results.chunks_mut(ROWS_MAX * rows)) {
                    let results = results.chunks_mut(rows);
                    let results = results.map(|row| &mut row[at * LANES..][..LANES]);
                    match inputs.len() / self.width {
                        1 => sums::<1>(inputs, weights, results),
                        2 => sums::<2>(inputs, weights, results),
                        3 => sums::<3>(inputs, weights, results),
                        _ => sums::<ROWS_MAX>(inputs, weights, results),
                    }
                }
            }
        }
        results
    }
}

fn sums<'a, const ROWS: usize>(
    inputs: &[f32],
    weights: &[[f32; LANES]],
    results: impl Iterator<Item = &'a mut [f32]>,
) {
    let width = weights.len();
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &inputs[row * width..][..width]);
    let mut sums = [[0.0; LANES]; ROWS];
    for (at, weights) in weights.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let input = row[at];
            let pairs = sums.iter_mut().zip(weights);
            pairs.for_each(|(sum, weight)| *sum += input * weight);
        }
    }
    for (result, sums) in results.zip(&sums) {
        result.copy_from_slice(sums);
    }
}

/// The sum of products.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        let pairs = sums.iter_mut().zip(a.iter().zip(b));
        pairs.for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum()
}
