//! How are many heads trained for little more than the work that they cannot share?
//!
//! The heads that see the same features, H of them, are one matrix V (H·c, d): forward is X·Vᵀ, backward Gᵀ·X, each one product.
//! A head with BatchNorm is folded into it. With m the mean of the batch and r one over its deviation, x̂ = (x − m)⊙r, and
//!
//!   s = W·(γ⊙x̂ + β) + b = V·x + a,   p = γ⊙r,   q = β − p⊙m,   V = W⊙p (by columns),   a = W·q + b
//!
//! and with dV = Gᵀ·X and g = Gᵀ·1 its own gradients follow without another look at the rows:
//!
//!   ∂W = dV⊙p + g·qᵀ,   ∂β_j = Σ_c W_cj g_c,   ∂γ_j = r_j·(Σ_c W_cj dV_cj − m_j ∂β_j),   ∂b = g
//!
//! So neither x̂ nor a product of its own is needed. Without BatchNorm V = W and a = b. Features are frozen, so nothing flows
//! further back.

use super::loss::{Sums, residuals};
use super::{Head, Optimiser};
use crate::lower::dot;
use crate::standard::Standard;
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use ijepa_tensor::heads::{Move, advance, scaled, unscale};
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

/// Heads on the same features.
pub(super) struct Bank {
    width: usize,
    classes: usize,
    heads: Vec<State>,
    /// V (H·c, d).
    folded: Vec<f32>,
    /// a (H·c).
    folded_bias: Vec<f32>,
    slopes: Vec<f32>, // (H·c, d)
    scores: Vec<f32>, // (ROWS, H·c)
}

/// A head in training.
struct State {
    own: Head,
    momenta: Head,
    scale: Vec<f32>, // p (d), or none
    shift: Vec<f32>, // q (d), or none
}

impl Head {
    /// Writes V (c, d) and a (c), and p and q on the way, by what makes x̂ of x.
    fn fold(
        &self,
        norm: Option<&Standard>,
        (scale, shift): (&mut [f32], &mut [f32]),
        folded: &mut [f32],
        folded_bias: &mut [f32],
    ) {
        let Some(Standard { mean, inverse, .. }) = norm.filter(|_| self.has_norm()) else {
            folded.copy_from_slice(&self.weights);
            folded_bias.copy_from_slice(&self.bias);
            return;
        };
        for (((p, q), (gamma, beta)), (mean, inverse)) in
            scale.iter_mut().zip(&mut *shift).zip(self.scale.iter().zip(&self.shift)).zip(mean.iter().zip(inverse))
        {
            *p = gamma * inverse;
            *q = beta - *p * mean;
        }
        let width = scale.len();
        let rows = folded.chunks_exact_mut(width).zip(self.weights.chunks_exact(width));
        for ((folded, weights), (folded_bias, bias)) in rows.zip(folded_bias.iter_mut().zip(&self.bias)) {
            *folded_bias = bias + scaled(folded, weights, scale, shift);
        }
    }
}

impl State {
    fn new(own: Head) -> State {
        let (momenta, scale, shift) = (own.zeros(), own.scale.clone(), own.shift.clone());
        State { own, momenta, scale, shift }
    }

    /// Writes V (c, d) and a (c), by what makes x̂ of x.
    fn fold(&mut self, norm: Option<&Standard>, folded: &mut [f32], folded_bias: &mut [f32]) {
        let State { own, scale, shift, .. } = self;
        own.fold(norm, (scale, shift), folded, folded_bias);
    }

    /// Turns dV (c, d) into ∂W in place; returns ∂γ and ∂β, or two empty lists.
    fn unfold(&self, norm: Option<&Standard>, slopes: &mut [f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let Some(Standard { mean, inverse, .. }) = norm.filter(|_| self.own.has_norm()) else {
            return (Vec::new(), Vec::new());
        };
        let width = self.scale.len();
        let (mut scale, mut shift) = (vec![0.0; width], vec![0.0; width]);
        let rows = slopes.chunks_exact_mut(width).zip(self.own.weights.chunks_exact(width));
        for ((slopes, weights), &bias) in rows.zip(bias) {
            unscale(slopes, bias, weights, &self.scale, &self.shift, &mut scale, &mut shift);
        }
        for ((gamma, beta), (mean, inverse)) in scale.iter_mut().zip(&shift).zip(mean.iter().zip(inverse)) {
            *gamma = inverse * (*gamma - mean * beta);
        }
        (scale, shift)
    }

    /// Moves the head by one step: ∂W, ∂b, ∂γ and ∂β.
    fn advance(&mut self, [weights, bias, scale, shift]: [&[f32]; 4], optimiser: Optimiser, pace: Pace) {
        let Pace { rate, decay } = pace;
        let (ahead, bias_decay, norm_decay) = match optimiser {
            Optimiser::Sgd { nesterov, decay_norm } => (nesterov, decay, if decay_norm { decay } else { 0.0 }),
            Optimiser::Lars { .. } => (false, 0.0, 0.0),
        };
        let State { own, momenta, .. } = self;
        let share = match optimiser {
            Optimiser::Sgd { .. } => 1.0,
            Optimiser::Lars { trust } => trust_ratio(&own.weights, weights, decay, trust),
        };
        let how = Move { rate, decay, share, momentum: MOMENTUM, ahead };
        let plain = |decay| Move { decay, share: 1.0, ..how };
        advance(&mut own.weights, &mut momenta.weights, weights, how);
        advance(&mut own.bias, &mut momenta.bias, bias, plain(bias_decay));
        advance(&mut own.scale, &mut momenta.scale, scale, plain(norm_decay));
        advance(&mut own.shift, &mut momenta.shift, shift, plain(norm_decay));
    }
}

impl Bank {
    /// Heads that begin as they are.
    pub(super) fn new(heads: Vec<Head>, width: usize, classes: usize) -> Bank {
        let rows = heads.len() * classes;
        Bank {
            width,
            classes,
            heads: heads.into_iter().map(State::new).collect(),
            folded: vec![0.0; rows * width],
            folded_bias: vec![0.0; rows],
            slopes: vec![0.0; rows * width],
            scores: Vec::new(),
        }
    }

    pub(super) fn head(&self, slot: usize) -> &Head {
        &self.heads[slot].own
    }

    /// Replaces a head; its momenta begin at zero.
    pub(super) fn put(&mut self, slot: usize, head: Head) {
        self.heads[slot] = State::new(head);
    }

    /// One step of every head on `input` (rows, d); returns the mean loss of each. `norm` makes x̂ of the batch.
    pub(super) fn step(
        &mut self,
        input: &[f32],
        norm: Option<&Standard>,
        labels: &[u32],
        optimiser: Optimiser,
        pace: impl Fn(usize) -> Pace + Sync,
    ) -> Vec<f64> {
        self.fold(norm);
        let sums = self.gradients(input, labels);
        let Bank { width, classes, .. } = *self;
        self.heads
            .par_iter_mut()
            .zip(self.slopes.par_chunks_exact_mut(classes * width))
            .zip(sums.columns.par_chunks_exact(classes))
            .enumerate()
            .for_each(|(slot, ((head, slopes), bias))| {
                let (scale, shift) = head.unfold(norm, slopes, bias);
                head.advance([slopes, bias, &scale, &shift], optimiser, pace(slot));
            });
        sums.losses.iter().map(|loss| loss / labels.len() as f64).collect()
    }

    /// V and a of all heads.
    fn fold(&mut self, norm: Option<&Standard>) {
        let Bank { width, classes, .. } = *self;
        self.heads
            .par_iter_mut()
            .zip(self.folded.par_chunks_exact_mut(classes * width))
            .zip(self.folded_bias.par_chunks_exact_mut(classes))
            .for_each(|((head, folded), folded_bias)| head.fold(norm, folded, folded_bias));
    }

    /// V (H·c, d) and a (H·c) for rows of which `norm` makes x̂.
    pub(super) fn map(&self, norm: Option<&Standard>) -> (Vec<f32>, Vec<f32>) {
        let Bank { width, classes, .. } = *self;
        let (mut folded, mut bias) = (vec![0.0; self.folded.len()], vec![0.0; self.folded_bias.len()]);
        let parts = folded.chunks_exact_mut(classes * width).zip(bias.chunks_exact_mut(classes));
        for ((folded, bias), State { own, scale, shift, .. }) in parts.zip(&self.heads) {
            own.fold(norm, (&mut scale.clone(), &mut shift.clone()), folded, bias);
        }
        (folded, bias)
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
