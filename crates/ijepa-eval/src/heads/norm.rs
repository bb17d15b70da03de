//! What does BatchNorm see? Statistics of a batch, kept on the way, as PyTorch's `BatchNorm1d` does.
//!
//! While training x̂ = (x − mean) / √(var + ε) with the batch's own mean and biased variance. For judging
//! r ← (1 − momentum)·r + momentum·statistic, from mean 0 and variance 1, with the unbiased variance. Scale and shift belong
//! to each head; x̂ is the same for all of them.

use crate::standard::Standard;
use rayon::prelude::*;

const EPSILON: f32 = 1e-5;
/// Share of the batch in the running statistics.
const MOMENTUM: f32 = 0.1;
/// Columns that one thread handles at a time.
const COLUMNS: usize = 64;
/// Rows that are summed in single precision before the sum is added in double.
const ROWS: usize = 16;

/// Running statistics of one set of features, and the input that its heads share.
pub(super) struct Norm {
    pub(super) mean: Vec<f32>,     // (d)
    pub(super) variance: Vec<f32>, // (d)
    normalised: Vec<f32>,          // (rows, d) of the last batch
}

impl Norm {
    pub(super) fn new(width: usize) -> Norm {
        Norm { mean: vec![0.0; width], variance: vec![1.0; width], normalised: Vec::new() }
    }

    /// x̂ (rows, d) of a batch of at least two rows, whose statistics are remembered.
    pub(super) fn batch(&mut self, values: &[f32]) -> &[f32] {
        let width = self.mean.len();
        let rows = values.len() / width;
        let mean = column_means(values, &vec![0.0; width], |value| value);
        let variance = column_means(values, &mean, |off| off * off);
        let unbiased = rows as f32 / (rows - 1) as f32;
        for ((running, mean), (running_variance, variance)) in
            self.mean.iter_mut().zip(&mean).zip(self.variance.iter_mut().zip(&variance))
        {
            *running += MOMENTUM * (mean - *running);
            *running_variance += MOMENTUM * (variance * unbiased - *running_variance);
        }
        let standard = Standard { inverse: inverse(&variance), mean, unit: false };
        self.normalised.resize(values.len(), 0.0);
        self.normalised.par_chunks_mut(ROWS * width).zip(values.par_chunks(ROWS * width)).for_each(|(out, values)| {
            for (out, values) in out.chunks_exact_mut(width).zip(values.chunks_exact(width)) {
                standard.row(out, values);
            }
        });
        &self.normalised
    }

    /// What judges: the running statistics.
    pub(super) fn standard(&self) -> Standard {
        Standard { mean: self.mean.clone(), inverse: inverse(&self.variance), unit: false }
    }
}

fn inverse(variance: &[f32]) -> Vec<f32> {
    variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect()
}

/// (d) means over the rows of f(value − centre), each by one thread.
fn column_means(values: &[f32], centre: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let width = centre.len();
    let mut means = vec![0.0; width];
    let pieces = means.par_chunks_mut(COLUMNS).zip(centre.par_chunks(COLUMNS)).enumerate();
    pieces.for_each(|(piece, (means, centre))| {
        let (first, count) = (piece * COLUMNS, means.len());
        let mut total = [0.0f64; COLUMNS];
        let mut sums = [0.0f32; COLUMNS];
        for rows in values.chunks(ROWS * width) {
            let sums = &mut sums[..count];
            sums.fill(0.0);
            for row in rows.chunks_exact(width) {
                for ((sum, value), centre) in sums.iter_mut().zip(&row[first..first + count]).zip(centre) {
                    *sum += f(value - centre);
                }
            }
            total.iter_mut().zip(&*sums).for_each(|(total, sum)| *total += f64::from(*sum));
        }
        let rows = (values.len() / width) as f64;
        means.iter_mut().zip(total).for_each(|(mean, total)| *mean = (total / rows) as f32);
    });
    means
}
