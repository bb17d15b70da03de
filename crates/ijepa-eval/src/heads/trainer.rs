//! One step of all heads, and what they say afterwards.

use super::bank::{Bank, Pace};
use super::norm::Norm;
use super::{Head, Sweep};
use crate::affine::Affine;
use crate::draws::bells;
use crate::features::QUERIES;
use crate::metrics::largest;
use crate::standard::Standard;
use crate::{EvalError, Features};

/// Deviation of the first weights.
const START: f32 = 0.01;
/// Scores that are held at a time when judging.
const SCORES: usize = 1 << 22;

/// Heads in training.
pub struct Trainer {
    sweep: Sweep,
    classes: usize,
    steps_per_epoch: usize,
    widths: Vec<usize>,
    /// By set; none where no head has BatchNorm.
    norms: Vec<Option<Norm>>,
    groups: Vec<Group>,
}

/// Heads on one input.
struct Group {
    set: usize,
    norm: bool,
    /// Their places in the sweep.
    heads: Vec<usize>,
    bank: Bank,
}

impl Trainer {
    /// Heads before the first step, on sets of features of these widths.
    ///
    /// # Errors
    /// A setting that cannot be met.
    pub fn new(sweep: &Sweep, widths: &[usize], classes: usize, steps_per_epoch: usize) -> Result<Trainer, EvalError> {
        sweep.check(widths.len())?;
        for (setting, value, least) in [("number of classes", classes, 2), ("steps an epoch", steps_per_epoch, 1)] {
            if value < least {
                return Err(EvalError::Setting { setting, value: value as f64, expected: "more" });
            }
        }
        let mut groups = Vec::new();
        let mut norms = Vec::new();
        for (set, &width) in widths.iter().enumerate() {
            let weights: Vec<f32> =
                bells(classes * width, sweep.seed, set).iter().map(|bell| START * *bell as f32).collect();
            for norm in [true, false] {
                let is_member = |head: &usize| (sweep.heads[*head].set, sweep.heads[*head].norm) == (set, norm);
                let heads: Vec<usize> = (0..sweep.heads.len()).filter(is_member).collect();
                if norm {
                    norms.push((!heads.is_empty()).then(|| Norm::new(width)));
                }
                if !heads.is_empty() {
                    let affine = if norm { width } else { 0 };
                    let (bias, scale, shift) = (vec![0.0; classes], vec![1.0; affine], vec![0.0; affine]);
                    let start = Head { weights: weights.clone(), bias, scale, shift };
                    let bank = Bank::new(heads.len(), &start, classes);
                    groups.push(Group { set, norm, heads, bank });
                }
            }
        }
        Ok(Trainer { sweep: sweep.clone(), classes, steps_per_epoch, widths: widths.to_vec(), norms, groups })
    }

    /// One step on a batch: (n, d) features of every set, and labels (n) below the number of classes. Steps are counted from 0;
    /// their number decides the rate. Returns the mean loss of each head before the step.
    ///
    /// # Errors
    /// A batch of another size than stated, fewer than two rows, an unknown class, or features that are not finite.
    pub fn step(&mut self, batch: &[&[f32]], labels: &[u32], step: usize) -> Result<Vec<f64>, EvalError> {
        let rows = labels.len();
        if rows < 2 {
            let (setting, expected) = ("rows of a batch", "at least two");
            return Err(EvalError::Setting { setting, value: rows as f64, expected });
        }
        if batch.len() != self.widths.len() {
            let (expected, got) = (self.widths.len(), batch.len());
            return Err(EvalError::Length { what: "sets of features of a batch", expected, got });
        }
        let what = "features of a batch";
        for (values, &width) in batch.iter().zip(&self.widths) {
            if values.len() != rows * width {
                return Err(EvalError::Values { what, rows, width, values: values.len() });
            }
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Err(EvalError::NotFinite { what, row: at / width, column: at % width, value: values[at] });
            }
        }
        if let Some(&label) = labels.iter().find(|&&label| label as usize >= self.classes) {
            let (setting, expected) = ("label of a batch", "below the number of classes");
            return Err(EvalError::Setting { setting, value: f64::from(label), expected });
        }
        Ok(ijepa_tensor::threads::run(|| self.advance(batch, labels, step)))
    }

    /// As [`Trainer::step`], for a batch that has been checked; a single row is passed over, because BatchNorm has no
    /// variance of it.
    pub(super) fn advance(&mut self, batch: &[&[f32]], labels: &[u32], step: usize) -> Vec<f64> {
        let Trainer { sweep, norms, groups, steps_per_epoch, .. } = self;
        let mut losses = vec![0.0; sweep.heads.len()];
        if labels.len() < 2 {
            return losses;
        }
        let share = sweep.schedule.share(step, *steps_per_epoch, sweep.epochs) * sweep.batch as f64 / 256.0;
        let normalised: Vec<Option<&[f32]>> =
            norms.iter_mut().zip(batch).map(|(norm, values)| norm.as_mut().map(|norm| norm.batch(values))).collect();
        for Group { set, norm, heads, bank } in groups {
            let input = normalised[*set].filter(|_| *norm).unwrap_or(batch[*set]);
            let pace = |slot: usize| {
                let config = &sweep.heads[heads[slot]];
                Pace { rate: (config.rate * share) as f32, decay: config.decay as f32 }
            };
            let found = bank.step(input, labels, sweep.optimiser, pace);
            heads.iter().zip(found).for_each(|(&head, loss)| losses[head] = loss);
        }
        losses
    }

    /// The parameters of a head of the sweep.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn head(&self, head: usize) -> &Head {
        let (group, slot) = self.place(head);
        self.groups[group].bank.head(slot)
    }

    /// Replaces the parameters of a head, whose momenta begin at zero.
    ///
    /// # Panics
    /// When there is no such head, or when its parameters have other lengths.
    pub fn set_head(&mut self, head: usize, parameters: Head) {
        let (group, slot) = self.place(head);
        assert_eq!(parameters.lengths(), self.head(head).lengths(), "parameters of head {head}");
        self.groups[group].bank.put(slot, parameters);
    }

    /// Mean and variance (d) by which BatchNorm judges rows of a set; none where no head has BatchNorm.
    pub fn running(&self, set: usize) -> Option<(&[f32], &[f32])> {
        self.norms.get(set)?.as_ref().map(|norm| (norm.mean.as_slice(), norm.variance.as_slice()))
    }

    /// A head as it judges: BatchNorm with its running statistics.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn model(&self, head: usize) -> Affine {
        let (group, slot) = self.place(head);
        let all = self.affine(&self.groups[group]);
        let (outputs, width) = (self.classes, self.widths[self.groups[group].set]);
        let weights = all.weights[slot * outputs * width..][..outputs * width].to_vec();
        let bias = all.bias[slot * outputs..][..outputs].to_vec();
        Affine { standard: all.standard, outputs, weights, bias }
    }

    /// For each head the (n) classes with the largest scores, the first of equals.
    ///
    /// # Errors
    /// Queries that are empty, not finite or of other widths than the heads were trained on.
    pub fn predict(&self, sets: &[&Features]) -> Result<Vec<Vec<u32>>, EvalError> {
        if sets.len() != self.widths.len() {
            let (expected, got) = (self.widths.len(), sets.len());
            return Err(EvalError::Length { what: "sets of query features", expected, got });
        }
        for (queries, &train) in sets.iter().zip(&self.widths) {
            queries.check(QUERIES)?;
            if queries.width != train {
                return Err(EvalError::Width { train, queries: queries.width });
            }
        }
        let mut predictions = vec![Vec::new(); self.sweep.heads.len()];
        for group in &self.groups {
            let model = self.affine(group);
            let features = sets[group.set];
            let rows: Vec<u32> = (0..features.rows as u32).collect();
            for rows in rows.chunks((SCORES / model.outputs).max(1)) {
                // (n, H·c) is (n·H, c): the classes of row i and head h stand at i·H + h.
                let classes = largest(&model.scores_of(features, rows), self.classes);
                for (slot, &head) in group.heads.iter().enumerate() {
                    predictions[head].extend(classes.iter().skip(slot).step_by(group.heads.len()));
                }
            }
        }
        Ok(predictions)
    }

    /// All heads of a group as one map.
    fn affine(&self, group: &Group) -> Affine {
        let standard = match &self.norms[group.set] {
            Some(norm) if group.norm => norm.standard(),
            _ => Standard::nothing(self.widths[group.set]),
        };
        let (weights, bias) = (group.bank.folded.clone(), group.bank.folded_bias.clone());
        Affine { standard, outputs: bias.len(), weights, bias }
    }

    fn place(&self, head: usize) -> (usize, usize) {
        let find =
            |(at, group): (usize, &Group)| group.heads.iter().position(|&own| own == head).map(|slot| (at, slot));
        self.groups.iter().enumerate().find_map(find).unwrap_or_else(|| {
            panic!("head {head} of a sweep of {}", self.sweep.heads.len());
        })
    }
}
