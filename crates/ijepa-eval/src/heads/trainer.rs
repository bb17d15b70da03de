//! One step of all heads, and what they say afterwards.

use super::bank::{Bank, Pace};
use super::norm::Norm;
use super::{Head, HeadConfig, Set, Sweep};
use crate::EvalError;
use crate::affine::Affine;
use crate::draws::bells;
use crate::features::QUERIES;
use crate::metrics::largest;
use crate::standard::Standard;
use ijepa_tensor::gemm::{Gemm, Layout, gemm};

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
    /// By set; none where no head looks at it.
    groups: Vec<Option<Group>>,
}

/// Heads on one set of features.
struct Group {
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
        let (mut groups, mut norms) = (Vec::new(), Vec::new());
        for (set, &width) in widths.iter().enumerate() {
            let heads: Vec<usize> = (0..sweep.heads.len()).filter(|&head| sweep.heads[head].set == set).collect();
            norms.push(heads.iter().any(|&head| sweep.heads[head].norm).then(|| Norm::new(width)));
            if heads.is_empty() {
                groups.push(None);
                continue;
            }
            let weights: Vec<f32> =
                bells(classes * width, sweep.seed, set).iter().map(|bell| START * *bell as f32).collect();
            let start = |&head: &usize| {
                let affine = if sweep.heads[head].norm { width } else { 0 };
                let (bias, scale, shift) = (vec![0.0; classes], vec![1.0; affine], vec![0.0; affine]);
                Head { weights: weights.clone(), bias, scale, shift }
            };
            let bank = Bank::new(heads.iter().map(start).collect(), width, classes);
            groups.push(Some(Group { heads, bank }));
        }
        Ok(Trainer { sweep: sweep.clone(), classes, steps_per_epoch, widths: widths.to_vec(), norms, groups })
    }

    /// The heads, in the order of the sweep.
    pub(super) fn heads(&self) -> &[HeadConfig] {
        &self.sweep.heads
    }

    /// Whether some head looks at a set.
    pub(super) fn looks_at(&self, set: usize) -> bool {
        self.groups[set].is_some()
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
        for ((group, norm), &input) in groups.iter_mut().zip(norms).zip(batch) {
            let Some(Group { heads, bank }) = group else { continue };
            let norm = norm.as_mut().map(|norm| norm.batch(input));
            let pace = |slot: usize| {
                let config = &sweep.heads[heads[slot]];
                Pace { rate: (config.rate * share) as f32, decay: config.decay as f32 }
            };
            let found = bank.step(input, norm.as_ref(), labels, sweep.optimiser, pace);
            heads.iter().zip(found).for_each(|(&head, loss)| losses[head] = loss);
        }
        losses
    }

    /// The parameters of a head of the sweep.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn head(&self, head: usize) -> &Head {
        let (_, slot, group) = self.place(head);
        group.bank.head(slot)
    }

    /// Replaces the parameters of a head, whose momenta begin at zero.
    ///
    /// # Panics
    /// When there is no such head, or when its parameters have other lengths.
    pub fn set_head(&mut self, head: usize, parameters: Head) {
        assert_eq!(parameters.lengths(), self.head(head).lengths(), "parameters of head {head}");
        let (set, slot, _) = self.place(head);
        if let Some(group) = &mut self.groups[set] {
            group.bank.put(slot, parameters);
        }
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
        let (set, slot, group) = self.place(head);
        let (weights, bias) = self.map(set, group);
        let (outputs, width) = (self.classes, self.widths[set]);
        let weights = weights[slot * outputs * width..][..outputs * width].to_vec();
        let bias = bias[slot * outputs..][..outputs].to_vec();
        Affine { standard: Standard::nothing(width), outputs, weights, bias }
    }

    /// For each head the (n) classes with the largest scores, the first of equals.
    ///
    /// # Errors
    /// Queries that are empty, not finite or of other widths than the heads were trained on.
    pub fn predict<'a, S: Into<Set<'a>> + Clone>(&self, sets: &[S]) -> Result<Vec<Vec<u32>>, EvalError> {
        let sets: Vec<Set<'a>> = sets.iter().cloned().map(Into::into).collect();
        if let Some(wrong) = sets.iter().find_map(|set| set.features.check(QUERIES).err()) {
            return Err(wrong);
        }
        let rows: Vec<u32> = (0..sets.first().map_or(0, |set| set.features.rows) as u32).collect();
        self.predict_rows(&sets, &rows)
    }

    /// The same of some rows (m) of sets that have been checked.
    pub(super) fn predict_rows(&self, sets: &[Set], rows: &[u32]) -> Result<Vec<Vec<u32>>, EvalError> {
        if sets.len() != self.widths.len() {
            let (expected, got) = (self.widths.len(), sets.len());
            return Err(EvalError::Length { what: "sets of query features", expected, got });
        }
        for (set, &train) in sets.iter().zip(&self.widths) {
            if set.columns.len() != train {
                return Err(EvalError::Width { train, queries: set.columns.len() });
            }
        }
        let mut predictions = vec![Vec::new(); self.sweep.heads.len()];
        for (set, (group, Set { features, columns })) in self.groups.iter().zip(sets).enumerate() {
            let Some(group) = group else { continue };
            let (weights, bias) = self.map(set, group);
            let (mut input, mut scores) = (Vec::new(), Vec::new());
            for rows in rows.chunks((SCORES / bias.len()).max(1)) {
                features.gather(&mut input, rows, columns.clone());
                scores.resize(rows.len() * bias.len(), 0.0);
                scores.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(&bias));
                let (m, n, k) = (rows.len(), bias.len(), columns.len());
                let shape = Gemm { m, n, k, a: Layout::Plain, b: Layout::Transposed, accumulate: true };
                gemm(&mut scores, &input, &weights, shape);
                // (n, H·c) is (n·H, c): the classes of row i and head h stand at i·H + h.
                let classes = largest(&scores, self.classes);
                for (slot, &head) in group.heads.iter().enumerate() {
                    predictions[head].extend(classes.iter().skip(slot).step_by(group.heads.len()));
                }
            }
        }
        Ok(predictions)
    }

    /// All heads of a group as one map: weights (H·c, d) and biases (H·c).
    fn map(&self, set: usize, group: &Group) -> (Vec<f32>, Vec<f32>) {
        group.bank.map(self.norms[set].as_ref().map(Norm::standard).as_ref())
    }

    /// The set of a head, its place there, and the heads beside it.
    fn place(&self, head: usize) -> (usize, usize, &Group) {
        let find = |(set, group): (usize, &'_ Option<Group>)| {
            let slot = group.as_ref()?.heads.iter().position(|&own| own == head)?;
            Some((set, slot))
        };
        let found = self.groups.iter().enumerate().find_map(find);
        let (set, slot) = found.unwrap_or_else(|| panic!("head {head} of a sweep of {}", self.sweep.heads.len()));
        (set, slot, self.groups[set].as_ref().expect("a head was found there"))
    }
}
