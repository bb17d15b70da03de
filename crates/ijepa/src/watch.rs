//! Is a run learning something, or collapsing? What can be seen without labels while it goes on, in numbers and in words.
//!
//! Every `eval.every`, the target encoder's features of some training images, always the same ones and cut the same way: how far they
//! spread, over how many directions, and whether the predictor knows more than the mean of its targets. A loss shows none of this: it falls
//! fastest when all targets are alike. Nothing here touches what is trained.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, Fit};
use ijepa_eval::Features;
use ijepa_eval::knn::{self, Knn};
use ijepa_eval::metrics::{accuracy, effective_rank, rank_me, spread};
use ijepa_model::jepa::{Jepa, State};
use ijepa_tensor::Var;

use crate::cli::Pool;
use crate::eval::KNN_TEMPERATURE;
use crate::extract::{Encoder, Wanted};
use crate::labelled::{self, Labelled};
use crate::log::Seen;
use crate::output;
use crate::pictures::Pictures;
use crate::run::Run;
use crate::store::Store;

/// Neighbours that vote.
const NEIGHBOURS: usize = 20;
/// Spread of layer-normed targets, 1 at most, below which patches have become alike.
const COLLAPSED: f64 = 0.1;
/// Share of the constant predictor's loss that a predictor which has learnt nothing has.
const NOTHING: f64 = 0.98;
/// Directions, as a share of the width, below which features have become few.
const FEW_DIRECTIONS: f64 = 0.02;

/// What is looked at, and when.
pub(crate) struct Watch {
    every: u64,
    images: Arc<Dataset>,
    numbers: Vec<u32>,
    labelled: Option<(Known, Known)>,
    /// Warmed up steps are judged.
    from: u64,
    warned: bool,
}

/// Labelled images, cut once they were looked at.
struct Known {
    labelled: Labelled,
    /// Whether they were cut; none inside where they cannot be kept.
    pictures: Option<Option<Pictures>>,
}

impl Known {
    fn features(&mut self, encoder: &Encoder, batch: usize) -> Result<Features> {
        let Labelled { dataset, labels } = &self.labelled;
        let wanted = wanted(dataset, None, batch);
        if self.pictures.is_none() {
            self.pictures = Some(Pictures::cut(dataset, encoder.transform(wanted.fit), wanted.batch)?);
        }
        let extracted = match &self.pictures {
            Some(Some(pictures)) => encoder.extract_kept(pictures, wanted.batch, Pool::Last),
            _ => encoder.extract(&wanted, Pool::Last)?,
        };
        Ok(extracted.labelled(labels))
    }
}

impl Watch {
    /// As the run's configuration has it; nothing where nothing is asked for.
    pub(crate) fn of(run: &Run, images: Option<&Arc<Dataset>>) -> Result<Option<Watch>> {
        let asked = &run.config.eval;
        let Some(every) = asked.every else { return Ok(None) };
        let Some(images) = images else {
            output::note("eval.every is without effect here: a replay has no images to look at");
            return Ok(None);
        };
        let labelled = match (&asked.train, &asked.val) {
            (Some(train), Some(val)) => {
                let (train, val) = labelled::pair(train, val, run.config.meta.seed)?;
                Some((Known { labelled: train, pictures: None }, Known { labelled: val, pictures: None }))
            }
            _ => None,
        };
        let (count, all) = (asked.images.min(images.len()), images.len());
        let numbers = (0..count).map(|k| (k * all / count) as u32).collect();
        let from = run.schedule.warmup_steps;
        Ok(Some(Watch {
            every: every.steps(run.steps_per_epoch),
            images: Arc::clone(images),
            numbers,
            labelled,
            from,
            warned: false,
        }))
    }

    /// Whether it is time to look after so many steps.
    pub(crate) fn is_due(&self, steps: u64) -> bool {
        steps.is_multiple_of(self.every)
    }

    /// Looks; the words are a warning that comes once.
    pub(crate) fn look(
        &mut self,
        run: &Run,
        model: &Jepa,
        state: &State,
        loss: f64,
        targets: &Var,
    ) -> Result<(Seen, Option<String>)> {
        debug_assert_eq!(state.target.len(), model.encoder_len, "the target encoder is an encoder");
        let encoder = Encoder::new(&run.config, state.target.clone());
        let batch = run.config.data.batch_size;
        let some = encoder.extract(&wanted(&self.images, Some(&self.numbers), batch), Pool::Last)?.features;
        let knn = match &mut self.labelled {
            None => None,
            Some((train, val)) => {
                let (train, val) = (train.features(&encoder, batch)?, val.features(&encoder, batch)?);
                let votes = knn::predict(&train, &val, Knn { k: NEIGHBOURS, temperature: KNN_TEMPERATURE })?;
                Some(accuracy(&votes, &val.labels)?.value)
            }
        };
        let seen = Seen {
            step: state.step - 1,
            rank_me: rank_me(&some)?,
            effective_rank: effective_rank(&some)?,
            feature_std: spread(&some)?,
            target_std: ijepa_tensor::ops::statistics::mean_column_deviation(targets.view(), targets.width()),
            loss_of_mean: loss_of_mean(&targets.to_vec(), targets.width()),
            loss,
            knn,
        };
        let words = (state.step > self.from && !self.warned).then(|| warning(&seen, some.width)).flatten();
        self.warned |= words.is_some();
        Ok((seen, words))
    }
}

/// Features of weights that are gone after the next step: none are kept.
fn wanted<'a>(dataset: &'a Arc<Dataset>, images: Option<&'a [u32]>, batch: usize) -> Wanted<'a> {
    Wanted { dataset, images, fit: Fit::Cut, batch, store: &Store::NONE, narrated: false }
}

/// Smooth L1 of targets (n, d) against their own mean: what a predictor gets that says the same about every patch.
fn loss_of_mean(targets: &[f32], width: usize) -> f64 {
    let rows = (targets.len() / width).max(1) as f64;
    let mut mean = vec![0.0; width];
    for row in targets.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / rows);
    }
    let smooth_l1 =
        |difference: f64| if difference.abs() < 1.0 { 0.5 * difference * difference } else { difference.abs() - 0.5 };
    let row = |row: &[f32]| row.iter().zip(&mean).map(|(value, mean)| smooth_l1(f64::from(*value) - mean)).sum::<f64>();
    targets.chunks_exact(width).map(row).sum::<f64>() / targets.len().max(1) as f64
}

/// What is wrong, in plain words, and what to try.
fn warning(seen: &Seen, width: usize) -> Option<String> {
    if seen.target_std < COLLAPSED {
        return Some(format!(
            "the encoder has collapsed: it says nearly the same about every patch (spread of the targets {:.3}, 1 is most), so the \
             loss means nothing. Try a lower optimization.lr, a longer optimization.warmup, a slower target encoder (optimization.ema \
             nearer to 1), larger target blocks (mask.pred_mask_scale)",
            seen.target_std
        ));
    }
    if seen.loss > NOTHING * seen.loss_of_mean {
        return Some(format!(
            "the predictor knows no more than the mean of its targets (loss {:.4}, of the mean {:.4}). Early on that is usual; when it \
             stays, try a higher optimization.lr, a larger meta.init_std for narrow encoders, or smaller target blocks (mask.pred_mask_scale)",
            seen.loss, seen.loss_of_mean
        ));
    }
    if seen.effective_rank < 1.0 + FEW_DIRECTIONS * width as f64 {
        return Some(format!(
            "features vary in few directions: effective rank {:.1} of {width}. Try a lower optimization.lr, more varied images, \
             more or larger target blocks (mask.num_pred_masks, mask.pred_mask_scale)",
            seen.effective_rank
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Seen {
        Seen {
            step: 99,
            rank_me: 20.0,
            effective_rank: 30.0,
            feature_std: 0.3,
            target_std: 0.8,
            loss: 0.1,
            loss_of_mean: 0.3,
            knn: None,
        }
    }

    #[test]
    fn the_loss_of_the_mean_is_that_of_its_definition() {
        // Columns 0, 4 and 1, 1: means 2 and 1; differences of 2 cost 1.5, of 0 nothing.
        assert!((loss_of_mean(&[0.0, 1.0, 4.0, 1.0], 2) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn each_way_to_fail_has_its_words_and_a_healthy_run_has_none() {
        assert_eq!(warning(&healthy(), 96), None);
        let said = |seen: Seen| warning(&seen, 96).expect("a warning");
        assert!(said(Seen { target_std: 0.01, ..healthy() }).contains("collapsed"));
        assert!(said(Seen { loss: 0.3, ..healthy() }).contains("mean of its targets"));
        assert!(said(Seen { effective_rank: 1.2, ..healthy() }).contains("few directions"));
    }
}
