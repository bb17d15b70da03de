//! What does least squares make of the features? A closed form for quick comparisons and for quantities.
//!
//! Minimised over W (o, d), with x̃ standardised features and y targets less their mean:
//!
//!   ‖X̃Wᵀ − Y‖² + n λ ‖W‖²
//!
//! For d ≤ n the normal equations (X̃ᵀX̃ + nλI) Wᵀ = X̃ᵀY are solved, for d > n the kernel equations (X̃X̃ᵀ + nλI) A = Y with
//! W = AᵀX̃, both by Cholesky in single precision: cost min(n, d)²·max(n, d) + min(n, d)³/3 for each λ. Rounding asks for λ above
//! about 10⁻⁷ of the largest eigenvalue of X̃ᵀX̃/n.
//!
//! λ is chosen on a held-out tenth of the training rows (centred and standardised with the statistics of all), then the
//! model is fitted on all rows. The kernel of the other nine tenths is the leading part of the kernel of all, so it is
//! computed once.

use crate::affine::{Affine, check_probe};
use crate::curvature::{add_gram, all, for_blocks, gram, kernel};
use crate::draws::{HeldOut, held_out};
use crate::features::{TRAIN, check_classes};
use crate::linear::descending;
use crate::lower::Lower;
use crate::metrics::{Estimate, accuracy, largest};
use crate::standard::Standard;
use crate::{EvalError, Features};
use ijepa_tensor::gemm::{Gemm, Layout, gemm};

/// Penalties relative to the mean eigenvalue of the standardised features, which is 1.
pub const LAMBDAS: [f64; 7] = [100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4];

/// How least squares is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    /// Penalties to choose from, in any order, all positive; with a single one nothing is held out.
    pub lambdas: Vec<f64>,
    /// Keys the held-out rows.
    pub seed: u64,
}

impl Ridge {
    /// The protocol of this program: [`LAMBDAS`].
    pub fn standard(seed: u64) -> Ridge {
        Ridge { lambdas: LAMBDAS.to_vec(), seed }
    }
}

/// A fitted linear map.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Its scores are the predicted targets.
    pub model: Affine,
    /// The penalty chosen.
    pub lambda: f64,
    /// Penalty and score on the held-out rows, from the largest penalty down: accuracy of a classifier, minus the share
    /// of the targets' variance that a regression leaves, averaged over outputs. Empty for a single penalty.
    pub trials: Vec<(f64, f64)>,
}

/// A classifier and how it does on rows that it has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The classifier.
    pub fit: Fit,
    /// (n) predicted class of each query.
    pub predictions: Vec<u32>,
    /// Share of queries that are right.
    pub accuracy: Estimate,
}

/// Fits one target a class, 1 for the own and 0 for the others, and predicts the class with the largest.
///
/// # Errors
/// Features or labels that cannot be used, fewer than ten training rows, a setting that cannot be met.
pub fn classify(train: &Features, queries: &Features, ridge: &Ridge) -> Result<Judged, EvalError> {
    check_probe(train, queries)?;
    let classes = check_classes(train)?;
    let mut targets = vec![0.0; train.rows * classes]; // (n, c)
    for (row, &label) in targets.chunks_exact_mut(classes).zip(&train.labels) {
        row[label as usize] = 1.0;
    }
    let score = |predicted: &[f32], rows: &[u32]| {
        let right =
            largest(predicted, classes).iter().zip(rows).filter(|(p, r)| **p == train.labels[**r as usize]).count();
        right as f64 / rows.len() as f64
    };
    let fit = fit(train, &targets, classes, ridge, score)?;
    let predictions = fit.model.predict(queries)?;
    let accuracy = accuracy(&predictions, &queries.labels)?;
    Ok(Judged { fit, predictions, accuracy })
}

/// Fits quantities: `targets` (n, outputs).
///
/// # Errors
/// Features or targets that cannot be used, fewer than ten training rows, a setting that cannot be met.
pub fn regress(train: &Features, targets: &[f32], outputs: usize, ridge: &Ridge) -> Result<Fit, EvalError> {
    train.check(TRAIN)?;
    if targets.len() != train.rows * outputs || outputs == 0 {
        return Err(EvalError::Length { what: "targets", expected: train.rows * outputs.max(1), got: targets.len() });
    }
    if let Some(at) = targets.iter().position(|target| !target.is_finite()) {
        let (row, column, value) = (at / outputs, at % outputs, targets[at]);
        return Err(EvalError::NotFinite { what: "targets", row, column, value });
    }
    // Squared errors are weighed by each output's variance, so that units do not matter.
    let variances: Vec<f64> = (0..outputs).map(|out| variance(targets, outputs, out)).collect();
    let score = |predicted: &[f32], rows: &[u32]| {
        let mut squares = 0.0;
        for (predicted, &row) in predicted.chunks_exact(outputs).zip(rows) {
            let expected = &targets[row as usize * outputs..][..outputs];
            for ((p, t), variance) in predicted.iter().zip(expected).zip(&variances) {
                squares += f64::from(p - t) * f64::from(p - t) / variance;
            }
        }
        -squares / predicted.len() as f64
    };
    fit(train, targets, outputs, ridge, score)
}

/// Variance (with 1/n) of one column of targets (n, outputs); 1 where they are all the same.
fn variance(targets: &[f32], outputs: usize, out: usize) -> f64 {
    let column = || targets.iter().skip(out).step_by(outputs).map(|&target| f64::from(target));
    let count = (targets.len() / outputs) as f64;
    let mean = column().sum::<f64>() / count;
    let variance = column().map(|target| (target - mean) * (target - mean)).sum::<f64>() / count;
    if variance > 0.0 { variance } else { 1.0 }
}

/// Mean squared error of a regression's predictions over the rows, summed over outputs.
///
/// # Errors
/// Lists of different lengths, no rows.
pub fn squared_error(predicted: &[f32], targets: &[f32], outputs: usize) -> Result<Estimate, EvalError> {
    if targets.is_empty() || outputs == 0 {
        return Err(EvalError::Empty { what: "targets", rows: targets.len(), width: outputs });
    }
    if predicted.len() != targets.len() {
        return Err(EvalError::Length { what: "predictions", expected: targets.len(), got: predicted.len() });
    }
    let row = |(p, t): (&[f32], &[f32])| p.iter().zip(t).map(|(p, t)| f64::from(p - t) * f64::from(p - t)).sum();
    Ok(Estimate::of(predicted.chunks_exact(outputs).zip(targets.chunks_exact(outputs)).map(row)))
}

fn fit(
    train: &Features,
    targets: &[f32],
    outputs: usize,
    ridge: &Ridge,
    score: impl Fn(&[f32], &[u32]) -> f64,
) -> Result<Fit, EvalError> {
    let lambdas = descending(&ridge.lambdas)?;
    let standard = Standard::of(train);
    let system = System { train, standard: &standard, targets, outputs };
    if let [lambda] = lambdas[..] {
        let rows = all(train);
        let model = system.solve(&system.moments(&rows), &rows, lambda)?;
        return Ok(Fit { model, lambda, trials: Vec::new() });
    }
    let HeldOut { fit, held } = held_out(&train.labels, train.rows, ridge.seed)?;
    let rows = [fit.clone(), held.clone()].concat();
    // Moments of the fitted rows, and what turns them into those of all.
    let (fitted, whole) = if system.is_kernel() {
        let whole = system.moments(&rows);
        (whole.leading(fit.len()), Some(whole))
    } else {
        (system.moments(&fit), None)
    };
    let mut trials = Vec::new();
    let (mut best, mut lambda) = (f64::NEG_INFINITY, lambdas[0]);
    for &candidate in &lambdas {
        let model = system.solve(&fitted, &fit, candidate)?;
        let reached = score(&model.scores_of(train, &held), &held);
        if reached > best {
            (best, lambda) = (reached, candidate);
        }
        trials.push((candidate, reached));
    }
    let whole = whole.unwrap_or_else(|| {
        let mut whole = fitted;
        add_gram(&mut whole, train, &standard, &held);
        whole
    });
    Ok(Fit { model: system.solve(&whole, &rows, lambda)?, lambda, trials })
}

/// Features and what they should predict.
struct System<'a> {
    train: &'a Features,
    standard: &'a Standard,
    targets: &'a [f32], // (n, outputs)
    outputs: usize,
}

impl System<'_> {
    fn is_kernel(&self) -> bool {
        self.train.width > self.train.rows
    }

    /// X̃ᵀX̃ (d, d) or X̃X̃ᵀ (rows, rows), whichever is smaller for all rows.
    fn moments(&self, rows: &[u32]) -> Lower {
        if self.is_kernel() { kernel(self.train, self.standard, rows) } else { gram(self.train, self.standard, rows) }
    }

    /// The map at a penalty, from the moments of the same rows.
    fn solve(&self, moments: &Lower, rows: &[u32], lambda: f64) -> Result<Affine, EvalError> {
        let System { train, standard, targets, outputs } = *self;
        let (count, width) = (rows.len(), train.width);
        let mut bias = vec![0.0f64; outputs];
        for &row in rows {
            let target = &targets[row as usize * outputs..][..outputs];
            bias.iter_mut().zip(target).for_each(|(sum, &target)| *sum += f64::from(target) / count as f64);
        }
        let bias: Vec<f32> = bias.iter().map(|&mean| mean as f32).collect();
        let centred = |out: usize, row: u32| targets[row as usize * outputs + out] - bias[out];
        let mut shifted = moments.clone();
        shifted.scale_and_shift(1.0, lambda * count as f64);
        let factor = shifted.factor().ok_or(EvalError::Singular { lambda })?;
        let mut right = vec![0.0; outputs * count]; // (o, rows) Yᵀ
        for (out, right) in right.chunks_exact_mut(count).enumerate() {
            right.iter_mut().zip(rows).for_each(|(right, &row)| *right = centred(out, row));
        }
        if self.is_kernel() {
            factor.solve(&mut right);
        }
        // Yᵀ·X̃ or Aᵀ·X̃, (o, d), a block of rows at a time.
        let mut weights = vec![0.0; outputs * width];
        let mut done = 0;
        for_blocks(train, standard, rows, |block, here| {
            let mut part = Vec::with_capacity(outputs * here); // (o, rows of the block)
            for right in right.chunks_exact(count) {
                part.extend_from_slice(&right[done..done + here]);
            }
            let shape = Gemm { m: outputs, n: width, k: here, a: Layout::Plain, b: Layout::Plain, accumulate: true };
            gemm(&mut weights, &part, block, shape);
            done += here;
        });
        if !self.is_kernel() {
            factor.solve(&mut weights);
        }
        Ok(Affine { standard: standard.clone(), outputs, weights, bias })
    }
}
