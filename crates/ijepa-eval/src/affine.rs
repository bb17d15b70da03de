//! What does a linear probe say? scores = W·x̃ + b with x̃ the row standardised by the training statistics.

use crate::features::{QUERIES, check_pair};
use crate::metrics::largest;
use crate::standard::Standard;
use crate::{EvalError, Features};
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use rayon::prelude::*;

/// A fitted linear map from a feature to one score an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    pub(crate) standard: Standard,
    /// Number of outputs, c.
    pub outputs: usize,
    /// (c, d), acting on standardised features.
    pub weights: Vec<f32>,
    /// (c).
    pub bias: Vec<f32>,
}

impl Affine {
    /// (n, c) scores of the rows.
    ///
    /// # Errors
    /// Queries that are empty, not finite or of another width than the training rows.
    pub fn scores(&self, queries: &Features) -> Result<Vec<f32>, EvalError> {
        queries.check(QUERIES)?;
        let train = self.standard.mean.len();
        if queries.width != train {
            return Err(EvalError::Width { train, queries: queries.width });
        }
        let rows: Vec<u32> = (0..queries.rows as u32).collect();
        Ok(self.scores_of(queries, &rows))
    }

    /// (n) the output with the largest score of each row, the first of equals.
    ///
    /// # Errors
    /// Those of [`Affine::scores`].
    pub fn predict(&self, queries: &Features) -> Result<Vec<u32>, EvalError> {
        Ok(largest(&self.scores(queries)?, self.outputs))
    }

    /// (rows, c) scores of some rows of a checked matrix.
    pub(crate) fn scores_of(&self, features: &Features, rows: &[u32]) -> Vec<f32> {
        let (width, outputs) = (features.width, self.outputs);
        let piece = block_rows(width);
        let mut scores = vec![0.0; rows.len() * outputs]; // (rows, c)
        scores.par_chunks_mut(piece * outputs).zip(rows.par_chunks(piece)).for_each(|(scores, rows)| {
            let mut block = vec![0.0; rows.len() * width]; // (rows, d)
            self.standard.rows(&mut block, features, rows);
            for row in scores.chunks_exact_mut(outputs) {
                row.copy_from_slice(&self.bias);
            }
            let shape =
                Gemm { m: rows.len(), n: outputs, k: width, a: Layout::Plain, b: Layout::Transposed, accumulate: true };
            gemm(scores, &block, &self.weights, shape);
        });
        scores
    }
}

/// Rows of a block that stays in the second-level cache, 32 at least.
pub(crate) fn block_rows(width: usize) -> usize {
    ((1 << 18) / width).clamp(32, 512)
}

/// Refuses a pair that a linear probe cannot be fitted and judged on.
pub(crate) fn check_probe(train: &Features, queries: &Features) -> Result<(), EvalError> {
    check_pair(train, queries)?;
    queries.check_labelled(QUERIES)
}
