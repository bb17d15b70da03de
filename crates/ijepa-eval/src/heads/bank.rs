//! How are many heads trained for little more than the work that they cannot share?
//!
//! The heads that see the same input, H of them, are one matrix V (H·c, d): forward is X·Vᵀ, backward Gᵀ·X, each one product.
//! A head with BatchNorm is folded into it: with x̂ the normalised input, which all of them share,
//!
//!   s = W·(γ⊙x̂ + β) + b = V·x̂ + a,   V = W⊙γ (by columns),   a = W·β + b
//!
//! and with dV = Gᵀ·X̂ and g = Gᵀ·1 its own gradients follow without another look at the rows:
//!
//!   ∂W = dV⊙γ + g·βᵀ,   ∂γ_j = Σ_c W_cj dV_cj,   ∂β_j = Σ_c W_cj g_c,   ∂b = g
//!
//! Without BatchNorm V = W and a = b. Features are frozen, so nothing flows further back.

use super::loss::{Sums, residuals};
use super::{Head, Optimiser};
use crate::lower::dot;
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use rayon::prelude::*;

/// Momentum of both optimisers, as everywhere in linear probing.
const MOMENTUM: f32 = 0.9;
/// Rows of one product: their scores stay in cache.
const ROWS: usize = 512;

/// Rate and weight decay of a head at a step.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) rate: f32,
    pub(super) decay: f32,
}

/// Heads on the same input.
pub(super) struct Bank {
    pub(super) width: usize,
    classes: usize,
    heads: Vec<(Head, Head)>, // parameters, momenta
    /// V (H·c, d).
    pub(super) folded: Vec<f32>,
    /// a (H·c).
    pub(super) folded_bias: Vec<f32>,
    slopes: Vec<f32>, // (H·c, d)
    scores: Vec<f32>, // (ROWS, H·c)
}

impl Bank {
    /// `count` equal heads.
    pub(super) fn new(count: usize, start: &Head, classes: usize) -> Bank {
        let width = start.weights.len() / classes;
        let rows = count * classes;
        let mut bank = Bank {
            width,
            classes,
            heads: vec![(start.clone(), start.zeros()); count],
            folded: vec![0.0; rows * width],
            folded_bias: vec![0.0; rows],
            slopes: vec![0.0; rows * width],
            scores: Vec::new(),
        };
        (0..count).for_each(|slot| bank.put(slot, start.clone()));
        bank
    }

    pub(super) fn head(&self, slot: usize) -> &Head {
        &self.heads[slot].0
    }

    /// Replaces a head; its momenta begin at zero.
    pub(super) fn put(&mut self, slot: usize, head: Head) {
        let (rows, width) = (slot * self.classes..(slot + 1) * self.classes, self.width);
        let folded = &mut self.folded[rows.start * width..rows.end * width];
        fold(&head, folded, &mut self.folded_bias[rows]);
        self.heads[slot] = (head.clone(), head.zeros());
    }

    /// One step of every head on `input` (rows, d); returns the mean loss of each.
    pub(super) fn step(
        &mut self,
        input: &[f32],
        labels: &[u32],
        optimiser: Optimiser,
        pace: impl Fn(usize) -> Pace + Sync,
    ) -> Vec<f64> {
        let sums = self.gradients(input, labels);
        let Bank { width, classes, .. } = *self;
        self.heads
            .par_iter_mut()
            .zip(self.slopes.par_chunks_exact_mut(classes * width))
            .zip(sums.columns.par_chunks_exact(classes))
            .zip(self.folded.par_chunks_exact_mut(classes * width))
            .zip(self.folded_bias.par_chunks_exact_mut(classes))
            .enumerate()
            .for_each(|(slot, (((((head, momenta), slopes), bias), folded), folded_bias))| {
                let slopes = unfold(head, slopes, bias);
                advance(head, momenta, slopes, optimiser, pace(slot));
                fold(head, folded, folded_bias);
            });
        sums.losses.iter().map(|loss| loss / labels.len() as f64).collect()
    }

    /// Fills `slopes` with Gᵀ·X of the mean loss; returns the losses of the rows and Gᵀ·1.
    fn gradients(&mut self, input: &[f32], labels: &[u32]) -> Sums {
        let Bank { width, classes, .. } = *self;
        let columns = self.folded_bias.len();
        let scale = 1.0 / labels.len() as f32;
        let mut sums = Sums::zeros(columns / classes, columns);
        self.scores.resize(ROWS.min(labels.len()) * columns, 0.0);
        for (chunk, labels) in labels.chunks(ROWS).enumerate() {
            let rows = labels.len();
            let input = &input[chunk * ROWS * width..][..rows * width];
            let scores = &mut self.scores[..rows * columns];
            let shape =
                Gemm { m: rows, n: columns, k: width, a: Layout::Plain, b: Layout::Transposed, accumulate: false };
            gemm(scores, input, &self.folded, shape);
            residuals(scores, &self.folded_bias, labels, classes, scale, &mut sums);
            let accumulate = chunk > 0;
            let shape = Gemm { m: columns, n: width, k: rows, a: Layout::Transposed, b: Layout::Plain, accumulate };
            gemm(&mut self.slopes, scores, input, shape);
        }
        sums
    }
}

/// Writes V (c, d) and a (c) of a head.
fn fold(head: &Head, folded: &mut [f32], folded_bias: &mut [f32]) {
    if head.scale.is_empty() {
        folded.copy_from_slice(&head.weights);
        folded_bias.copy_from_slice(&head.bias);
        return;
    }
    let width = head.scale.len();
    let rows = folded.chunks_exact_mut(width).zip(head.weights.chunks_exact(width));
    for ((folded, weights), (folded_bias, bias)) in rows.zip(folded_bias.iter_mut().zip(&head.bias)) {
        folded.iter_mut().zip(weights).zip(&head.scale).for_each(|((v, w), scale)| *v = w * scale);
        *folded_bias = bias + dot(weights, &head.shift);
    }
}

/// Gradients of a head.
struct Slopes<'a> {
    weights: &'a mut [f32], // (c, d)
    bias: &'a [f32],        // (c)
    scale: Vec<f32>,        // (d), or none
    shift: Vec<f32>,        // (d), or none
}

/// Turns dV into ∂W in place, and the rest.
fn unfold<'a>(head: &Head, slopes: &'a mut [f32], bias: &'a [f32]) -> Slopes<'a> {
    let width = head.scale.len();
    let (mut scale, mut shift) = (vec![0.0; width], vec![0.0; width]);
    if width > 0 {
        let rows = slopes.chunks_exact_mut(width).zip(head.weights.chunks_exact(width));
        for ((slopes, weights), bias) in rows.zip(bias) {
            let columns = slopes.iter_mut().zip(weights).zip(scale.iter_mut().zip(&mut shift));
            for (((slope, weight), (scale, shift)), (own_scale, own_shift)) in
                columns.zip(head.scale.iter().zip(&head.shift))
            {
                *scale += weight * *slope;
                *shift += weight * bias;
                *slope = *slope * own_scale + bias * own_shift;
            }
        }
    }
    Slopes { weights: slopes, bias, scale, shift }
}

/// Moves a head by one step.
fn advance(head: &mut Head, momenta: &mut Head, slopes: Slopes<'_>, optimiser: Optimiser, pace: Pace) {
    let Pace { rate, decay } = pace;
    let (nesterov, bias_decay, norm_decay) = match optimiser {
        Optimiser::Sgd { nesterov, decay_norm } => (nesterov, decay, if decay_norm { decay } else { 0.0 }),
        Optimiser::Lars { .. } => (false, 0.0, 0.0),
    };
    let share = match optimiser {
        Optimiser::Sgd { .. } => 1.0,
        Optimiser::Lars { trust } => trust_ratio(&head.weights, slopes.weights, decay, trust),
    };
    let moved = |values: &mut [f32], momenta: &mut [f32], slopes: &[f32], decay: f32, share: f32| {
        for ((value, momentum), slope) in values.iter_mut().zip(momenta).zip(slopes) {
            let slope = (slope + decay * *value) * share;
            *momentum = MOMENTUM * *momentum + slope;
            *value -= rate * if nesterov { slope + MOMENTUM * *momentum } else { *momentum };
        }
    };
    moved(&mut head.weights, &mut momenta.weights, slopes.weights, decay, share);
    moved(&mut head.bias, &mut momenta.bias, slopes.bias, bias_decay, 1.0);
    moved(&mut head.scale, &mut momenta.scale, &slopes.scale, norm_decay, 1.0);
    moved(&mut head.shift, &mut momenta.shift, &slopes.shift, norm_decay, 1.0);
}

/// LARS: trust·‖w‖ / ‖g + decay·w‖, 1 where either norm is zero.
fn trust_ratio(weights: &[f32], slopes: &[f32], decay: f32, trust: f32) -> f32 {
    // Pieces are summed in single precision, their sums in double.
    const PIECE: usize = 1024;
    let (mut own, mut update) = (0.0f64, 0.0f64);
    let mut decayed = [0.0f32; PIECE];
    for (weights, slopes) in weights.chunks(PIECE).zip(slopes.chunks(PIECE)) {
        let decayed = &mut decayed[..weights.len()];
        for ((out, weight), slope) in decayed.iter_mut().zip(weights).zip(slopes) {
            *out = slope + decay * weight;
        }
        own += f64::from(dot(weights, weights));
        update += f64::from(dot(decayed, decayed));
    }
    if own > 0.0 && update > 0.0 { (f64::from(trust) * (own / update).sqrt()) as f32 } else { 1.0 }
}
