//! What does BatchNorm see? Statistics of a batch, kept on the way, as PyTorch's `BatchNorm1d` does.
//!
//! While training x̂ = (x − mean) / √(var + ε) with the batch's own mean and biased variance. For judging
//! r ← (1 − momentum)·r + momentum·statistic, from mean 0 and variance 1, with the unbiased variance. Scale and shift belong
//! to each head; the statistics are the same for all of them, and x̂ is never written: heads take it into their weights.

use crate::standard::Standard;
use ijepa_tensor::heads::add_off;
use rayon::prelude::*;

const EPSILON: f32 = 1e-5;
/// Share of the batch in the running statistics.
const MOMENTUM: f32 = 0.1;
/// Columns that one thread handles at a time.
const COLUMNS: usize = 64;
/// Rows that are summed in single precision before the sum is added in double.
const ROWS: usize = 16;

/// Running statistics of one set of features.
pub(super) struct Norm {
    pub(super) mean: Vec<f32>,     // (d)
    pub(super) variance: Vec<f32>, // (d)
}

impl Norm {
    pub(super) fn new(width: usize) -> Norm {
        Norm { mean: vec![0.0; width], variance: vec![1.0; width] }
    }

    /// What makes x̂ of a batch (rows, d) of at least two rows, whose statistics are remembered.
    pub(super) fn batch(&mut self, values: &[f32]) -> Standard {
        let width = self.mean.len();
        let rows = values.len() / width;
        let (mean, variance) = moments(values, width);
        let unbiased = rows as f32 / (rows - 1) as f32;
        for ((running, mean), (running_variance, variance)) in
            self.mean.iter_mut().zip(&mean).zip(self.variance.iter_mut().zip(&variance))
        {
            *running += MOMENTUM * (mean - *running);
            *running_variance += MOMENTUM * (variance * unbiased - *running_variance);
        }
        Standard { inverse: inverse(&variance), mean, unit: false }
    }

    /// What judges: the running statistics.
    pub(super) fn standard(&self) -> Standard {
        Standard { mean: self.mean.clone(), inverse: inverse(&self.variance), unit: false }
    }
}

fn inverse(variance: &[f32]) -> Vec<f32> {
    variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect()
}

/// (d) means and biased variances over the rows, each by one thread.
fn moments(values: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut means, mut variances) = (vec![0.0; width], vec![0.0; width]);
    let pieces = means.par_chunks_mut(COLUMNS).zip(variances.par_chunks_mut(COLUMNS)).enumerate();
    pieces.for_each(|(piece, (means, variances))| {
        let first = piece * COLUMNS;
        let zero = [0.0; COLUMNS];
        column_means(means, values, width, first, &zero[..means.len()], false);
        column_means(variances, values, width, first, means, true);
    });
    (means, variances)
}

/// Means over the rows of value − centre, or its square, for the columns from `first` on.
fn column_means(out: &mut [f32], values: &[f32], width: usize, first: usize, centre: &[f32], squared: bool) {
    let mut total = [0.0f64; COLUMNS];
    let mut sums = [0.0f32; COLUMNS];
    let sums = &mut sums[..out.len()];
    for rows in values.chunks(ROWS * width) {
        sums.fill(0.0);
        add_off(sums, rows, width, first, centre, squared);
        total.iter_mut().zip(&*sums).for_each(|(total, sum)| *total += f64::from(*sum));
    }
    let rows = (values.len() / width) as f64;
    out.iter_mut().zip(total).for_each(|(mean, total)| *mean = (total / rows) as f32);
}
