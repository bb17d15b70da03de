//! AdamW as PyTorch computes it (Loshchilov & Hutter, arXiv 1711.05101):
//! p ← p·(1 − lr·wd);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
//! p ← p − lr/(1−β₁ᵏ) · m / (√v/√(1−β₂ᵏ) + eps), k the number of steps so far, this one included.

use crate::buf::{View, ViewMut};
use crate::threads;
use crate::vector::vectorised;
use rayon::prelude::*;

/// What one step of the optimiser is told.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Number of this step, from 1.
    pub number: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// Values that one thread updates at a time.
const PIECE: usize = 1 << 14;

#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    new1: f32,
    old2: f32,
    new2: f32,
    step_size: f32,
    inverse_root: f32,
    eps: f32,
}

/// params, m and v (len) are updated in place from grads (len).
pub fn forward(params: ViewMut, m: ViewMut, v: ViewMut, grads: View, step: Step) {
    let (ViewMut::Cpu(params), ViewMut::Cpu(m), ViewMut::Cpu(v), View::Cpu(grads)) = (params, m, v, grads);
    assert_eq!((params.len(), m.len(), v.len()), (grads.len(), grads.len(), grads.len()), "adamw");
    let exponent = i32::try_from(step.number).unwrap_or(i32::MAX);
    let factors = Factors {
        keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
        new1: (1.0 - step.beta1) as f32,
        old2: step.beta2 as f32,
        new2: (1.0 - step.beta2) as f32,
        step_size: (step.learning_rate / (1.0 - step.beta1.powi(exponent))) as f32,
        inverse_root: (1.0 / (1.0 - step.beta2.powi(exponent)).sqrt()) as f32,
        eps: step.eps as f32,
    };
    params
        .par_chunks_mut(PIECE)
        .zip(m.par_chunks_mut(PIECE))
        .zip(v.par_chunks_mut(PIECE))
        .zip(grads.par_chunks(PIECE))
        .for_each(|(((params, m), v), grads)| update_values(params, m, v, grads, factors));
}

vectorised! {
    fn update_values(params: &mut [f32], m: &mut [f32], v: &mut [f32], grads: &[f32], f: Factors) {
        let len = params.len();
        let (m, v, grads) = (&mut m[..len], &mut v[..len], &grads[..len]);
        for i in 0..len {
            let g = grads[i];
            m[i] += (g - m[i]) * f.new1;
            v[i] = v[i] * f.old2 + f.new2 * g * g;
            let denominator = v[i].sqrt() * f.inverse_root + f.eps;
            params[i] = params[i] * f.keep - f.step_size * (m[i] / denominator);
        }
    }
}

/// grads (len) = 0.
pub fn clear(grads: ViewMut) {
    let ViewMut::Cpu(grads) = grads;
    threads::for_rows(grads, 1, |_, grads| grads.fill(0.0));
}

/// The plain statement, in f64.
pub mod reference {
    use super::Step;

    /// One step on one parameter; returns (parameter, m, v).
    pub fn forward(p: f64, m: f64, v: f64, g: f64, step: Step) -> (f64, f64, f64) {
        let m = step.beta1 * m + (1.0 - step.beta1) * g;
        let v = step.beta2 * v + (1.0 - step.beta2) * g * g;
        let unbiased_m = m / (1.0 - step.beta1.powf(step.number as f64));
        let unbiased_v = v / (1.0 - step.beta2.powf(step.number as f64));
        let decayed = p * (1.0 - step.learning_rate * step.weight_decay);
        (decayed - step.learning_rate * unbiased_m / (unbiased_v.sqrt() + step.eps), m, v)
    }
}
