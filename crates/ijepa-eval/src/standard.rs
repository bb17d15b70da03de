//! How is a column made comparable? x̃ = (x − μ) / σ with the mean and deviation of the training rows.
//!
//! Or how is a row: its own mean is taken off and it is brought to length 1, whatever the other rows are.
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
    /// Whether each row is then centred by its own mean and brought to length 1; a constant row becomes zero.
    pub(crate) unit: bool,
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
        Standard { mean: mean.iter().map(|&mean| mean as f32).collect(), inverse, unit: false }
    }

    /// Leaves rows as they are.
    pub(crate) fn nothing(width: usize) -> Standard {
        Standard { mean: vec![0.0; width], inverse: vec![1.0; width], unit: false }
    }

    /// Rows of mean 0 and length 1.
    pub(crate) fn unit(width: usize) -> Standard {
        Standard { unit: true, ..Standard::nothing(width) }
    }

    /// Mean of ‖x̃‖² over the training rows (as if none of them were constant, where rows are of length 1).
    pub(crate) fn mean_square(&self) -> f64 {
        if self.unit { 1.0 } else { self.inverse.iter().filter(|&&inverse| inverse > 0.0).count() as f64 }
    }

    /// out (rows, d) = the named rows, standardised.
    pub(crate) fn rows(&self, out: &mut [f32], features: &Features, rows: &[u32]) {
        for (out, &row) in out.chunks_exact_mut(features.width).zip(rows) {
            self.row(out, features.row(row as usize));
        }
    }

    /// out (l) = the columns from `first` of one row, standardised by columns alone.
    pub(crate) fn columns(&self, out: &mut [f32], features: &Features, row: u32, first: usize) {
        assert!(!self.unit, "a part of a row does not say how long the row is");
        let part = first..first + out.len();
        let values = &features.row(row as usize)[part.clone()];
        for (((out, value), mean), inverse) in
            out.iter_mut().zip(values).zip(&self.mean[part.clone()]).zip(&self.inverse[part])
        {
            *out = (value - mean) * inverse;
        }
    }

    /// out (d) = a row, standardised.
    pub(crate) fn row(&self, out: &mut [f32], values: &[f32]) {
        for (((out, value), mean), inverse) in out.iter_mut().zip(values).zip(&self.mean).zip(&self.inverse) {
            *out = (value - mean) * inverse;
        }
        if self.unit {
            let mean = out.iter().map(|&value| f64::from(value)).sum::<f64>() / out.len() as f64;
            let square = out.iter().map(|&value| (f64::from(value) - mean) * (f64::from(value) - mean)).sum::<f64>();
            let length = square.sqrt();
            let inverse = if length <= CONSTANT * mean.abs() { 0.0 } else { 1.0 / length };
            out.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) * inverse) as f32);
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
