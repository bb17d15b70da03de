//! Can a hyperplane tell the classes apart? Multinomial logistic regression on frozen features.
//!
//! Minimised over W (c, d) and b (c), with x̃ the features standardised by the statistics of the training rows (or as
//! [`Rows`] says):
//!
//!   f = 1/n Σᵢ −log softmax(W x̃ᵢ + b)[yᵢ] + λ/2 ‖W‖²         (biases are not penalised)
//!   ∂f/∂W = 1/n Σᵢ (pᵢ − onehot(yᵢ)) x̃ᵢᵀ + λ W,   ∂f/∂b = 1/n Σᵢ (pᵢ − onehot(yᵢ))
//!
//! λ is scikit-learn's 1/(C·n). The problem is convex, so the answer does not depend on the way to it, unlike probes
//! trained with SGD. It is solved over all rows at once by preconditioned L-BFGS. One evaluation reads the features once:
//! a block of rows is standardised, scored and turned into its share of the gradient while it is in cache; the features
//! are never copied as a whole. Cost of an evaluation: 4·n·d·c FLOP.
//!
//! λ is chosen by the accuracy on a held-out tenth of the training rows (of equals the larger λ), solving from the largest
//! λ to the smallest, each started at the last solution; then the model is fitted again on all rows. Small λ take the most
//! iterations, so the search ends when two in a row were worse than the best by more than a standard error.

use crate::affine::{Affine, block_rows, check_probe};
use crate::curvature::{Curvature, all};
use crate::draws::{HeldOut, held_out};
use crate::features::check_classes;
use crate::lbfgs::{Limits, minimise};
use crate::metrics::{Estimate, accuracy, largest};
use crate::standard::{PIECES, Standard};
use crate::{EvalError, Features};
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use rayon::prelude::*;

/// What x̃ is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every column less its mean, over its deviation, both of the training rows.
    Standardised,
    /// Every row less its own mean, over its own length.
    Unit,
}

/// Penalties from nearly nothing learnt to nearly free.
pub const LAMBDAS: [f64; 7] = [10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// How a logistic probe is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// Penalties to choose from, in any order, all positive; with a single one nothing is held out.
    pub lambdas: Vec<f64>,
    /// How features are prepared.
    pub rows: Rows,
    /// Whether there is a bias; without, b = 0.
    pub intercept: bool,
    /// Keys the held-out rows.
    pub seed: u64,
    /// Iterations of L-BFGS for each penalty at most.
    pub iterations: usize,
    /// Expected gain in nats a row at which a fit is done.
    pub tolerance: f64,
}

impl Logistic {
    /// The protocol of this program: [`LAMBDAS`], 200 iterations, 10⁻⁷ nats.
    pub fn standard(seed: u64) -> Logistic {
        let (rows, intercept) = (Rows::Standardised, true);
        Logistic { lambdas: LAMBDAS.to_vec(), rows, intercept, seed, iterations: 200, tolerance: 1e-7 }
    }

    /// What MSN fits to 1 % of ImageNet's labels (`logistic_eval.py`), for n training rows: cyanure's multinomial logistic loss
    /// with λ = `strength`/n, on rows that `cyanure.preprocess(normalize=True, columns=False, centering=True)` has
    /// centred and brought to length 1 each by itself, without intercept. MSN's README says 0.0025, its code 0.00025 unless told.
    ///
    /// The same minimum is found to a smaller gap than cyanure's 10⁻³.
    pub fn msn(strength: f64, n: usize) -> Logistic {
        let lambdas = vec![strength / n as f64];
        Logistic { lambdas, rows: Rows::Unit, intercept: false, seed: 0, iterations: 500, tolerance: 1e-7 }
    }
}

/// One penalty on the held-out rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// The penalty.
    pub lambda: f64,
    /// Its accuracy on the held-out rows, a fraction.
    pub accuracy: f64,
    /// Iterations that its fit took.
    pub iterations: usize,
}

/// A fitted classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Scores are unnormalised log-probabilities.
    pub model: Affine,
    /// The penalty chosen.
    pub lambda: f64,
    /// What was tried on held-out rows, from the largest penalty to the smallest; empty for a single one.
    pub trials: Vec<Trial>,
    /// f at the solution, nats a row.
    pub loss: f64,
    /// Iterations of the last fit.
    pub iterations: usize,
    /// Whether the last fit met the tolerance.
    pub converged: bool,
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

/// Fits on the training rows and judges on the queries.
///
/// # Errors
/// Features or labels that cannot be used, fewer than ten training rows, a setting that cannot be met.
pub fn evaluate(train: &Features, queries: &Features, logistic: &Logistic) -> Result<Judged, EvalError> {
    check_probe(train, queries)?;
    let fit = fit(train, logistic)?;
    let predictions = fit.model.predict(queries)?;
    let accuracy = accuracy(&predictions, &queries.labels)?;
    Ok(Judged { fit, predictions, accuracy })
}

/// Fits on the training rows.
///
/// # Errors
/// As [`evaluate`].
pub fn fit(train: &Features, logistic: &Logistic) -> Result<Fit, EvalError> {
    let classes = check_classes(train)?;
    let lambdas = descending(&logistic.lambdas)?;
    if logistic.tolerance.is_nan() || logistic.tolerance <= 0.0 {
        let (setting, expected) = ("tolerance", "a positive number");
        return Err(EvalError::Setting { setting, value: logistic.tolerance, expected });
    }
    let standard = match logistic.rows {
        Rows::Standardised => Standard::of(train),
        Rows::Unit => Standard::unit(train.width),
    };
    let curvature = Curvature::of(train, &standard, logistic.seed);
    let mut trials = Vec::new();
    let mut start = vec![0.0; classes * (train.width + 1)];
    let mut lambda = lambdas[0];
    if lambdas.len() > 1 {
        let HeldOut { fit, held } = held_out(&train.labels, train.rows, logistic.seed)?;
        let held_labels: Vec<u32> = held.iter().map(|&row| train.labels[row as usize]).collect();
        let mut x = start.clone();
        let mut best = Estimate { value: f64::NEG_INFINITY, standard_error: 0.0 };
        let mut worse_in_a_row = 0;
        for &candidate in &lambdas {
            let problem = Problem { features: train, standard: &standard, rows: &fit, classes, lambda: candidate };
            let (_, iterations, _) = solve(&mut x, &problem, &curvature, logistic)?;
            let model = model(&x, &standard, classes);
            let predictions = largest(&model.scores_of(train, &held), classes);
            let reached = accuracy(&predictions, &held_labels)?;
            trials.push(Trial { lambda: candidate, accuracy: reached.value, iterations });
            if reached.value > best.value {
                (best, lambda) = (reached, candidate);
                start.copy_from_slice(&x);
            }
            let is_worse = reached.value < best.value - best.standard_error;
            worse_in_a_row = if is_worse { worse_in_a_row + 1 } else { 0 };
            if worse_in_a_row == 2 {
                break;
            }
        }
    }
    let problem = Problem { features: train, standard: &standard, rows: &all(train), classes, lambda };
    let (loss, iterations, converged) = solve(&mut start, &problem, &curvature, logistic)?;
    Ok(Fit { model: model(&start, &standard, classes), lambda, trials, loss, iterations, converged })
}

/// The penalties from the largest down, each once.
pub(crate) fn descending(lambdas: &[f64]) -> Result<Vec<f64>, EvalError> {
    if lambdas.is_empty() {
        return Err(EvalError::Setting { setting: "number of penalties", value: 0.0, expected: "at least one" });
    }
    if let Some(&value) = lambdas.iter().find(|lambda| !(lambda.is_finite() && **lambda > 0.0)) {
        return Err(EvalError::Setting { setting: "penalty", value, expected: "a positive number" });
    }
    let mut sorted = lambdas.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted.dedup();
    Ok(sorted)
}

/// A loss to minimise.
struct Problem<'a> {
    features: &'a Features,
    standard: &'a Standard,
    rows: &'a [u32],
    classes: usize,
    lambda: f64,
}

fn solve(
    x: &mut [f64],
    problem: &Problem<'_>,
    curvature: &Curvature,
    logistic: &Logistic,
) -> Result<(f64, usize, bool), EvalError> {
    let lambda = problem.lambda;
    let preconditioner = curvature.at(lambda, problem.classes).ok_or(EvalError::Singular { lambda })?;
    let limits = Limits { iterations: logistic.iterations, tolerance: logistic.tolerance };
    let weights = problem.classes * problem.features.width;
    let objective = |x: &[f64], gradient: &mut [f64]| {
        let value = loss(x, gradient, problem);
        if !logistic.intercept {
            gradient[weights..].fill(0.0); // biases stay where they began, at 0
        }
        value
    };
    let minimum = minimise(x, objective, |v, out| preconditioner.apply(v, out), limits);
    Ok((minimum.value, minimum.iterations, minimum.converged))
}

fn model(x: &[f64], standard: &Standard, classes: usize) -> Affine {
    let (weights, bias) = x.split_at(x.len() - classes);
    let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
    Affine { standard: standard.clone(), outputs: classes, weights: single(weights), bias: single(bias) }
}

/// f at x = W (c, d) then b (c), and its gradient in the same order.
fn loss(x: &[f64], gradient: &mut [f64], problem: &Problem<'_>) -> f64 {
    let Problem { features, classes, rows, lambda, .. } = *problem;
    let single: Vec<f32> = x.iter().map(|&value| value as f32).collect();
    let (weights, bias) = single.split_at(classes * features.width);
    let piece = rows.len().div_ceil(PIECES);
    let parts: Vec<Share> =
        rows.par_chunks(piece).map(|rows| share(weights, bias, &Problem { rows, ..*problem })).collect();
    let scale = 1.0 / rows.len() as f64;
    gradient.fill(0.0);
    let mut value = 0.0;
    for part in parts {
        value += part.loss * scale;
        let slopes = part.weights.iter().map(|&slope| f64::from(slope)).chain(part.bias);
        gradient.iter_mut().zip(slopes).for_each(|(gradient, slope)| *gradient += slope * scale);
    }
    let penalised = classes * features.width;
    for (gradient, x) in gradient[..penalised].iter_mut().zip(x) {
        value += 0.5 * lambda * x * x;
        *gradient += lambda * x;
    }
    value
}

/// Sums over some rows.
struct Share {
    loss: f64,
    weights: Vec<f32>, // (c, d)
    bias: Vec<f64>,    // (c)
}

fn share(weights: &[f32], bias: &[f32], problem: &Problem<'_>) -> Share {
    let Problem { features, standard, rows, classes, .. } = *problem;
    let width = features.width;
    let count = block_rows(width).min(rows.len());
    let mut block = vec![0.0; count * width]; // (rows, d)
    let mut scores = vec![0.0; count * classes]; // (rows, c) scores, then p − onehot(y)
    let mut share = Share { loss: 0.0, weights: vec![0.0; classes * width], bias: vec![0.0; classes] };
    for rows in rows.chunks(count) {
        let block = &mut block[..rows.len() * width];
        let scores = &mut scores[..rows.len() * classes];
        standard.rows(block, features, rows);
        for row in scores.chunks_exact_mut(classes) {
            row.copy_from_slice(bias);
        }
        let m = rows.len();
        let shape = Gemm { m, n: classes, k: width, a: Layout::Plain, b: Layout::Transposed, accumulate: true };
        gemm(scores, block, weights, shape);
        for (row, &image) in scores.chunks_exact_mut(classes).zip(rows) {
            share.loss += residual(row, features.labels[image as usize] as usize);
            share.bias.iter_mut().zip(&*row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let shape = Gemm { m: classes, n: width, k: m, a: Layout::Transposed, b: Layout::Plain, accumulate: true };
        gemm(&mut share.weights, scores, block, shape);
    }
    share
}

/// Turns the scores of a row into p − onehot(label); returns −log p[label].
fn residual(scores: &mut [f32], label: usize) -> f64 {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let own = f64::from(scores[label] - top);
    let mut sum = 0.0f64;
    for score in scores.iter_mut() {
        *score = (*score - top).exp();
        sum += f64::from(*score);
    }
    let scale = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|score| *score *= scale);
    scores[label] -= 1.0;
    sum.ln() - own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::signs;

    /// Random features with offsets and scales, and random labels.
    fn noise(rows: usize, width: usize, classes: u32) -> Features {
        let a = signs(rows, width, 1);
        let b = signs(rows, width, 2);
        let values = a.iter().zip(&b).enumerate().map(|(i, (a, b))| (a + 0.5 * b) * (1 + i % width) as f32 + 3.0);
        let bits = signs(rows, 8, 3);
        let labels = bits.chunks(8).map(|bits| bits.iter().filter(|&&bit| bit > 0.0).count() as u32 % classes);
        Features { rows, width, values: values.collect(), labels: labels.collect() }
    }

    #[test]
    fn the_gradient_is_the_derivative_of_the_loss() {
        let features = noise(90, 5, 3);
        let standard = Standard::of(&features);
        let rows = all(&features);
        let problem = Problem { features: &features, standard: &standard, rows: &rows, classes: 3, lambda: 0.3 };
        let x: Vec<f64> =
            signs(1, 18, 4).iter().zip(signs(1, 18, 5)).map(|(a, b)| f64::from(0.3 * a + 0.1 * b)).collect();
        let mut gradient = vec![0.0; 18];
        loss(&x, &mut gradient, &problem);
        for i in 0..18 {
            let at = |step: f64| {
                let mut moved = x.clone();
                moved[i] += step;
                loss(&moved, &mut [0.0; 18], &problem)
            };
            // Scores are in single precision: a wide step keeps their rounding below the third digit.
            let numeric = (at(0.01) - at(-0.01)) / 0.02;
            assert!((numeric - gradient[i]).abs() < 2e-4, "parameter {i}: {numeric} {}", gradient[i]);
        }
    }

    #[test]
    fn the_gradient_vanishes_at_the_solution() {
        let features = noise(300, 6, 4);
        let logistic = Logistic { lambdas: vec![1e-3], tolerance: 1e-10, ..Logistic::standard(0) };
        let fit = fit(&features, &logistic).expect("valid");
        assert!(fit.converged, "{fit:?}");
        let standard = Standard::of(&features);
        let rows = all(&features);
        let problem = Problem { features: &features, standard: &standard, rows: &rows, classes: 4, lambda: 1e-3 };
        let x: Vec<f64> = fit.model.weights.iter().chain(&fit.model.bias).map(|&value| f64::from(value)).collect();
        let mut gradient = vec![0.0; x.len()];
        loss(&x, &mut gradient, &problem);
        assert!(gradient.iter().all(|slope| slope.abs() < 3e-5), "{gradient:?}");
    }

    #[test]
    fn a_zero_model_loses_the_logarithm_of_the_number_of_classes() {
        let features = noise(64, 3, 4);
        let standard = Standard::of(&features);
        let rows = all(&features);
        let problem = Problem { features: &features, standard: &standard, rows: &rows, classes: 4, lambda: 1.0 };
        let value = loss(&[0.0; 16], &mut [0.0; 16], &problem);
        assert!((value - 4f64.ln()).abs() < 1e-6, "{value}");
    }
}
