//! How is a column made comparable? x̃ = (x − μ) / σ with the mean and deviation of the training rows.
//!
//! The matrix is never copied: a block of rows is standardised into a scratch buffer when it is needed, which also gathers
//! any subset of rows. A constant column (σ no larger than the rounding of its mean) becomes zero everywhere, also in
//! queries, so it neither helps nor divides by zero.

use crate::Features;
use rayon::prelude::*;

/// Mean and inverse deviation of every column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Standard {
    pub(crate) mean: Vec<f32>,    // (d)
    pub(crate) inverse: Vec<f32>, // (d) 1/σ, 0 for a constant column
}

/// Pieces into which sums over rows are cut, whatever the number of threads.
pub(crate) const PIECES: usize = 16;

/// σ at or below this share of |μ| is rounding of f32.
const CONSTANT: f64 = 1e-7;

impl Standard {
    /// Statistics of all rows.
    pub(crate) fn of(features: &Features) -> Standard {
        let (mean, deviation) = columns(features);
        let inverse = mean
            .iter()
            .zip(&deviation)
            .map(|(mean, std)| if *std <= CONSTANT * mean.abs() { 0.0 } else { (1.0 / std) as f32 })
            .collect();
        Standard { mean: mean.iter().map(|&mean| mean as f32).collect(), inverse }
    }

    /// out (rows, d) = the named rows, standardised.
    pub(crate) fn rows(&self, out: &mut [f32], features: &Features, rows: &[u32]) {
        let width = features.width;
        for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
            self.columns(out, features, row, 0);
        }
    }

    /// out (l) = the columns from `first` of one row, standardised.
    pub(crate) fn columns(&self, out: &mut [f32], features: &Features, row: u32, first: usize) {
        let part = first..first + out.len();
        let values = &features.row(row as usize)[part.clone()];
        for (((out, value), mean), inverse) in
            out.iter_mut().zip(values).zip(&self.mean[part.clone()]).zip(&self.inverse[part])
        {
            *out = (value - mean) * inverse;
        }
    }
}

/// Mean and deviation (with 1/n) of every column, in f64 and two passes.
pub(crate) fn columns(features: &Features) -> (Vec<f64>, Vec<f64>) {
    let rows = features.rows as f64;
    let mean: Vec<f64> =
        sums(features, |sum, _, value| *sum += f64::from(value)).iter().map(|sum| sum / rows).collect();
    let squares = sums(features, |sum, column, value| {
        let off = f64::from(value) - mean[column];
        *sum += off * off;
    });
    let deviation = squares.iter().map(|sum| (sum / rows).sqrt()).collect();
    (mean, deviation)
}

/// (d) sums over the rows of what `add` adds for a column's value.
fn sums(features: &Features, add: impl Fn(&mut f64, usize, f32) + Sync) -> Vec<f64> {
    let width = features.width;
    let piece = features.rows.div_ceil(PIECES) * width;
    let parts: Vec<Vec<f64>> = features
        .values
        .par_chunks(piece)
        .map(|values| {
            let mut sums = vec![0.0; width];
            for row in values.chunks_exact(width) {
                for (column, (sum, &value)) in sums.iter_mut().zip(row).enumerate() {
                    add(sum, column, value);
                }
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; width];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}
