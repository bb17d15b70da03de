//! The plain statement of one head: BatchNorm, W·x + b, cross-entropy, and a step of an optimiser, in double precision, one row after
//! the other.

use ijepa_eval::heads::{Head, Optimiser};

const EPSILON: f64 = 1e-5;

/// Parameters, or gradients, or momenta, of one head.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) width: usize,
    pub(crate) weights: Vec<f64>,
    pub(crate) bias: Vec<f64>,
    pub(crate) scale: Vec<f64>,
    pub(crate) shift: Vec<f64>,
}

impl Plain {
    pub(crate) fn of(head: &Head) -> Plain {
        let double = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect();
        Plain {
            width: head.weights.len() / head.bias.len(),
            weights: double(&head.weights),
            bias: double(&head.bias),
            scale: double(&head.scale),
            shift: double(&head.shift),
        }
    }

    pub(crate) fn zeros(&self) -> Plain {
        let mut zeros = self.clone();
        zeros.lists().into_iter().for_each(|list| list.fill(0.0));
        zeros
    }

    pub(crate) fn lists(&mut self) -> [&mut Vec<f64>; 4] {
        [&mut self.weights, &mut self.bias, &mut self.scale, &mut self.shift]
    }

    /// (n, d) what BatchNorm makes of a batch before scale and shift; the batch itself without.
    fn normalised(&self, batch: &[f64]) -> Vec<f64> {
        let mut out = batch.to_vec();
        if !self.scale.is_empty() {
            let (mean, variance) = statistics(batch, self.width);
            for row in out.chunks_mut(self.width) {
                for column in 0..self.width {
                    row[column] = (row[column] - mean[column]) / (variance[column] + EPSILON).sqrt();
                }
            }
        }
        out
    }

    /// Mean loss of a batch, and the gradients.
    pub(crate) fn loss(&self, batch: &[f64], labels: &[u32]) -> (f64, Plain) {
        let mut gradients = self.zeros();
        let mut total = 0.0;
        let scale = 1.0 / labels.len() as f64;
        for (row, &label) in self.normalised(batch).chunks(self.width).zip(labels) {
            let input: Vec<f64> = if self.scale.is_empty() {
                row.to_vec()
            } else {
                (0..self.width).map(|j| row[j] * self.scale[j] + self.shift[j]).collect()
            };
            let scores: Vec<f64> = (0..self.bias.len())
                .map(|c| {
                    self.bias[c] + (0..self.width).map(|j| self.weights[c * self.width + j] * input[j]).sum::<f64>()
                })
                .collect();
            let sum: f64 = scores.iter().map(|score| score.exp()).sum();
            total += scale * (sum.ln() - scores[label as usize]);
            for (c, score) in scores.iter().enumerate() {
                let slope = scale * (score.exp() / sum - f64::from(u8::from(c == label as usize)));
                gradients.bias[c] += slope;
                for j in 0..self.width {
                    let weight = self.weights[c * self.width + j];
                    gradients.weights[c * self.width + j] += slope * input[j];
                    if !self.scale.is_empty() {
                        gradients.scale[j] += slope * weight * row[j];
                        gradients.shift[j] += slope * weight;
                    }
                }
            }
        }
        (total, gradients)
    }

    /// One step; returns the loss before it.
    pub(crate) fn step(
        &mut self,
        momenta: &mut Plain,
        batch: &[f64],
        labels: &[u32],
        (optimiser, rate, decay): (Optimiser, f64, f64),
    ) -> f64 {
        let (loss, mut gradients) = self.loss(batch, labels);
        let lists = self.lists().into_iter().zip(momenta.lists()).zip(gradients.lists()).enumerate();
        for (which, ((values, momenta), gradients)) in lists {
            let (is_weight, is_norm) = (which == 0, which > 1);
            let decays = match optimiser {
                Optimiser::Sgd { decay_norm, .. } => decay_norm || !is_norm,
                Optimiser::Lars { .. } => is_weight,
            };
            for (gradient, value) in gradients.iter_mut().zip(&*values) {
                *gradient += if decays { decay * value } else { 0.0 };
            }
            let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
            let share = match optimiser {
                Optimiser::Lars { trust } if is_weight && norm(values) > 0.0 && norm(gradients) > 0.0 => {
                    f64::from(trust) * norm(values) / norm(gradients)
                }
                _ => 1.0,
            };
            for ((value, momentum), gradient) in values.iter_mut().zip(momenta).zip(gradients) {
                let gradient = *gradient * share;
                *momentum = 0.9 * *momentum + gradient;
                let nesterov = matches!(optimiser, Optimiser::Sgd { nesterov: true, .. });
                *value -= rate * if nesterov { gradient + 0.9 * *momentum } else { *momentum };
            }
        }
        loss
    }
}

/// Means and biased variances of the columns.
pub(crate) fn statistics(batch: &[f64], width: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (batch.len() / width) as f64;
    let mean: Vec<f64> = (0..width).map(|j| batch.iter().skip(j).step_by(width).sum::<f64>() / rows).collect();
    let square = |j: usize| batch.iter().skip(j).step_by(width).map(|x| (x - mean[j]) * (x - mean[j])).sum::<f64>();
    let variance = (0..width).map(|j| square(j) / rows).collect();
    (mean, variance)
}
