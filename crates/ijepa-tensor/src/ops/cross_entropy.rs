//! Cross-entropy of class scores against distributions over the classes, added up over rows.
//!
//! loss = Σ_r Σ_c t[r,c]·(log Σ_k e^(x[r,k]) − x[r,c]);  dx = dloss·(softmax(x)·Σ_c t[r,c] − t).
//! A row weighs as much as its targets add up to: targets over n give the mean of n rows, zeros leave a row out.

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Tape, Var};
use crate::threads;
use crate::vector::{exp, max, sum, vectorised};

impl<'p> Tape<'p> {
    /// The loss (1, 1) of scores (rows, classes) against targets (rows, classes) without a gradient.
    pub fn cross_entropy(&mut self, scores: &Var, targets: &Var) -> Var {
        let classes = scores.width();
        let mut loss = self.take_f32(1);
        forward(loss.view_mut(), scores.view(), targets.view(), classes);
        let tracked = scores.tracked();
        let loss = self.var(loss, 1, 1, tracked);
        if tracked {
            let (scores, targets, key) = (scores.clone(), targets.clone(), loss.key());
            self.record(move |tape| {
                let Some(dloss) = tape.take_gradient(key) else { return };
                let mut dscores = tape.take(scores.len());
                backward(dscores.view_mut(), dloss.view(), scores.view(), targets.view(), classes);
                tape.pass_gradient(scores.key(), dscores);
                tape.put(dloss);
            });
        }
        loss
    }
}

/// loss (1) =; scores and targets (rows, classes).
pub fn forward(loss: ViewMut, scores: View, targets: View, classes: usize) {
    assert_eq!(scores.len(), targets.len(), "cross-entropy over {classes} classes");
    if let Some(device) = scores.device() {
        let rows = scores.len() / classes;
        let losses = device.take(rows * size_of::<f32>());
        device.run(calls::cross_entropy_forward(losses.at(), scores.bf16(), targets.f32(), (rows, classes)));
        return device.run(calls::sum_values(loss.f32(), losses.at(), rows, 1.0));
    }
    let (loss, scores, targets) = (loss.cpu(), scores.cpu(), targets.cpu());
    let rows = scores.chunks_exact(classes).zip(targets.chunks_exact(classes));
    let total: f64 = rows.map(|(scores, targets)| f64::from(row_loss(scores, targets))).sum();
    loss[0] = total as f32;
}

vectorised! {
    fn row_loss(scores: &[f32], targets: &[f32]) -> f32 {
        let largest = max(scores);
        let log_sum = largest + sum(scores.len(), |i| exp(scores[i] - largest)).ln();
        let targets = &targets[..scores.len()];
        sum(scores.len(), |i| targets[i] * (log_sum - scores[i]))
    }
}

/// dscores (rows, classes) =; dloss (1).
pub fn backward(dscores: ViewMut, dloss: View, scores: View, targets: View, classes: usize) {
    if let Some(device) = scores.device() {
        let shape = (scores.len() / classes, classes);
        let of_scores = dscores.bf16();
        return device.run(calls::cross_entropy_backward(of_scores, dloss.f32(), scores.bf16(), targets.f32(), shape));
    }
    let (dscores, dloss, scores, targets) = (dscores.cpu(), dloss.cpu(), scores.cpu(), targets.cpu());
    let scale = dloss[0];
    threads::for_rows(dscores, classes, |first, dscores| {
        for (offset, dscores) in dscores.chunks_exact_mut(classes).enumerate() {
            let row = (first + offset) * classes..(first + offset + 1) * classes;
            gradient_row(dscores, &scores[row.clone()], &targets[row], scale);
        }
    });
}

vectorised! {
    fn gradient_row(dscores: &mut [f32], scores: &[f32], targets: &[f32], scale: f32) {
        let largest = max(scores);
        let log_sum = largest + sum(scores.len(), |i| exp(scores[i] - largest)).ln();
        let weight = sum(targets.len(), |i| targets[i]);
        for ((d, s), t) in dscores.iter_mut().zip(scores).zip(targets) {
            *d = (exp(*s - log_sum) * weight - *t) * scale;
        }
    }
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// The cross-entropy of scores (rows, classes) against targets (rows, classes), added up.
    pub fn forward<T: Scalar>(scores: &[T], targets: &[T], classes: usize) -> T {
        let mut total = T::zero();
        for (scores, targets) in scores.chunks_exact(classes).zip(targets.chunks_exact(classes)) {
            let sum = scores.iter().fold(T::zero(), |sum, &score| sum + score.exp());
            for (&score, &target) in scores.iter().zip(targets) {
                total = total + target * (sum.ln() - score);
            }
        }
        total
    }
}
