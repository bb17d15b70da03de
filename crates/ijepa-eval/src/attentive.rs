//! What do the tokens of a picture say to a head that chooses where to look? One layer of cross-attention with learned queries, then a
//! linear map to classes; in the literature "attentive probing" (Chen et al. 2022, CAE; Bardes et al. 2024, V-JEPA).
//!
//! With x̃ (l, d) the standardised tokens of a picture, h queries and e = d/h:
//!
//!   a_k = softmax_j(u_k·x̃_j / √d)     P_k = Σ_j a_kj x̃_j     z_k = V_k·P_k + v_k     s = Σ_k W_k·z_k + b
//!
//! u_k (d) stands for a query and the projection of keys at once: their product is all that the scores know of them. There is no
//! further layer and no dropout. AdamW; the rate rises over a tenth of the steps and falls as half a cosine.
//!
//! Letters: n pictures of a batch, l tokens of each, d width, h queries, c classes.

use crate::draws::{HeldOut, bells, held_out, permutation};
use crate::features::{QUERIES, TRAIN, check_classes, check_pair};
use crate::metrics::{Estimate, accuracy, largest};
use crate::standard::{Standard, columns};
use crate::{EvalError, Features};
use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use ijepa_tensor::heads::{self, Block};
use ijepa_tensor::ops::adamw::{self, Blobs, Segment, Step};
use ijepa_tensor::{Buf, Slot};
use rayon::prelude::*;
use std::f64::consts::PI;

/// Deviation of the first queries: attention begins nearly even.
const QUERY_STD: f64 = 0.02;
/// Deviation of the first weights of the classifier.
const HEAD_STD: f64 = 0.01;
/// Share of the steps in which the rate rises.
const WARMUP: f64 = 0.1;
/// The item of [`bells`] from which on weights of this probe are drawn; heads have smaller ones.
const ITEM: usize = 1 << 20;

/// How the probe is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Attentive {
    /// Tokens of a picture, l: a row of features is (l, d).
    pub tokens: usize,
    /// h, a divisor of d.
    pub queries: usize,
    /// Learning rates of AdamW; of several, the best on held-out rows.
    pub rates: Vec<f64>,
    /// Weight decay of matrices and queries.
    pub decay: f64,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Keys the first weights, the order of the rows and those held out.
    pub seed: u64,
}

/// How good the probe is on rows that it has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The learning rate.
    pub rate: f64,
    /// Rates and their accuracies on held-out rows; empty where there was no choice.
    pub trials: Vec<(f64, f64)>,
    /// Mean loss of the last epoch, nats a row.
    pub loss: f64,
    /// (m) predicted classes.
    pub predictions: Vec<u32>,
    /// Share of queries that are right.
    pub accuracy: Estimate,
}

/// Trains on the tokens of pictures and judges; `watch(epoch, loss)` sees every epoch of all trainings, counted on.
///
/// # Errors
/// Features or labels that cannot be used, a setting that cannot be met, too few rows to choose a rate on.
pub fn evaluate(
    train: &Features,
    queries: &Features,
    how: &Attentive,
    mut watch: impl FnMut(usize, f64),
) -> Result<Judged, EvalError> {
    check_pair(train, queries)?;
    queries.check_labelled(QUERIES)?;
    train.check_labelled(TRAIN)?;
    let classes = check_classes(train)?;
    how.check(train.width)?;
    let all = |features: &Features| (0..features.rows as u32).collect::<Vec<u32>>();
    let mut epochs = 0;
    let mut fit = |rows: &[u32], rate: f64| {
        let mut probe = Probe::new(how, train, classes);
        let loss = probe.train(train, rows, rate, how, |loss| {
            watch(epochs, loss);
            epochs += 1;
        });
        (probe, loss)
    };
    let mut trials = Vec::new();
    let mut rate = how.rates[0];
    if how.rates.len() > 1 {
        let HeldOut { fit: rows, held } = held_out(&train.labels, train.rows, how.seed)?;
        let labels: Vec<u32> = held.iter().map(|&row| train.labels[row as usize]).collect();
        for &rate in &how.rates {
            let (probe, _) = fit(&rows, rate);
            trials.push((rate, accuracy(&probe.predict(train, &held), &labels)?.value));
        }
        let best = trials.iter().fold(trials[0], |best, &trial| if trial.1 > best.1 { trial } else { best });
        rate = best.0;
    }
    let (probe, loss) = fit(&all(train), rate);
    let predictions = probe.predict(queries, &all(queries));
    let accuracy = accuracy(&predictions, &queries.labels)?;
    Ok(Judged { rate, trials, loss, predictions, accuracy })
}

impl Attentive {
    fn check(&self, row: usize) -> Result<(), EvalError> {
        let refuse = |setting, value, expected| Err(EvalError::Setting { setting, value, expected });
        let width = row / self.tokens.max(1);
        if self.tokens == 0 || width * self.tokens != row {
            return refuse("tokens of a picture", self.tokens as f64, "a divisor of the length of a row");
        }
        if self.queries == 0 || !width.is_multiple_of(self.queries) {
            return refuse("number of queries", self.queries as f64, "a divisor of the width of a token");
        }
        if self.epochs == 0 || self.batch == 0 {
            return refuse("number of epochs, or batch", 0.0, "at least one");
        }
        match self.rates.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
            Some(&rate) => refuse("learning rate", rate, "a positive number"),
            None if self.rates.is_empty() => refuse("number of learning rates", 0.0, "at least one"),
            None if !(self.decay.is_finite() && self.decay >= 0.0) => {
                refuse("weight decay", self.decay, "zero or a positive number")
            }
            None => Ok(()),
        }
    }
}

/// Where the parameters lie in the blob.
#[derive(Clone, Copy)]
struct Places {
    queries: Slot,    // u (h, d)
    values: Slot,     // V (h, e, d)
    shifts: Slot,     // v (h, e)
    classifier: Slot, // W (h, c, e)
    bias: Slot,       // b (c)
}

/// Sizes of everything.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    width: usize,
    queries: usize,
    classes: usize,
}

/// The probe in training.
struct Probe {
    sizes: Sizes,
    standard: Standard,
    places: Places,
    params: Buf,
}

/// What a forward leaves for the way back.
struct Seen {
    input: Vec<f32>,     // x̃ (n, l, d)
    attention: Vec<f32>, // a (n, h, l)
    pooled: Vec<f32>,    // P (h, n, d)
    projected: Vec<f32>, // z (h, n, e)
    scores: Vec<f32>,    // s (n, c)
}

impl Probe {
    fn new(how: &Attentive, train: &Features, classes: usize) -> Probe {
        let (tokens, queries) = (how.tokens, how.queries);
        let width = train.width / tokens;
        let mut end = 0;
        let mut slot = |len: usize| {
            end += len;
            Slot { offset: end - len, len }
        };
        let places = Places {
            queries: slot(queries * width),
            values: slot(width * width),
            shifts: slot(width),
            classifier: slot(classes * width),
            bias: slot(classes),
        };
        let mut params = Buf::zeros(end);
        let drawn =
            [(places.queries, QUERY_STD), (places.values, 1.0 / (width as f64).sqrt()), (places.classifier, HEAD_STD)];
        for (item, (slot, std)) in drawn.into_iter().enumerate() {
            let values = &mut params.as_mut_slice()[slot.range()];
            let bells = bells(values.len(), how.seed, ITEM + item);
            values.iter_mut().zip(bells).for_each(|(value, bell)| *value = (std * bell) as f32);
        }
        // All tokens have one mean and deviation of a column.
        let standard = token_standard(train, tokens);
        Probe { sizes: Sizes { tokens, width, queries, classes }, standard, places, params }
    }

    /// Trains on some rows; returns the mean loss of the last epoch.
    fn train(
        &mut self,
        features: &Features,
        rows: &[u32],
        rate: f64,
        how: &Attentive,
        mut watch: impl FnMut(f64),
    ) -> f64 {
        let steps = rows.len().div_ceil(how.batch);
        let total = (steps * how.epochs) as f64;
        let (mut grads, mut m, mut v) =
            (Buf::zeros(self.params.len()), Buf::zeros(self.params.len()), Buf::zeros(self.params.len()));
        let segments = self.segments(how.decay);
        let (mut number, mut loss) = (0u64, 0.0);
        for epoch in 0..how.epochs {
            let order: Vec<u32> =
                permutation(rows.len(), how.seed, epoch).into_iter().map(|at| rows[at as usize]).collect();
            loss = 0.0;
            for step in 0..steps {
                let order = &order[rows.len() * step / steps..rows.len() * (step + 1) / steps];
                let labels: Vec<u32> = order.iter().map(|&row| features.labels[row as usize]).collect();
                let seen = self.forward(features, order);
                loss += self.backward(seen, &labels, grads.as_mut_slice()) * order.len() as f64 / rows.len() as f64;
                let done = number as f64 / total;
                let rise = ((number + 1) as f64 / (WARMUP * total)).min(1.0);
                number += 1;
                let step = Step {
                    number,
                    learning_rate: rate * rise * 0.5 * (1.0 + (PI * done).cos()),
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    momentum: 0.0,
                };
                let mut none = Buf::zeros(0);
                let blobs = Blobs {
                    params: self.params.view_mut(),
                    m: m.view_mut(),
                    v: v.view_mut(),
                    average: none.view_mut(),
                };
                adamw::forward(blobs, grads.view(), &segments, step);
            }
            watch(loss);
        }
        loss
    }

    fn segments(&self, decay: f64) -> [Segment; 5] {
        let Places { queries, values, shifts, classifier, bias } = self.places;
        [(queries, decay), (values, decay), (shifts, 0.0), (classifier, decay), (bias, 0.0)]
            .map(|(slot, weight_decay)| Segment::of(slot, weight_decay))
    }

    /// (m) classes of some rows.
    fn predict(&self, features: &Features, rows: &[u32]) -> Vec<u32> {
        const BATCH: usize = 256;
        rows.chunks(BATCH).flat_map(|rows| largest(&self.forward(features, rows).scores, self.sizes.classes)).collect()
    }

    fn of(&self, slot: Slot) -> &[f32] {
        &self.params.as_slice()[slot.range()]
    }

    fn forward(&self, features: &Features, rows: &[u32]) -> Seen {
        let Sizes { tokens: l, width: d, queries: h, classes: c } = self.sizes;
        let (n, e) = (rows.len(), d / h);
        let mut input = vec![0.0; n * l * d];
        let standard = &self.standard;
        input.par_chunks_exact_mut(l * d).zip(rows).for_each(|(out, &row)| {
            let row = features.row(row as usize);
            out.chunks_exact_mut(d).zip(row.chunks_exact(d)).for_each(|(out, token)| standard.row(out, token));
        });
        let u = self.of(self.places.queries);
        let scale = 1.0 / (d as f32).sqrt();
        let mut attention = vec![0.0; n * h * l];
        let mut seen_by = vec![0.0; n * h * d]; // (n, h, d)
        let pictures = attention.par_chunks_exact_mut(h * l).zip(seen_by.par_chunks_exact_mut(h * d));
        pictures.zip(input.par_chunks_exact(l * d)).for_each(|((attention, pooled), input)| {
            product(attention, u, input, (h, l, d), Layout::Transposed);
            attention.chunks_exact_mut(l).for_each(|row| softmax(row, scale));
            product(pooled, attention, input, (h, d, l), Layout::Plain);
        });
        let mut pooled = vec![0.0; h * n * d];
        turn(&mut pooled, &seen_by, (n, h, d));
        let mut projected = vec![0.0; h * n * e];
        let mut scores = vec![0.0; n * c];
        scores.chunks_exact_mut(c).for_each(|row| row.copy_from_slice(self.of(self.places.bias)));
        for k in 0..h {
            let z = &mut projected[k * n * e..][..n * e];
            let shift = &self.of(self.places.shifts)[k * e..][..e];
            z.chunks_exact_mut(e).for_each(|row| row.copy_from_slice(shift));
            let (p, v) = (&pooled[k * n * d..][..n * d], &self.of(self.places.values)[k * e * d..][..e * d]);
            gemm(z, p, v, Gemm { m: n, n: e, k: d, a: Layout::Plain, b: Layout::Transposed, accumulate: true });
            let w = &self.of(self.places.classifier)[k * c * e..][..c * e];
            let shape = Gemm { m: n, n: c, k: e, a: Layout::Plain, b: Layout::Transposed, accumulate: true };
            gemm(&mut scores, z, w, shape);
        }
        Seen { input, attention, pooled, projected, scores }
    }

    /// Writes the gradient of the mean loss; returns that.
    fn backward(&self, seen: Seen, labels: &[u32], grads: &mut [f32]) -> f64 {
        let Sizes { tokens: l, width: d, queries: h, classes: c } = self.sizes;
        let Seen { input, attention, pooled, projected, mut scores } = seen;
        let (n, e) = (labels.len(), d / h);
        grads.fill(0.0);
        let (mut loss, mut bias, mut turned) = ([0.0], vec![0.0; c], Vec::new());
        for (scores, labels) in scores.chunks_mut(heads::ROWS * c).zip(labels.chunks(heads::ROWS)) {
            let (no_bias, scale) = (&vec![0.0; c][..], 1.0 / n as f32);
            let (losses, columns, turned) = (&mut loss[..], &mut bias[..], &mut turned);
            heads::residuals(Block { scores, bias: no_bias, labels, classes: c, scale, losses, columns, turned });
        }
        grads[self.places.bias.range()].copy_from_slice(&bias);
        let mut to_pooled = vec![0.0; h * n * d];
        for k in 0..h {
            let (z, p) = (&projected[k * n * e..][..n * e], &pooled[k * n * d..][..n * d]);
            let w = &self.of(self.places.classifier)[k * c * e..][..c * e];
            let to_w = &mut grads[self.places.classifier.range()][k * c * e..][..c * e];
            let across = Gemm { m: c, n: e, k: n, a: Layout::Transposed, b: Layout::Plain, accumulate: false };
            gemm(to_w, &scores, z, across);
            let mut to_z = vec![0.0; n * e];
            let plain = Gemm { m: n, n: e, k: c, a: Layout::Plain, b: Layout::Plain, accumulate: false };
            gemm(&mut to_z, &scores, w, plain);
            let to_shift = &mut grads[self.places.shifts.range()][k * e..][..e];
            to_z.chunks_exact(e).for_each(|row| heads::add(to_shift, row));
            let v = &self.of(self.places.values)[k * e * d..][..e * d];
            let to_v = &mut grads[self.places.values.range()][k * e * d..][..e * d];
            gemm(to_v, &to_z, p, Gemm { m: e, n: d, ..across });
            gemm(&mut to_pooled[k * n * d..][..n * d], &to_z, v, Gemm { n: d, k: e, ..plain });
        }
        let mut seen_by = vec![0.0; n * h * d];
        turn(&mut seen_by, &to_pooled, (h, n, d));
        let scale = 1.0 / (d as f32).sqrt();
        let mut to_scores = vec![0.0; n * h * l];
        let mut to_queries = vec![0.0; n * h * d];
        let pictures = to_scores.par_chunks_exact_mut(h * l).zip(to_queries.par_chunks_exact_mut(h * d));
        let seen = attention.par_chunks_exact(h * l).zip(seen_by.par_chunks_exact(h * d));
        pictures.zip(seen).zip(input.par_chunks_exact(l * d)).for_each(|(((to, to_u), (a, to_p)), input)| {
            product(to, to_p, input, (h, l, d), Layout::Transposed);
            to.chunks_exact_mut(l).zip(a.chunks_exact(l)).for_each(|(to, a)| softmax_backward(to, a, scale));
            product(to_u, to, input, (h, d, l), Layout::Plain);
        });
        let to_u = &mut grads[self.places.queries.range()];
        to_queries.chunks_exact(h * d).for_each(|own| heads::add(to_u, own));
        loss[0] / n as f64
    }
}

/// c (m, n) = a (m, k) · b (k, n).
fn product(c: &mut [f32], a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize), layout: Layout) {
    gemm(c, a, b, Gemm { m, n, k, a: Layout::Plain, b: layout, accumulate: false });
}

/// out (b, a, d) = values (a, b, d).
fn turn(out: &mut [f32], values: &[f32], (a, b, d): (usize, usize, usize)) {
    out.par_chunks_exact_mut(a * d).enumerate().for_each(|(at, out)| {
        for (from, out) in out.chunks_exact_mut(d).enumerate() {
            out.copy_from_slice(&values[(from * b + at) * d..][..d]);
        }
    });
}

fn softmax(row: &mut [f32], scale: f32) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|value| *value = ((*value - top) * scale).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|value| *value /= sum);
}

/// to ← scale·a⊙(to − Σ a·to).
fn softmax_backward(to: &mut [f32], a: &[f32], scale: f32) {
    let mean: f32 = to.iter().zip(a).map(|(to, a)| to * a).sum();
    to.iter_mut().zip(a).for_each(|(to, a)| *to = scale * a * (*to - mean));
}

/// Mean and inverse deviation (d) of the columns of tokens, over all tokens of all rows.
fn token_standard(features: &Features, tokens: usize) -> Standard {
    let width = features.width / tokens;
    let (means, deviations) = columns(features); // (l·d) each
    let mut standard = Standard::nothing(width);
    for column in 0..width {
        let own = |values: &[f64]| values.iter().skip(column).step_by(width).copied().collect::<Vec<_>>();
        let (means, deviations) = (own(&means), own(&deviations));
        let mean = means.iter().sum::<f64>() / tokens as f64;
        // The variance of all is that within places plus that between them.
        let variance =
            means.iter().zip(&deviations).map(|(own, std)| std * std + (own - mean) * (own - mean)).sum::<f64>()
                / tokens as f64;
        let std = variance.sqrt();
        standard.mean[column] = mean as f32;
        standard.inverse[column] = if std <= 1e-7 * mean.abs() { 0.0 } else { (1.0 / std) as f32 };
    }
    standard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::signs;

    fn features(rows: usize, width: usize, classes: u32) -> Features {
        let values =
            bells(rows * width, 5, 0).into_iter().enumerate().map(|(i, bell)| (bell * 2.0 + (i % 3) as f64) as f32);
        let bits = signs(rows, 8, 3);
        let labels = bits.chunks(8).map(|bits| bits.iter().filter(|&&bit| bit > 0.0).count() as u32);
        Features { rows, width, values: values.collect(), labels: labels.map(|label| label % classes).collect() }
    }

    fn how(tokens: usize, queries: usize) -> Attentive {
        Attentive { tokens, queries, rates: vec![0.01], decay: 0.0, epochs: 20, batch: 32, seed: 1 }
    }

    /// The mean loss in double precision, as the head of this file states it.
    fn plain(probe: &Probe, params: &[f64], features: &Features) -> f64 {
        let Sizes { tokens: l, width: d, queries: h, classes: c } = probe.sizes;
        let e = d / h;
        let of = |slot: Slot| &params[slot.range()];
        let Places { queries, values, shifts, classifier, bias } = probe.places;
        let mut total = 0.0;
        for row in 0..features.rows {
            let x = |j: usize, i: usize| {
                let raw = f64::from(features.row(row)[j * d + i]);
                (raw - f64::from(probe.standard.mean[i])) * f64::from(probe.standard.inverse[i])
            };
            let mut s: Vec<f64> = of(bias).to_vec();
            for k in 0..h {
                let score =
                    |j: usize| (0..d).map(|i| of(queries)[k * d + i] * x(j, i)).sum::<f64>() / (d as f64).sqrt();
                let a: Vec<f64> = (0..l).map(|j| score(j).exp()).collect();
                let sum: f64 = a.iter().sum();
                let p = |i: usize| (0..l).map(|j| a[j] / sum * x(j, i)).sum::<f64>();
                let p: Vec<f64> = (0..d).map(p).collect();
                for q in 0..e {
                    let v = &of(values)[(k * e + q) * d..][..d];
                    let z = of(shifts)[k * e + q] + v.iter().zip(&p).map(|(v, p)| v * p).sum::<f64>();
                    (0..c).for_each(|class| s[class] += of(classifier)[(k * c + class) * e + q] * z);
                }
            }
            total += s.iter().map(|s| s.exp()).sum::<f64>().ln() - s[features.labels[row] as usize];
        }
        total / features.rows as f64
    }

    #[test]
    fn the_gradient_is_the_derivative_of_the_stated_loss() {
        for (tokens, width, queries) in [(5, 6, 2), (3, 4, 4), (1, 5, 1)] {
            let features = features(7, tokens * width, 3);
            let how = how(tokens, queries);
            let mut probe = Probe::new(&how, &features, 3);
            let far = bells(probe.params.len(), 9, 9);
            probe.params.as_mut_slice().iter_mut().zip(far).for_each(|(value, bell)| *value = (0.5 * bell) as f32);
            let mut params: Vec<f64> = probe.params.as_slice().iter().map(|&value| f64::from(value)).collect();
            let rows: Vec<u32> = (0..7).collect();
            let mut grads = vec![f32::NAN; params.len()];
            let loss = probe.backward(probe.forward(&features, &rows), &features.labels, &mut grads);
            assert!((loss - plain(&probe, &params, &features)).abs() < 1e-5, "{loss}");
            for at in 0..params.len() {
                let mut at_offset = |offset: f64| {
                    params[at] += offset;
                    let loss = plain(&probe, &params, &features);
                    params[at] -= offset;
                    loss
                };
                let numeric = (at_offset(1e-4) - at_offset(-1e-4)) / 2e-4;
                assert!((f64::from(grads[at]) - numeric).abs() < 1e-5, "place {at}: {} {numeric}", grads[at]);
            }
        }
    }

    #[test]
    fn a_token_that_names_the_class_is_found_wherever_it_is() {
        // Column 0 marks one token in eight, whose other columns tell the class; those of the other tokens are noise that a mean keeps.
        let tokens = |rows: usize, seed: u64| {
            let (noise, where_at) = (bells(rows * 8 * 4, seed, 0), bells(rows, seed, 1));
            let mut values: Vec<f32> = noise.iter().map(|&bell| 3.0 * bell as f32).collect();
            let mut labels = Vec::new();
            for row in 0..rows {
                let (place, label) = ((where_at[row].abs() * 1000.0) as usize % 8, row as u32 % 2);
                for token in 0..8 {
                    values[(row * 8 + token) * 4] = if token == place { 3.0 } else { -1.0 };
                }
                values[(row * 8 + place) * 4 + 1] = if label == 0 { 1.0 } else { -1.0 };
                labels.push(label);
            }
            Features { rows, width: 32, values: values.into(), labels }
        };
        let (train, queries) = (tokens(400, 1), tokens(200, 2));
        let how = Attentive { rates: vec![0.003, 0.03], epochs: 60, ..how(8, 2) };
        let mut epochs = Vec::new();
        let judged = evaluate(&train, &queries, &how, |epoch, _| epochs.push(epoch)).expect("valid");
        assert!(judged.accuracy.value > 0.95, "{judged:?}");
        assert_eq!((judged.trials.len(), epochs), (2, (0..180).collect()));
        let mean = |features: &Features| Features {
            width: 4,
            values: features
                .values
                .chunks(32)
                .flat_map(|row| (0..4).map(|i| row.iter().skip(i).step_by(4).sum::<f32>()))
                .collect(),
            ..features.clone()
        };
        let logistic = crate::linear::Logistic::standard(0);
        let linear = crate::linear::evaluate(&mean(&train), &mean(&queries), &logistic).expect("valid");
        assert!(linear.accuracy.value < 0.7, "the mean of the tokens does not tell: {:?}", linear.accuracy);
    }

    #[test]
    fn settings_that_cannot_be_met_are_named() {
        let features = features(20, 12, 2);
        let run = |how: Attentive| evaluate(&features, &features, &how, |_, _| ()).err();
        let good = how(3, 2);
        for bad in [
            Attentive { tokens: 5, ..good.clone() },
            Attentive { queries: 3, ..good.clone() },
            Attentive { rates: vec![], ..good.clone() },
            Attentive { rates: vec![f64::NAN], ..good.clone() },
            Attentive { decay: -1.0, ..good.clone() },
            Attentive { epochs: 0, ..good.clone() },
        ] {
            assert!(matches!(run(bad.clone()), Some(EvalError::Setting { .. })), "{bad:?}");
        }
    }
}
