//! What do linear heads trained with SGD read from the features? Many of them at once, as in the protocols that others report.
//!
//! A head is W·x + b, or BatchNorm before it; it is trained on the cross-entropy of its own scores, so heads do not know of each
//! other. They share what does not depend on them: batches, the normalised input, and one matrix product for all heads on the
//! same features ([`bank`]). A head trained in company is the head trained alone.
//!
//! * [`Sweep`] says what is trained, [`Recipe`] holds known settings.
//! * [`train`] runs over cached features; [`Trainer`] takes batches from a caller who makes them anew each epoch.
//! * [`evaluate`] judges every head. The best of them on the judged rows is VISSL's figure, and a little flattered; [`choose`] looks for
//!   the best one on rows held out of training.
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

use crate::draws::{HeldOut, held_out};
use crate::features::{QUERIES, TRAIN};
use crate::metrics::{Estimate, accuracy};
use crate::{EvalError, Features};
use std::ops::Range;

/// What heads see of each image: some columns of its features. Sets may overlap, as the last layer is a part of the last four.
#[derive(Debug, Clone)]
pub struct Set<'a> {
    /// Features of all rows.
    pub features: &'a Features,
    /// The columns that are seen.
    pub columns: Range<usize>,
}

impl<'a> From<&'a Features> for Set<'a> {
    fn from(features: &'a Features) -> Set<'a> {
        Set { features, columns: 0..features.width }
    }
}

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

    fn has_norm(&self) -> bool {
        !self.scale.is_empty()
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

/// Trains on cached features and judges every head, in the order of the sweep; `watch(epoch, losses)` sees each epoch.
///
/// `train` and `queries` hold the same sets in the same order, with the same rows in each; the labels of the first count.
///
/// # Errors
/// Features or labels that cannot be used, sets that do not fit together, a setting that cannot be met.
pub fn evaluate<'a, S: Into<Set<'a>> + Clone>(
    train: &[S],
    queries: &[S],
    sweep: &Sweep,
    mut watch: impl FnMut(usize, &[f64]),
) -> Result<Vec<Judged>, EvalError> {
    let queries = check_sets(QUERIES, queries)?;
    let mut losses = Vec::new();
    let trainer = self::train(train, sweep, |epoch, found| {
        losses = found.to_vec();
        watch(epoch, found);
    })?;
    let labels = &queries[0].features.labels;
    judge(&trainer, &queries, &all(labels.len()), labels, &losses)
}

/// A head that was chosen on rows which were held out of training.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// All heads of the sweep, trained on nine tenths of the rows and judged on the tenth that was held out.
    pub trials: Vec<Judged>,
    /// Which of them is best there, the first of equals.
    pub best: usize,
    /// That one, trained anew on all rows and judged on the queries.
    pub judged: Judged,
}

/// Chooses a head on a held-out tenth of the training rows, trains it anew on all of them and judges it: unlike the best head of
/// [`evaluate`], nothing is chosen on what is judged. `watch` sees the epochs of both trainings, counted on.
///
/// # Errors
/// As [`evaluate`], or fewer than ten rows.
pub fn choose<'a, S: Into<Set<'a>> + Clone>(
    train: &[S],
    queries: &[S],
    sweep: &Sweep,
    mut watch: impl FnMut(usize, &[f64]),
) -> Result<Chosen, EvalError> {
    let (train, queries) = (check_sets(TRAIN, train)?, check_sets(QUERIES, queries)?);
    let labels = &train[0].features.labels;
    let HeldOut { fit, held } = held_out(labels, labels.len(), sweep.seed)?;
    let mut losses = Vec::new();
    let trainer = train_on(&train, &fit, sweep, |epoch, found| {
        losses = found.to_vec();
        watch(epoch, found);
    })?;
    let held_labels: Vec<u32> = held.iter().map(|&row| labels[row as usize]).collect();
    let trials = judge(&trainer, &train, &held, &held_labels, &losses)?;
    let better = |best: usize, at: usize| trials[at].accuracy.value > trials[best].accuracy.value;
    let best = (0..trials.len()).fold(0, |best, at| if better(best, at) { at } else { best });

    let alone = Sweep { heads: vec![sweep.heads[best]], ..sweep.clone() };
    let trainer = train_on(&train, &all(labels.len()), &alone, |epoch, found| {
        losses = found.to_vec();
        watch(sweep.epochs + epoch, found);
    })?;
    let query_labels = &queries[0].features.labels;
    let judged = judge(&trainer, &queries, &all(query_labels.len()), query_labels, &losses)?.remove(0);
    Ok(Chosen { trials, best, judged })
}

/// What all heads say of some rows (m) with these labels (m), after an epoch with these losses.
fn judge(
    trainer: &Trainer,
    sets: &[Set],
    rows: &[u32],
    labels: &[u32],
    losses: &[f64],
) -> Result<Vec<Judged>, EvalError> {
    let predictions = trainer.predict_rows(sets, rows)?;
    let judged = trainer.heads().iter().zip(predictions).zip(losses).map(|((&head, predictions), &loss)| {
        let accuracy = accuracy(&predictions, labels)?;
        Ok(Judged { head, loss, predictions, accuracy })
    });
    judged.collect()
}

/// Trains on cached features; after each epoch `watch(epoch, losses)` sees the mean loss of each head.
///
/// # Errors
/// As [`evaluate`].
pub fn train<'a, S: Into<Set<'a>> + Clone>(
    sets: &[S],
    sweep: &Sweep,
    watch: impl FnMut(usize, &[f64]),
) -> Result<Trainer, EvalError> {
    let sets = check_sets(TRAIN, sets)?;
    train_on(&sets, &all(sets[0].features.rows), sweep, watch)
}

/// As [`train`], on some of the rows.
fn train_on(
    sets: &[Set],
    rows: &[u32],
    sweep: &Sweep,
    mut watch: impl FnMut(usize, &[f64]),
) -> Result<Trainer, EvalError> {
    let labels = &sets[0].features.labels;
    let classes = classes(labels, rows)?;
    let widths: Vec<usize> = sets.iter().map(|set| set.columns.len()).collect();
    let (count, steps) = (rows.len(), sweep.steps_per_epoch(rows.len()));
    let mut trainer = Trainer::new(sweep, &widths, classes, steps)?;
    let mut batch: Vec<Vec<f32>> = vec![Vec::new(); sets.len()];
    for epoch in 0..sweep.epochs {
        let order: Vec<u32> =
            crate::draws::permutation(count, sweep.seed, epoch).into_iter().map(|place| rows[place as usize]).collect();
        let mut losses = vec![0.0; sweep.heads.len()];
        for step in 0..steps {
            let order = &order[count * step / steps..count * (step + 1) / steps];
            let labels: Vec<u32> = order.iter().map(|&row| labels[row as usize]).collect();
            // Steps are short: all of one runs where its threads are, so that they are woken once.
            let found = ijepa_tensor::threads::run(|| {
                for (set, (batch, from)) in batch.iter_mut().zip(sets).enumerate() {
                    if trainer.looks_at(set) {
                        from.features.gather(batch, order, from.columns.clone());
                    }
                }
                let batch: Vec<&[f32]> = batch.iter().map(Vec::as_slice).collect();
                trainer.advance(&batch, &labels, epoch * steps + step)
            });
            let share = order.len() as f64 / count as f64;
            losses.iter_mut().zip(found).for_each(|(sum, loss)| *sum += share * loss);
        }
        watch(epoch, &losses);
    }
    Ok(trainer)
}

fn all(rows: usize) -> Vec<u32> {
    (0..rows as u32).collect()
}

/// The number of classes, at least two of which some rows must have.
fn classes(labels: &[u32], rows: &[u32]) -> Result<usize, EvalError> {
    let class = labels[rows[0] as usize];
    if rows.iter().all(|&row| labels[row as usize] == class) {
        return Err(EvalError::OneClass { rows: rows.len(), class });
    }
    Ok(labels.iter().max().map_or(0, |&label| label as usize + 1))
}

/// Refuses sets that do not hold the same rows.
fn check_sets<'a, S: Into<Set<'a>> + Clone>(what: &'static str, sets: &[S]) -> Result<Vec<Set<'a>>, EvalError> {
    let sets: Vec<Set<'a>> = sets.iter().cloned().map(Into::into).collect();
    let Some(first) = sets.first() else {
        return Err(EvalError::Setting { setting: "number of sets of features", value: 0.0, expected: "at least one" });
    };
    first.features.check_labelled(what)?;
    for Set { features, columns } in &sets {
        if !std::ptr::eq(*features, first.features) {
            features.check(what)?;
        }
        if features.rows != first.features.rows {
            let (expected, got) = (first.features.rows, features.rows);
            return Err(EvalError::Length { what: "rows of a set of features", expected, got });
        }
        if columns.is_empty() || columns.end > features.width {
            let (setting, expected) = ("last column of a set of features", "the width of the features at most");
            return Err(EvalError::Setting { setting, value: columns.end as f64, expected });
        }
    }
    Ok(sets)
}
