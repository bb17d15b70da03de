//! What happens after every step of a training? Progress, checkpoints, measurements on the way, and a stop when a signal asks for it.

use std::time::Instant;

use anyhow::Result;
use ijepa_model::Classifier;
use ijepa_model::classifier::State;
use ijepa_model::schedule::Schedule;

use super::keep::{Keeper, Sums};
use super::task::Task;
use crate::exit::{Exit, Failure};
use crate::log::progress::Progress;
use crate::output;
use crate::stop::Stop;

/// What all trainings of a command share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) task: &'a Task,
    pub(crate) model: &'a Classifier,
    pub(crate) at_once: usize,
    pub(crate) eval_every: Option<u64>,
    /// Only where something is kept.
    pub(crate) stop: Option<&'a Stop>,
}

/// The length of a training, and how its learning rate runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Length {
    pub(crate) steps: u64,
    warmup_steps: u64,
    steps_per_epoch: f64,
}

/// A training on its way.
pub(crate) struct Course<'a> {
    shared: Shared<'a>,
    keeper: Keeper,
    length: Length,
    progress: Progress,
    sums: Sums,
    began: Instant,
    /// Mean of the loss over about the last twenty steps, for the eye.
    recent: Option<f64>,
}

impl Length {
    /// `epochs` over `images` images in batches of `batch`, at least one step.
    pub(crate) fn new(epochs: f64, warmup: f64, images: usize, batch: usize) -> Length {
        let steps_per_epoch = images as f64 / batch as f64;
        let steps = ((epochs * steps_per_epoch).round() as u64).max(1);
        Length { steps, warmup_steps: ((warmup * steps_per_epoch).round() as u64).min(steps), steps_per_epoch }
    }

    /// A line up to `lr` and half a cosine down to `final_lr`, as in MAE's fine-tuning but a step ahead: its first step has rate 0.
    pub(crate) fn schedule(&self, lr: f64, final_lr: f64, weight_decay: f64, momentum: f64) -> Schedule {
        Schedule {
            warmup_steps: self.warmup_steps,
            cosine_steps: self.steps,
            ema_steps: 1.0,
            start_lr: 0.0,
            lr,
            final_lr: final_lr.min(lr),
            weight_decay,
            final_weight_decay: weight_decay,
            ema: (momentum, momentum),
        }
    }

    /// Whether a step belongs to the last epoch.
    fn is_last_epoch(&self, step: u64) -> bool {
        (self.steps - step) as f64 <= self.steps_per_epoch.max(1.0)
    }

    /// The whole epochs that end with a step.
    fn epochs_after(&self, step: u64) -> u64 {
        ((step + 1) as f64 / self.steps_per_epoch + 1e-9) as u64
    }
}

impl<'a> Course<'a> {
    /// Goes on at `state`.
    pub(crate) fn new(shared: Shared<'a>, keeper: Keeper, length: Length, state: &State, sums: Sums) -> Course<'a> {
        let progress = Progress::start(length.steps, state.step);
        Course { shared, keeper, length, progress, sums, began: Instant::now(), recent: None }
    }

    /// Ends the training when its loss is no number any more; `state` is that before the step.
    pub(crate) fn check(&self, loss: f64, state: &State) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let problem = format!("the loss of step {} is {loss}; the step was not taken", state.step);
        Err(Failure::new(Exit::NotFinite, problem).remedy("a lower --lr, or a longer --warmup").into())
    }

    /// An unreadable image stands for itself once.
    pub(crate) fn unreadable(&self, images: &[ijepa_data::Unreadable]) {
        images.iter().for_each(|image| self.progress.warning(&format!("another image stands in: {}", image.error)));
    }

    /// What a step with images without labels counts.
    pub(crate) fn count_pseudo(&mut self, step: u64, (unlabelled, sure, right): (usize, usize, usize)) {
        if self.length.is_last_epoch(step) {
            self.sums.unlabelled += unlabelled as u64;
            self.sums.sure += sure as u64;
            self.sums.right += right as u64;
        }
    }

    /// A step is done; `state` is that after it. Says whether the training has to stop now.
    pub(crate) fn step_done(&mut self, state: &State, loss: f64) -> Result<bool> {
        let step = state.step - 1;
        if self.length.is_last_epoch(step) {
            self.sums.loss += loss;
            self.sums.steps += 1;
        }
        let recent = self.recent.map_or(loss, |recent| 0.95 * recent + 0.05 * loss);
        self.recent = Some(recent);
        let epochs = self.length.epochs_after(step);
        self.progress.advance(state.step, &format!("steps  epoch {}  loss {recent:.4}", epochs + 1));
        let done = state.step == self.length.steps;
        let before = if step == 0 { 0 } else { self.length.epochs_after(step - 1) };
        if self.shared.eval_every.is_some_and(|every| epochs / every > before / every) && !done {
            let (accuracy, _) = self.shared.task.judge(self.shared.model, state.judged(), self.shared.at_once)?;
            let (value, error) = (100.0 * accuracy.value, 100.0 * accuracy.standard_error);
            self.progress.note(&format!("after epoch {epochs}: {value:.2} % ± {error:.2}"));
        }
        let asked = self.shared.stop.is_some_and(Stop::asked);
        if asked || done || self.keeper.is_due() {
            self.save(state)?;
        }
        Ok(asked && !done)
    }

    /// The sums until now, with the time.
    pub(crate) fn finish(&mut self) -> Sums {
        self.progress.finish();
        self.clock();
        self.sums
    }

    fn save(&mut self, state: &State) -> Result<()> {
        self.clock();
        self.keeper.save(self.shared.model, state, &self.sums)
    }

    fn clock(&mut self) {
        self.sums.seconds += self.began.elapsed().as_secs_f64();
        self.began = Instant::now();
    }
}

impl Sums {
    /// Mean training loss of the last epoch.
    pub(crate) fn mean_loss(&self) -> f64 {
        self.loss / self.steps.max(1) as f64
    }
}

/// A note that tells where a training was left.
pub(crate) fn note_stopped(folder: Option<&std::path::Path>) {
    if let Some(folder) = folder {
        output::note(&format!("stopped and saved in {}; --resume goes on", folder.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_over_the_warm_up_and_ends_at_its_end() {
        let length = Length::new(50.0, 5.0, 95, 32);
        assert_eq!((length.steps, length.warmup_steps), (148, 15));
        let schedule = length.schedule(1e-3, 1e-6, 0.05, 0.0);
        assert!((schedule.lr(0) - 1e-3 / 15.0).abs() < 1e-12);
        assert!((schedule.lr(14) - 1e-3).abs() < 1e-12);
        assert!((schedule.lr(147) - 1e-6).abs() < 1e-12);
        assert!((schedule.weight_decay(70) - 0.05).abs() < 1e-12);
    }

    #[test]
    fn fewer_images_than_a_batch_still_take_a_step() {
        assert_eq!(Length::new(0.2, 5.0, 3, 64).steps, 1);
        let length = Length::new(10.0, 0.0, 10, 3);
        assert_eq!((0..length.steps).filter(|&step| length.is_last_epoch(step)).count(), 3);
        assert_eq!((length.epochs_after(2), length.epochs_after(3), length.epochs_after(32)), (0, 1, 9));
    }
}
