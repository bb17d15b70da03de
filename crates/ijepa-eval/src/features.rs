//! What is judged: one row a picture, with the class of each row where it is known.

use crate::EvalError;
use ijepa_tensor::Values;
use rayon::prelude::*;
use std::ops::Range;

/// A feature matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Number of rows, n.
    pub rows: usize,
    /// Length of a row, d.
    pub width: usize,
    /// (n, d), row after row, in memory or in a file.
    pub values: Values,
    /// (n) classes from 0, or empty where they are not known.
    pub labels: Vec<u32>,
}

impl Features {
    /// The values of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// out (rows, l) = some columns of the named rows, whatever it held before.
    pub(crate) fn gather(&self, out: &mut Vec<f32>, rows: &[u32], columns: Range<usize>) {
        const PIECE: usize = 64;
        let width = columns.len();
        out.resize(rows.len() * width, 0.0);
        out.par_chunks_mut(PIECE * width).zip(rows.par_chunks(PIECE)).for_each(|(out, rows)| {
            for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
                out.copy_from_slice(&self.row(row as usize)[columns.clone()]);
            }
        });
    }

    /// Number of classes: the largest label and one; 0 without labels.
    pub fn classes(&self) -> usize {
        self.labels.iter().max().map_or(0, |&label| label as usize + 1)
    }

    /// Refuses a matrix that is empty, of another size than it says, or not finite; `what` names it in the message.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::Values`] or [`EvalError::NotFinite`] with the first such row.
    pub fn check(&self, what: &'static str) -> Result<(), EvalError> {
        let Features { rows, width, ref values, .. } = *self;
        if rows == 0 || width == 0 {
            return Err(EvalError::Empty { what, rows, width });
        }
        if rows.checked_mul(width) != Some(values.len()) {
            return Err(EvalError::Values { what, rows, width, values: values.len() });
        }
        let is_broken = |row: &[f32]| row.iter().any(|value| !value.is_finite());
        let Some(row) = values.par_chunks_exact(width).position_first(is_broken) else {
            return Ok(());
        };
        let column = self.row(row).iter().position(|value| !value.is_finite()).expect("a broken value in this row");
        Err(EvalError::NotFinite { what, row, column, value: self.row(row)[column] })
    }

    /// As [`Features::check`], and every row must have a label.
    ///
    /// # Errors
    /// Those of [`Features::check`], or [`EvalError::Labels`].
    pub fn check_labelled(&self, what: &'static str) -> Result<(), EvalError> {
        self.check(what)?;
        if self.labels.len() != self.rows {
            return Err(EvalError::Labels { what, rows: self.rows, labels: self.labels.len() });
        }
        Ok(())
    }
}

/// The names of the two matrices in messages.
pub(crate) const TRAIN: &str = "training features";
/// See [`TRAIN`].
pub(crate) const QUERIES: &str = "query features";

/// Refuses queries that cannot be compared with the training rows.
pub(crate) fn check_pair(train: &Features, queries: &Features) -> Result<(), EvalError> {
    train.check(TRAIN)?;
    queries.check(QUERIES)?;
    if train.width != queries.width {
        return Err(EvalError::Width { train: train.width, queries: queries.width });
    }
    Ok(())
}

/// Refuses training rows that a classifier cannot learn from; returns the number of classes.
pub(crate) fn check_classes(train: &Features) -> Result<usize, EvalError> {
    train.check_labelled(TRAIN)?;
    let class = train.labels[0];
    if train.labels.iter().all(|&label| label == class) {
        return Err(EvalError::OneClass { rows: train.rows, class });
    }
    Ok(train.classes())
}
