//! How good is a list of predictions, how sure is that, and how wide are the features?
//!
//! An accuracy p of n independent rows has the standard error √(p(1−p)/n). Two methods judged on the same rows are compared
//! by the difference of each row (right or wrong), whose error is much smaller than that of two separate accuracies when
//! the methods tend to be wrong on the same rows.

use crate::spectrum::{Centre, entropy_rank, singular_values};
use crate::standard::columns;
use crate::{EvalError, Features};
use rayon::prelude::*;

/// A mean over rows and how far it may be off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// One standard error of it.
    pub standard_error: f64,
}

impl Estimate {
    /// The mean of n independent numbers and s/√n, with s² their variance by 1/n; zeros for none.
    pub fn of(numbers: impl Iterator<Item = f64> + Clone) -> Estimate {
        let count = numbers.clone().count().max(1) as f64;
        let value = numbers.clone().sum::<f64>() / count;
        let variance = numbers.map(|number| (number - value) * (number - value)).sum::<f64>() / count;
        Estimate { value, standard_error: (variance / count).sqrt() }
    }
}

/// Share of predictions that are right.
///
/// # Errors
/// No rows, or lists of different lengths.
pub fn accuracy(predictions: &[u32], labels: &[u32]) -> Result<Estimate, EvalError> {
    same_length("predictions", predictions.len(), labels.len())?;
    Ok(Estimate::of(predictions.iter().zip(labels).map(|(prediction, label)| right(prediction, label))))
}

/// Accuracy of `a` less accuracy of `b` on the same rows, with the error of the paired difference.
///
/// # Errors
/// No rows, or lists of different lengths.
pub fn difference(a: &[u32], b: &[u32], labels: &[u32]) -> Result<Estimate, EvalError> {
    same_length("predictions of the first method", a.len(), labels.len())?;
    same_length("predictions of the second method", b.len(), labels.len())?;
    let pairs = a.iter().zip(b).zip(labels);
    Ok(Estimate::of(pairs.map(|((a, b), label)| right(a, label) - right(b, label))))
}

/// Share of rows whose class is among the k largest of their scores (n, c); equal scores count for the lower class.
///
/// # Errors
/// No rows, k or c = 0, or a length that does not fit.
pub fn top_k(scores: &[f32], classes: usize, labels: &[u32], k: usize) -> Result<Estimate, EvalError> {
    if k == 0 || classes == 0 {
        let setting = if k == 0 { "k" } else { "number of classes" };
        return Err(EvalError::Setting { setting, value: 0.0, expected: "at least 1" });
    }
    same_length("scores", scores.len(), labels.len() * classes)?;
    let hits = scores.chunks_exact(classes).zip(labels).map(|(scores, &label)| {
        let Some(&own) = scores.get(label as usize) else {
            return 0.0;
        };
        let before = |(class, &score): (usize, &f32)| score > own || (score == own && class < label as usize);
        f64::from(u8::from(scores.iter().enumerate().filter(|&item| before(item)).count() < k))
    });
    Ok(Estimate::of(hits))
}

/// (c, c) how many rows of each class (row) were given each class (column); c is the largest of either and one.
///
/// # Errors
/// No rows, or lists of different lengths.
pub fn confusion(predictions: &[u32], labels: &[u32]) -> Result<Vec<Vec<u64>>, EvalError> {
    same_length("predictions", predictions.len(), labels.len())?;
    let classes = predictions.iter().chain(labels).max().map_or(0, |&class| class as usize + 1);
    let mut counts = vec![vec![0; classes]; classes];
    for (&prediction, &label) in predictions.iter().zip(labels) {
        counts[label as usize][prediction as usize] += 1;
    }
    Ok(counts)
}

/// (n) the column of the largest score of each row of (n, c), the first of equals.
pub fn largest(scores: &[f32], classes: usize) -> Vec<u32> {
    let largest = |scores: &[f32]| {
        let mut best = 0;
        for class in 1..scores.len() {
            if scores[class] > scores[best] {
                best = class;
            }
        }
        best as u32
    };
    scores.par_chunks_exact(classes).map(largest).collect()
}

/// Mean over the columns of their standard deviation; 0 when every picture has the same feature.
///
/// # Errors
/// Features that are empty or not finite.
pub fn spread(features: &Features) -> Result<f64, EvalError> {
    features.check("features")?;
    let (_, deviation) = columns(features);
    Ok(deviation.iter().sum::<f64>() / deviation.len() as f64)
}

/// RankMe (Garrido et al. 2023): exp of the entropy of the singular values of the features, from 1 to min(n, d); their shares
/// are each raised by ε = 10⁻⁷, as there.
///
/// The features are taken as they are, so a common offset counts as a direction; see [`effective_rank`].
/// Cost: min(n, d)² · max(n, d); some thousand rows are enough, the authors use 25,600.
///
/// # Errors
/// Features that are empty or not finite.
pub fn rank_me(features: &Features) -> Result<f64, EvalError> {
    Ok(entropy_rank(&singular_values(features, Centre::Nothing)?, 1e-7))
}

/// As [`rank_me`] after the mean has been taken off: the effective rank (Roy & Vetterli 2007) of what varies between
/// pictures; 0 when nothing does.
///
/// # Errors
/// Features that are empty or not finite.
pub fn effective_rank(features: &Features) -> Result<f64, EvalError> {
    Ok(entropy_rank(&singular_values(features, Centre::Mean)?, 0.0))
}

fn right(prediction: &u32, label: &u32) -> f64 {
    f64::from(u8::from(prediction == label))
}

fn same_length(what: &'static str, got: usize, expected: usize) -> Result<(), EvalError> {
    if expected == 0 {
        return Err(EvalError::Empty { what: "labels", rows: 0, width: 1 });
    }
    if got != expected {
        return Err(EvalError::Length { what, expected, got });
    }
    Ok(())
}
