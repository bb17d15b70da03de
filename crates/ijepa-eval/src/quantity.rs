//! How well are quantities read from the features, in their own units?
//!
//! R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)² with ȳ the mean of the judged rows, as scikit-learn's `r2_score`: 1 is perfect, 0 no better than
//! that mean. The mean absolute error stands beside that of the training rows' mean, which knows nothing of the features.

use crate::metrics::Estimate;
use crate::ridge::{self, Fit, Ridge};
use crate::{EvalError, Features};

/// How well one output is predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// R², with the error that the mean of (y − ŷ)² leaves; where the judged targets are all the same, 1 if they are met and 0 if not.
    pub r_squared: Estimate,
    /// Mean of |y − ŷ|.
    pub absolute_error: Estimate,
    /// Mean of |y − mean of the training targets|.
    pub baseline: Estimate,
}

/// A regression and how it does on rows that it has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The regression.
    pub fit: Fit,
    /// (n, outputs).
    pub predictions: Vec<f32>,
    /// (outputs).
    pub outputs: Vec<Quality>,
}

/// Fits `targets` (n, outputs) of the training rows by [`ridge::regress`] and judges on the queries, whose targets are
/// `expected` (m, outputs).
///
/// # Errors
/// Features or targets that cannot be used, fewer than ten training rows, a setting that cannot be met.
pub fn evaluate(
    train: &Features,
    targets: &[f32],
    queries: &Features,
    expected: &[f32],
    outputs: usize,
    ridge: &Ridge,
) -> Result<Judged, EvalError> {
    if expected.len() != queries.rows * outputs {
        let (what, expected, got) = ("targets of the queries", queries.rows * outputs, expected.len());
        return Err(EvalError::Length { what, expected, got });
    }
    if let Some(at) = expected.iter().position(|target| !target.is_finite()) {
        let (row, column, value) = (at / outputs, at % outputs, expected[at]);
        return Err(EvalError::NotFinite { what: "targets of the queries", row, column, value });
    }
    let fit = ridge::regress(train, targets, outputs, ridge)?;
    let predictions = fit.model.scores(queries)?;
    let qualities = (0..outputs).map(|out| {
        let column = |values: &[f32]| -> Vec<f64> {
            values.iter().skip(out).step_by(outputs).map(|&value| f64::from(value)).collect()
        };
        quality(&column(&predictions), &column(expected), mean(&column(targets)))
    });
    let outputs = qualities.collect();
    Ok(Judged { fit, predictions, outputs })
}

/// Of predictions and targets (n) of one output; `known` is the mean of the training targets.
fn quality(predicted: &[f64], expected: &[f64], known: f64) -> Quality {
    let centre = mean(expected);
    let left = Estimate::of(predicted.iter().zip(expected).map(|(p, e)| (p - e) * (p - e)));
    let all = Estimate::of(expected.iter().map(|e| (e - centre) * (e - centre))).value;
    let (value, standard_error) = match (left.value > 0.0, all > 0.0) {
        (_, true) => (1.0 - left.value / all, left.standard_error / all),
        (true, false) => (0.0, 0.0),
        (false, false) => (1.0, 0.0),
    };
    let r_squared = Estimate { value, standard_error };
    let absolute_error = Estimate::of(predicted.iter().zip(expected).map(|(p, e)| (p - e).abs()));
    let baseline = Estimate::of(expected.iter().map(|e| (known - e).abs()));
    Quality { r_squared, absolute_error, baseline }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
