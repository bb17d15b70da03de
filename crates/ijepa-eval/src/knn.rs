//! What are the neighbours of a row, and what class do they vote for?
//!
//! Similarity is the cosine. A neighbour's vote weighs exp(similarity / T), as in DINO (Caron et al. 2021, after Wu et al.
//! 2018), with T = 0.07. Nothing is fitted, so kNN says what the features hold without any help.
//!
//! Similarities are products of a block of queries with a block of training rows, divided by the norms afterwards; neither
//! matrix is copied. Most of them are below the worst that a query has kept, and sixteen at a time are passed over; the others
//! are collected until there are twice as many as are wanted. Cost: 2·n·m·d FLOP for m queries.

use crate::features::{check_classes, check_pair};
use crate::{EvalError, Features};
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use rayon::prelude::*;
use std::cmp::Ordering;

/// How neighbours vote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knn {
    /// Number of neighbours; more than there are training rows means all.
    pub k: usize,
    /// T, above 0: small values let the nearest decide; with infinity every neighbour has one vote.
    pub temperature: f32,
}

/// A training row near a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Row in the training features.
    pub row: usize,
    /// Cosine of the two rows, −1 to 1; 0 when either is zero.
    pub similarity: f32,
}

/// (m) the class that wins the vote for each query; of equal votes the lower class.
///
/// # Errors
/// Features that cannot be compared, missing labels of the training rows, a single class, or a setting out of range.
pub fn predict(train: &Features, queries: &Features, knn: Knn) -> Result<Vec<u32>, EvalError> {
    check_classes(train)?;
    vote(&nearest(train, queries, knn.k)?, &train.labels, knn)
}

/// As [`predict`] for several votes, from one search.
///
/// # Errors
/// As [`predict`], or no vote at all.
pub fn sweep(train: &Features, queries: &Features, votes: &[Knn]) -> Result<Vec<Vec<u32>>, EvalError> {
    check_classes(train)?;
    let Some(largest) = votes.iter().map(|knn| knn.k).max() else {
        return Err(EvalError::Setting { setting: "number of votes", value: 0.0, expected: "at least one" });
    };
    let nearest = nearest(train, queries, largest)?;
    votes.iter().map(|&knn| vote(&nearest, &train.labels, knn)).collect()
}

/// The k nearest training rows of each query, nearest first; of equally near ones the lower row.
///
/// Needs no labels. Ask once for the largest k and [`vote`] with each smaller one.
///
/// # Errors
/// Features that cannot be compared, or k = 0.
pub fn nearest(train: &Features, queries: &Features, k: usize) -> Result<Vec<Vec<Neighbour>>, EvalError> {
    check_pair(train, queries)?;
    if k == 0 {
        return Err(EvalError::Setting { setting: "k", value: 0.0, expected: "at least 1" });
    }
    let k = k.min(train.rows);
    let train_scale = inverse_norms(train);
    let query_scale = inverse_norms(queries);
    let width = train.width;
    let mut nearest = vec![Best { held: Vec::new(), worst: f32::NEG_INFINITY }; queries.rows];
    let mut block = vec![0.0; QUERY_ROWS.min(queries.rows) * TRAIN_ROWS.min(train.rows)];
    for (first_query, nearest) in (0..).step_by(QUERY_ROWS).zip(nearest.chunks_mut(QUERY_ROWS)) {
        let m = nearest.len();
        let query_values = &queries.values[first_query * width..(first_query + m) * width];
        for first in (0..train.rows).step_by(TRAIN_ROWS) {
            let n = TRAIN_ROWS.min(train.rows - first);
            let train_values = &train.values[first * width..(first + n) * width];
            let products = &mut block[..m * n]; // (queries, training rows)
            let shape = Gemm { m, n, k: width, a: Layout::Plain, b: Layout::Transposed, accumulate: false };
            gemm(products, query_values, train_values, shape);
            let scales = &train_scale[first..first + n];
            let found = nearest.par_iter_mut().zip(products.par_chunks_exact(n)).zip(&query_scale[first_query..]);
            found.for_each(|((best, products), &scale)| best.offer(products, scales, scale, first, k));
        }
    }
    nearest.par_iter_mut().for_each(|best| {
        best.keep(k);
        best.held.sort_unstable_by(order);
    });
    Ok(nearest.into_iter().map(|best| best.held).collect())
}

/// (m) the class that wins the vote of the first k neighbours of each query; of equal votes the lower class.
///
/// # Errors
/// k = 0, a temperature that is not positive, or a neighbour without a label.
pub fn vote(nearest: &[Vec<Neighbour>], labels: &[u32], knn: Knn) -> Result<Vec<u32>, EvalError> {
    let Knn { k, temperature } = knn;
    if k == 0 {
        return Err(EvalError::Setting { setting: "k", value: 0.0, expected: "at least 1" });
    }
    if temperature.is_nan() || temperature <= 0.0 {
        let value = f64::from(temperature);
        return Err(EvalError::Setting { setting: "temperature", value, expected: "a positive number" });
    }
    let needed = nearest.iter().flatten().map(|neighbour| neighbour.row + 1).max().unwrap_or(0);
    if labels.len() < needed {
        return Err(EvalError::Length { what: "labels of the training rows", expected: needed, got: labels.len() });
    }
    let classes = labels.iter().max().map_or(1, |&label| label as usize + 1);
    let vote = |neighbours: &Vec<Neighbour>| {
        let mut votes = vec![0.0f64; classes];
        // Weights relative to the nearest cannot overflow, whatever the temperature.
        let top = neighbours.first().map_or(0.0, |nearest| f64::from(nearest.similarity));
        for neighbour in neighbours.iter().take(k) {
            let weight = ((f64::from(neighbour.similarity) - top) / f64::from(temperature)).exp();
            votes[labels[neighbour.row] as usize] += weight;
        }
        let mut winner = 0;
        for class in 1..classes {
            if votes[class] > votes[winner] {
                winner = class;
            }
        }
        winner as u32
    };
    Ok(nearest.par_iter().map(vote).collect())
}

/// Queries and training rows of one product: long enough that packing both costs little, and their products (16 MiB) stay
/// in a third-level cache.
const QUERY_ROWS: usize = 2048;
/// See [`QUERY_ROWS`].
const TRAIN_ROWS: usize = 2048;
/// Similarities that are compared at a time.
const LANES: usize = 16;

/// The rows that may be among the k nearest of a query.
#[derive(Debug, Clone)]
struct Best {
    /// All that are nearer than `worst`, and that one itself, in no order.
    held: Vec<Neighbour>,
    /// A similarity that k held rows reach; −∞ before there are as many.
    worst: f32,
}

impl Best {
    /// Looks at the rows from `first`: their products with the query, and what both are to be scaled by.
    fn offer(&mut self, products: &[f32], scales: &[f32], scale: f32, first: usize, k: usize) {
        let (products, last_products) = products.as_chunks::<LANES>();
        let (scales, last_scales) = scales.as_chunks::<LANES>();
        for (piece, (products, scales)) in products.iter().zip(scales).enumerate() {
            let similarities = std::array::from_fn(|lane| products[lane] * scales[lane] * scale);
            self.collect(similarities, first + piece * LANES, k);
        }
        let mut similarities = [f32::NEG_INFINITY; LANES]; // never collected
        for ((similarity, product), own) in similarities.iter_mut().zip(last_products).zip(last_scales) {
            *similarity = product * own * scale;
        }
        self.collect(similarities, first + products.len() * LANES, k);
    }

    /// Holds those that are nearer than the worst. Rows come in ascending order, so one that is as near comes after it.
    #[inline]
    fn collect(&mut self, similarities: [f32; LANES], first: usize, k: usize) {
        if !similarities.iter().fold(false, |any, &similarity| any | (similarity > self.worst)) {
            return;
        }
        for (lane, &similarity) in similarities.iter().enumerate() {
            if similarity > self.worst {
                self.held.push(Neighbour { row: first + lane, similarity });
            }
        }
        if self.held.len() >= 2 * k + LANES {
            self.keep(k);
        }
    }

    /// Drops all but the k nearest.
    fn keep(&mut self, k: usize) {
        if self.held.len() > k {
            let (_, worst, _) = self.held.select_nth_unstable_by(k - 1, order);
            self.worst = worst.similarity;
            self.held.truncate(k);
        }
    }
}

/// Nearest first, of equally near ones the lower row.
fn order(a: &Neighbour, b: &Neighbour) -> Ordering {
    b.similarity.partial_cmp(&a.similarity).unwrap_or(Ordering::Equal).then(a.row.cmp(&b.row))
}

/// (n) 1 / ‖row‖, 0 for a zero row.
fn inverse_norms(features: &Features) -> Vec<f32> {
    let norm = |row: &[f32]| row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    let inverse = |row: &[f32]| match norm(row) {
        0.0 => 0.0,
        norm => (1.0 / norm) as f32,
    };
    features.values.par_chunks_exact(features.width).map(inverse).collect()
}
