//! AdamW as PyTorch computes it (Loshchilov & Hutter, arXiv 1711.05101):
//! p ← p·(1 − lr·wd);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
//! p ← p − lr/(1−β₁ᵏ) · m / (√v/√(1−β₂ᵏ) + eps), k the number of steps so far, this one included.
//! In the same pass a moving average follows: a ← momentum·a + (1−momentum)·p.

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::Slot;
use crate::vector::vectorised;
use rayon::prelude::*;

/// What one step of the optimiser is told.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Number of this step, from 1.
    pub number: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of the moving average that stays.
    pub momentum: f64,
}

/// Values that are learnt alike.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where they lie in the blob.
    pub slot: Slot,
    /// Where their moments begin among the moments, which may be those of a part of the blob.
    pub moments: usize,
    /// Their weight decay.
    pub weight_decay: f64,
    /// Their share of the learning rate.
    pub rate: f64,
}

impl Segment {
    /// Values whose moments lie where they do, and which move by the learning rate.
    pub fn of(slot: Slot, weight_decay: f64) -> Segment {
        Segment { slot, moments: slot.offset, weight_decay, rate: 1.0 }
    }
}

/// Values that one thread updates at a time.
const PIECE: usize = 1 << 14;

#[derive(Clone, Copy)]
struct Factors {
    new1: f32,
    old2: f32,
    new2: f32,
    inverse_root: f32,
    eps: f32,
    old_average: f32,
    new_average: f32,
}

/// Blobs that are laid out alike, but for moments, which lie where segments say, and up to the length of the average, which may end earlier.
pub struct Blobs<'a> {
    /// Parameters.
    pub params: ViewMut<'a>,
    /// First moments.
    pub m: ViewMut<'a>,
    /// Second moments, as many.
    pub v: ViewMut<'a>,
    /// Moving average of the first parameters.
    pub average: ViewMut<'a>,
}

struct Piece<'a> {
    params: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    average: &'a mut [f32],
    grads: &'a [f32],
    keep: f32,
    step_size: f32,
}

/// One step on the values of all segments, which come in the order of the blob, as do their moments; the values between them stay as they are.
///
/// # Panics
/// When blobs and segments do not fit each other.
pub fn forward(blobs: Blobs, grads: View, segments: &[Segment], step: Step) {
    let Blobs { params, m, v, average } = blobs;
    assert_eq!((params.len(), m.len()), (grads.len(), v.len()), "adamw");
    let last = segments.last().map_or(0, |segment| segment.moments + segment.slot.len);
    assert!(last <= m.len(), "adamw: moments up to {last} of {}", m.len());
    if let Some(device) = grads.device() {
        let blobs = calls::Blobs {
            params: params.f32(),
            m: m.f32(),
            v: v.f32(),
            average: average.f32(),
            params_bf16: params.bf16(),
            average_bf16: average.bf16(),
            averaged: average.len(),
        };
        let pieces = calls::pieces(segments);
        let at = device.upload(&pieces);
        return device.run(calls::adamw(blobs, grads.f32(), (at.at(), pieces.len()), step));
    }
    let (params, m, v, average, grads) = (params.cpu(), m.cpu(), v.cpu(), average.cpu(), grads.cpu());
    let exponent = i32::try_from(step.number).unwrap_or(i32::MAX);
    let factors = Factors {
        new1: (1.0 - step.beta1) as f32,
        old2: step.beta2 as f32,
        new2: (1.0 - step.beta2) as f32,
        inverse_root: (1.0 / (1.0 - step.beta2.powi(exponent)).sqrt()) as f32,
        eps: step.eps as f32,
        old_average: step.momentum as f32,
        new_average: (1.0 - step.momentum) as f32,
    };
    let (mut params, mut m, mut v, mut average) = (Rest::of(params), Rest::of(m), Rest::of(v), Rest::of(average));
    let mut pieces = Vec::new();
    let unbiased = 1.0 - step.beta1.powi(exponent);
    for &Segment { slot, moments, weight_decay, rate } in segments {
        let learning_rate = step.learning_rate * rate;
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let step_size = (learning_rate / unbiased) as f32;
        for start in slot.range().step_by(PIECE) {
            let end = slot.range().end.min(start + PIECE);
            let grads = &grads[start..end];
            let moments = moments + (start - slot.offset)..moments + (end - slot.offset);
            let (m, v) = (m.take(moments.start, moments.end), v.take(moments.start, moments.end));
            let params = params.take(start, end);
            pieces.push(Piece { params, m, v, average: average.take(start, end), grads, keep, step_size });
        }
    }
    pieces.into_par_iter().for_each(|Piece { params, m, v, average, grads, keep, step_size }| {
        update_values(params, m, v, grads, keep, step_size, factors);
        blend_values(average, params, factors.old_average, factors.new_average);
    });
}

/// The moving average alone, for parameters that have moved already: average ← momentum·average + (1−momentum)·params in all
/// segments, as far as the average goes. On a GPU the parameters' rounded copies follow too.
pub fn follow(average: ViewMut, params: View, segments: &[Segment], momentum: f64) {
    if let Some(device) = params.device() {
        let pieces = calls::pieces(segments);
        let at = device.upload(&pieces);
        let average = (average.f32(), average.bf16(), average.len());
        let params = (params.f32(), params.bf16());
        return device.run(calls::follow(average, params, (at.at(), pieces.len()), momentum));
    }
    let (average, params) = (average.cpu(), params.cpu());
    let mut average = Rest::of(average);
    let mut pieces = Vec::new();
    for slot in segments.iter().map(|segment| segment.slot.range()) {
        for start in slot.clone().step_by(PIECE) {
            let end = slot.end.min(start + PIECE);
            pieces.push((average.take(start, end), &params[start..end]));
        }
    }
    let (old, new) = (momentum as f32, (1.0 - momentum) as f32);
    pieces.into_par_iter().for_each(|(average, params)| blend_values(average, params, old, new));
}

/// What is left of a blob that is handed out from its beginning.
struct Rest<'a> {
    values: &'a mut [f32],
    first: usize,
}

impl<'a> Rest<'a> {
    fn of(values: &'a mut [f32]) -> Rest<'a> {
        Rest { values, first: 0 }
    }

    /// The values from `start` to `end`, or as many of them as there are.
    fn take(&mut self, start: usize, end: usize) -> &'a mut [f32] {
        let values = std::mem::take(&mut self.values);
        let skipped = start.checked_sub(self.first).expect("segments are in the order of the blob").min(values.len());
        let (_, values) = values.split_at_mut(skipped);
        let (part, rest) = values.split_at_mut((end - start).min(values.len()));
        (self.values, self.first) = (rest, end);
        part
    }
}

vectorised! {
    fn update_values(params: &mut [f32], m: &mut [f32], v: &mut [f32], grads: &[f32], keep: f32, step_size: f32, f: Factors) {
        let len = params.len();
        let (m, v, grads) = (&mut m[..len], &mut v[..len], &grads[..len]);
        for i in 0..len {
            let g = grads[i];
            m[i] += (g - m[i]) * f.new1;
            v[i] = v[i] * f.old2 + f.new2 * g * g;
            let denominator = v[i].sqrt() * f.inverse_root + f.eps;
            params[i] = params[i] * keep - step_size * (m[i] / denominator);
        }
    }
}

vectorised! {
    fn blend_values(average: &mut [f32], params: &[f32], old: f32, new: f32) {
        for (average, param) in average.iter_mut().zip(params) {
            *average = *average * old + *param * new;
        }
    }
}

/// The plain statement, in f64.
pub mod reference {
    use super::Step;

    /// One step on one parameter; returns (parameter, m, v, average).
    pub fn forward(
        (p, m, v, average): (f64, f64, f64, f64),
        g: f64,
        (weight_decay, rate): (f64, f64),
        step: Step,
    ) -> (f64, f64, f64, f64) {
        let learning_rate = step.learning_rate * rate;
        let m = step.beta1 * m + (1.0 - step.beta1) * g;
        let v = step.beta2 * v + (1.0 - step.beta2) * g * g;
        let unbiased_m = m / (1.0 - step.beta1.powf(step.number as f64));
        let unbiased_v = v / (1.0 - step.beta2.powf(step.number as f64));
        let decayed = p * (1.0 - learning_rate * weight_decay);
        let p = decayed - learning_rate * unbiased_m / (unbiased_v.sqrt() + step.eps);
        (p, m, v, step.momentum * average + (1.0 - step.momentum) * p)
    }
}
