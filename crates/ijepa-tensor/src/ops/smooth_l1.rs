//! Smooth L1 loss with β = 1, averaged over all values, on targets without a gradient.
//!
//! l(e) = e²/2 for |e| < 1, |e| − 1/2 beyond, e = prediction − target; dprediction = dloss·clamp(e, −1, 1)/len.

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Tape, Var};
use crate::threads;
use crate::vector::{sum, vectorised};

impl<'p> Tape<'p> {
    /// The loss (1, 1) of prediction against target, of the same shape.
    pub fn smooth_l1(&mut self, prediction: &Var, target: &Var) -> Var {
        let width = prediction.width();
        let mut loss = self.take_f32(1);
        forward(loss.view_mut(), prediction.view(), target.view(), width);
        let tracked = prediction.tracked();
        let loss = self.var(loss, 1, 1, tracked);
        if tracked {
            let (prediction, target, key) = (prediction.clone(), target.clone(), loss.key());
            self.record(move |tape| {
                let Some(dloss) = tape.take_gradient(key) else { return };
                let mut dprediction = tape.take(prediction.len());
                backward(dprediction.view_mut(), dloss.view(), prediction.view(), target.view(), width);
                tape.pass_gradient(prediction.key(), dprediction);
                tape.put(dloss);
            });
        }
        loss
    }
}

/// Values summed in f32 before they are added in f64.
const BLOCK: usize = 1024;

/// loss (1) = the mean over all values, in rows of `width`.
pub fn forward(loss: ViewMut, prediction: View, target: View, width: usize) {
    assert_eq!(prediction.len(), target.len(), "smooth_l1");
    if let Some(device) = prediction.device() {
        let (rows, len) = (prediction.len() / width, prediction.len());
        let (losses, target) = (device.take(rows * size_of::<f32>()), target.cuda().rounded());
        device.run(calls::smooth_l1_forward(losses.at(), prediction.bf16(), target.at(), (rows, width)));
        return device.run(calls::sum_values(loss.f32(), losses.at(), rows, 1.0 / len as f64));
    }
    let (loss, prediction, target) = (loss.cpu(), prediction.cpu(), target.cpu());
    let blocks = prediction.chunks(BLOCK).zip(target.chunks(BLOCK));
    let total: f64 = blocks.map(|(prediction, target)| f64::from(block_sum(prediction, target))).sum();
    loss[0] = (total / prediction.len() as f64) as f32;
}

vectorised! {
    fn block_sum(prediction: &[f32], target: &[f32]) -> f32 {
        let target = &target[..prediction.len()];
        sum(prediction.len(), |i| {
            let error = (prediction[i] - target[i]).abs();
            if error < 1.0 { 0.5 * error * error } else { error - 0.5 }
        })
    }
}

/// dprediction (len) =, in rows of `width`; dloss (1).
pub fn backward(dprediction: ViewMut, dloss: View, prediction: View, target: View, width: usize) {
    if let Some(device) = prediction.device() {
        let (size, target) = ((prediction.len() / width, width), target.cuda().rounded());
        let (to, dloss) = (dprediction.bf16(), dloss.f32());
        return device.run(calls::smooth_l1_backward(to, dloss, prediction.bf16(), target.at(), size));
    }
    let (dprediction, dloss) = (dprediction.cpu(), dloss.cpu());
    let (prediction, target) = (prediction.cpu(), target.cpu());
    let scale = dloss[0] / prediction.len() as f32;
    threads::for_rows(dprediction, 1, |first, dprediction| {
        let part = first..first + dprediction.len();
        gradient_values(dprediction, &prediction[part.clone()], &target[part], scale);
    });
}

vectorised! {
    fn gradient_values(dprediction: &mut [f32], prediction: &[f32], target: &[f32], scale: f32) {
        for ((d, p), t) in dprediction.iter_mut().zip(prediction).zip(target) {
            *d = (p - t).clamp(-1.0, 1.0) * scale;
        }
    }
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// The mean smooth L1 loss.
    pub fn forward<T: Scalar>(prediction: &[T], target: &[T]) -> T {
        let mut total = T::zero();
        for (&p, &t) in prediction.iter().zip(target) {
            let error = if (p - t).value() < 0.0 { t - p } else { p - t };
            let half = T::constant(0.5);
            total = total + if error.value() < 1.0 { half * error * error } else { error - half };
        }
        total / T::constant(prediction.len() as f64)
    }
}
