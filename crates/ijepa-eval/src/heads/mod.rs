//! What do linear heads trained with SGD read from the features? Many of them at once, as in the protocols that others report.
//!
//! A head is W·x + b, or BatchNorm before it; it is trained on the cross-entropy of its own scores, so heads do not know of each
//! other. They share what does not depend on them: batches, the normalised input, and one matrix product for all heads on the
//! same features ([`bank`]). A head trained in company is the head trained alone.
//!
//! * [`Sweep`] says what is trained, [`Recipe`] holds known settings.
//! * [`train`] runs over cached features; [`Trainer`] takes batches from a caller who makes them anew each epoch.
//! * [`evaluate`] judges every head. The best of them on the judged rows is VISSL's figure, and a little flattered: to choose
//!   a head honestly, judge on rows held out of training first.
//!
//! Weights begin as N(0, 0.01²) and biases at 0, as in the linear evaluations of MoCo and DINO; VISSL leaves PyTorch's uniform
//! ±1/√d. All heads on one set of features begin equal, so that differences come from their settings.
//!
//! Letters: n rows of a batch, d width, c classes, H heads on one input.

mod bank;
mod loss;
mod norm;
mod recipe;
mod schedule;
mod trainer;

pub use recipe::Recipe;
pub use schedule::{Decay, Schedule};
pub use trainer::Trainer;

use crate::features::{QUERIES, TRAIN, check_classes};
use crate::metrics::{Estimate, accuracy};
use crate::{EvalError, Features};

/// One head of a sweep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadConfig {
    /// Which set of features it sees, from 0.
    pub set: usize,
    /// Whether BatchNorm comes first.
    pub norm: bool,
    /// Learning rate for a batch of 256; it grows in proportion.
    pub rate: f64,
    /// Weight decay, added to the gradient.
    pub decay: f64,
}

/// What moves the heads; momentum is 0.9.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimiser {
    /// PyTorch's `SGD`: g += decay·w, m = 0.9·m + g, w −= rate·m, or rate·(g + 0.9·m) with Nesterov.
    Sgd {
        /// Whether the step looks ahead.
        nesterov: bool,
        /// Whether BatchNorm's scale and shift decay too; PyTorch's plain `SGD` does it, VISSL does not.
        decay_norm: bool,
    },
    /// Layer-wise rates as in MAE's `LARS`: of the weights, g += decay·w, g ×= trust·‖w‖ / ‖g‖; then m = 0.9·m + g, w −= rate·m. Biases,
    /// scale and shift are neither decayed nor rescaled.
    Lars {
        /// Usually 0.001.
        trust: f32,
    },
}

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The heads, in any order.
    pub heads: Vec<HeadConfig>,
    /// What moves them.
    pub optimiser: Optimiser,
    /// How the rate moves.
    pub schedule: Schedule,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Rows a step at most: an epoch is cut into equal batches.
    pub batch: usize,
    /// Keys the first weights and the order of the rows.
    pub seed: u64,
}

impl Sweep {
    /// Batches of an epoch over so many rows.
    pub fn steps_per_epoch(&self, rows: usize) -> usize {
        rows.div_ceil(self.batch.max(1))
    }

    fn check(&self, sets: usize) -> Result<(), EvalError> {
        let refuse = |setting, value, expected| Err(EvalError::Setting { setting, value, expected });
        if self.heads.is_empty() {
            return refuse("number of heads", 0.0, "at least one");
        }
        if self.epochs == 0 {
            return refuse("number of epochs", 0.0, "at least one");
        }
        if self.batch < 2 {
            return refuse("batch", self.batch as f64, "at least two rows");
        }
        for head in &self.heads {
            if head.set >= sets {
                return refuse("set of features of a head", head.set as f64, "below the number of sets");
            }
            if !(head.rate.is_finite() && head.rate > 0.0) {
                return refuse("learning rate", head.rate, "a positive number");
            }
            if !(head.decay.is_finite() && head.decay >= 0.0) {
                return refuse("weight decay", head.decay, "zero or a positive number");
            }
        }
        if let Optimiser::Lars { trust } = self.optimiser
            && !(trust.is_finite() && trust > 0.0)
        {
            return refuse("trust coefficient", f64::from(trust), "a positive number");
        }
        self.schedule.check(self.epochs)
    }
}

/// The parameters of a head, or numbers that belong to each of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// (c, d).
    pub weights: Vec<f32>,
    /// (c).
    pub bias: Vec<f32>,
    /// (d) BatchNorm's weight; empty without.
    pub scale: Vec<f32>,
    /// (d) BatchNorm's bias; empty without.
    pub shift: Vec<f32>,
}

impl Head {
    fn zeros(&self) -> Head {
        let like = |values: &[f32]| vec![0.0; values.len()];
        Head {
            weights: like(&self.weights),
            bias: like(&self.bias),
            scale: like(&self.scale),
            shift: like(&self.shift),
        }
    }

    fn lengths(&self) -> [usize; 4] {
        [self.weights.len(), self.bias.len(), self.scale.len(), self.shift.len()]
    }
}

/// A head on rows that it has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Which head.
    pub head: HeadConfig,
    /// Mean training loss of the last epoch, nats a row; NaN or infinite where the rate was too large.
    pub loss: f64,
    /// (n) predicted class of each query.
    pub predictions: Vec<u32>,
    /// Share of queries that are right.
    pub accuracy: Estimate,
}

/// Trains on cached features and judges every head, in the order of the sweep.
///
/// `train` and `queries` hold the same sets in the same order, with the same rows in each; the labels of the first count.
///
/// # Errors
/// Features or labels that cannot be used, sets that do not fit together, a setting that cannot be met.
pub fn evaluate(train: &[&Features], queries: &[&Features], sweep: &Sweep) -> Result<Vec<Judged>, EvalError> {
    check_sets(QUERIES, queries)?;
    let mut losses = Vec::new();
    let trainer = self::train(train, sweep, |_, epoch| losses = epoch.to_vec())?;
    let predictions = trainer.predict(queries)?;
    let labels = &queries[0].labels;
    let judged = sweep.heads.iter().zip(predictions).zip(losses).map(|((&head, predictions), loss)| {
        let accuracy = accuracy(&predictions, labels)?;
        Ok(Judged { head, loss, predictions, accuracy })
    });
    judged.collect()
}

/// Trains on cached features; after each epoch `watch(epoch, losses)` sees the mean loss of each head.
///
/// # Errors
/// As [`evaluate`].
pub fn train(sets: &[&Features], sweep: &Sweep, mut watch: impl FnMut(usize, &[f64])) -> Result<Trainer, EvalError> {
    check_sets(TRAIN, sets)?;
    let (rows, classes) = (sets[0].rows, check_classes(sets[0])?);
    let widths: Vec<usize> = sets.iter().map(|set| set.width).collect();
    let steps = sweep.steps_per_epoch(rows);
    let mut trainer = Trainer::new(sweep, &widths, classes, steps)?;
    let mut batch: Vec<Vec<f32>> = vec![Vec::new(); sets.len()];
    for epoch in 0..sweep.epochs {
        let order = crate::draws::permutation(rows, sweep.seed, epoch);
        let mut losses = vec![0.0; sweep.heads.len()];
        for step in 0..steps {
            let order = &order[rows * step / steps..rows * (step + 1) / steps];
            let labels: Vec<u32> = order.iter().map(|&row| sets[0].labels[row as usize]).collect();
            // Steps are short: all of one runs where its threads are, so that they are woken once.
            let found = ijepa_tensor::threads::run(|| {
                for (batch, set) in batch.iter_mut().zip(sets) {
                    set.gather(batch, order);
                }
                let batch: Vec<&[f32]> = batch.iter().map(Vec::as_slice).collect();
                trainer.advance(&batch, &labels, epoch * steps + step)
            });
            let share = order.len() as f64 / rows as f64;
            losses.iter_mut().zip(found).for_each(|(sum, loss)| *sum += share * loss);
        }
        watch(epoch, &losses);
    }
    Ok(trainer)
}

/// Refuses sets that do not hold the same rows.
fn check_sets(what: &'static str, sets: &[&Features]) -> Result<(), EvalError> {
    let Some(first) = sets.first() else {
        return Err(EvalError::Setting { setting: "number of sets of features", value: 0.0, expected: "at least one" });
    };
    first.check_labelled(what)?;
    for set in &sets[1..] {
        set.check(what)?;
        if set.rows != first.rows {
            return Err(EvalError::Length { what: "rows of a set of features", expected: first.rows, got: set.rows });
        }
    }
    Ok(())
}
