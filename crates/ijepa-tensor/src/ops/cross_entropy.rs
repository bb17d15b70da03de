//! Cross-entropy of class scores, averaged over rows.
//!
//! loss = mean_r (log Σ_c e^(x[r,c]) − x[r,label_r]);  dx = dloss·(softmax(x) − onehot(label))/rows.

use crate::buf::{View, ViewMut};
use crate::tape::{Index, Tape, Var};
use crate::vector::{exp, max, sum, vectorised};

impl<'p> Tape<'p> {
    /// The loss (1, 1) of scores (rows, classes) against labels (rows).
    pub fn cross_entropy(&mut self, scores: &Var, labels: Index) -> Var {
        let classes = scores.width();
        let mut loss = self.take(1);
        forward(loss.view_mut(), scores.view(), &labels, classes);
        let tracked = scores.tracked();
        let loss = self.var(loss, 1, 1, tracked);
        if tracked {
            let (scores, key) = (scores.clone(), loss.key());
            self.record(move |tape| {
                let Some(dloss) = tape.take_gradient(key) else { return };
                let mut dscores = tape.take(scores.len());
                backward(dscores.view_mut(), dloss.view(), scores.view(), &labels, classes);
                tape.pass_gradient(scores.key(), dscores);
                tape.put(dloss);
            });
        }
        loss
    }
}

/// loss (1) =; scores (rows, classes), labels (rows).
///
/// # Panics
/// When a label is not below `classes`.
pub fn forward(loss: ViewMut, scores: View, labels: &[u32], classes: usize) {
    let (ViewMut::Cpu(loss), View::Cpu(scores)) = (loss, scores);
    assert_eq!(scores.len(), labels.len() * classes, "cross-entropy over {classes} classes");
    let total: f64 = scores
        .chunks_exact(classes)
        .zip(labels)
        .map(|(scores, &label)| f64::from(log_sum_exp(scores) - scores[label as usize]))
        .sum();
    loss[0] = (total / labels.len() as f64) as f32;
}

vectorised! {
    fn log_sum_exp(scores: &[f32]) -> f32 {
        let largest = max(scores);
        largest + sum(scores.len(), |i| exp(scores[i] - largest)).ln()
    }
}

/// dscores (rows, classes) =; dloss (1).
pub fn backward(dscores: ViewMut, dloss: View, scores: View, labels: &[u32], classes: usize) {
    let (ViewMut::Cpu(dscores), View::Cpu(dloss), View::Cpu(scores)) = (dscores, dloss, scores);
    let scale = dloss[0] / labels.len() as f32;
    let rows = dscores.chunks_exact_mut(classes).zip(scores.chunks_exact(classes));
    for ((dscores, scores), &label) in rows.zip(labels) {
        gradient_row(dscores, scores, scale);
        dscores[label as usize] -= scale;
    }
}

vectorised! {
    fn gradient_row(dscores: &mut [f32], scores: &[f32], scale: f32) {
        let log_sum = {
            let largest = max(scores);
            largest + sum(scores.len(), |i| exp(scores[i] - largest)).ln()
        };
        for (d, s) in dscores.iter_mut().zip(scores) {
            *d = exp(*s - log_sum) * scale;
        }
    }
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// The mean cross-entropy of scores (rows, classes).
    pub fn forward<T: Scalar>(scores: &[T], labels: &[u32], classes: usize) -> T {
        let mut total = T::zero();
        for (scores, &label) in scores.chunks_exact(classes).zip(labels) {
            let sum = scores.iter().fold(T::zero(), |sum, &score| sum + score.exp());
            total = total + sum.ln() - scores[label as usize];
        }
        total / T::constant(labels.len() as f64)
    }
}
