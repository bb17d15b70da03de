//! Fine-tuning: the network sees labelled images, mixed and distorted, and all of it learns, layers near the input least.

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::key::{Key, Purpose};
use ijepa_data::transform::Mixup;
use ijepa_data::{StreamConfig, StreamLoader, TuneTransform};
use ijepa_model::classifier::{Batch, DropPath, Rates, State};
use ijepa_tensor::{Pool, View};

use super::course::{Course, Length, Shared};
use super::recipe::Recipe;
use crate::exit::Exit;

/// Batches that may be ready ahead; one of both views of 160 images at 96 pixels is 35 MB.
const QUEUE: usize = 2;

/// One training on labelled images.
pub(crate) struct Fit<'a> {
    pub(crate) shared: Shared<'a>,
    pub(crate) recipe: &'a Recipe,
    /// The images with labels.
    pub(crate) labelled: &'a [u32],
    pub(crate) seed: u64,
}

impl Fit<'_> {
    /// Images of a batch.
    fn batch(&self) -> usize {
        self.recipe.batch.min(self.labelled.len())
    }

    pub(crate) fn length(&self) -> Length {
        Length::new(self.recipe.epochs, self.recipe.warmup, self.labelled.len(), self.batch())
    }

    /// Trains from `state.step` to the end; [`Exit::Stopped`] when a signal came and everything is saved.
    pub(crate) fn train(&self, state: &mut State, course: &mut Course) -> Result<Exit> {
        let Fit { shared: Shared { task, model, at_once, .. }, recipe, seed, .. } = *self;
        let (batch, length) = (self.batch(), self.length());
        let lr = recipe.lr * batch as f64 / 256.0;
        let schedule = length.schedule(lr, recipe.final_lr, recipe.weight_decay, recipe.ema.unwrap_or_default());
        let view = recipe.view(task.size, task.normalisation)?;
        let mut batches = stream(&self.shared, self.labelled, (batch, seed), (state.step, length.steps), vec![view])?;
        let pool = Pool::on(state.params.device());
        let mut grads = state.params.zeros_beside(state.params.len());

        while let Some(mut data) = batches.next()? {
            let step = data.step;
            course.unreadable(&data.unreadable);
            let images = &mut data.views[0];
            let targets = mixed(recipe.mixing(), images, &task.labels(&data.indices), &self.shared, (seed, step)); // 1. mix images and labels
            let seen = Batch { images: View::Cpu(images), targets: &targets };
            let drop_path = DropPath { rate: recipe.drop_path, seed, step, first: 0 };
            let loss = model.loss_and_gradients(&pool, (&state.params, &mut grads, false), seen, drop_path, at_once); // 2. name them
            course.check(loss, state)?;
            let rates = Rates {
                learning_rate: schedule.lr(step),
                weight_decay: schedule.weight_decay(step),
                layer_decay: recipe.layer_decay,
                momentum: schedule.momentum(step),
            };
            model.step(state, &grads, rates); // 3. move all layers, the last ones most
            if course.step_done(state, loss)? {
                return Ok(Exit::Stopped);
            }
        }
        Ok(Exit::Done)
    }
}

/// Mixes the images of a batch with each other and gives their targets (b, classes), each row weighing 1/b.
pub(super) fn mixed(
    mixup: Mixup,
    images: &mut [f32],
    labels: &[u32],
    shared: &Shared,
    (seed, step): (u64, u64),
) -> Vec<f32> {
    let mix = mixup.draw(shared.task.size, &mut Key::new(seed, Purpose::Mix, step, 0).rng());
    mix.apply(images, shared.task.size);
    let mut targets = mixup.targets(mix, labels, shared.task.classes);
    weigh(&mut targets, 1.0 / labels.len() as f64);
    targets
}

/// Gives rows another weight.
pub(super) fn weigh(targets: &mut [f32], weight: f64) {
    targets.iter_mut().for_each(|target| *target *= weight as f32);
}

/// Views of `samples` in batches, from one step to another.
pub(super) fn stream(
    shared: &Shared,
    samples: &[u32],
    (batch_size, seed): (usize, u64),
    (start_step, stop_step): (u64, u64),
    views: Vec<TuneTransform>,
) -> Result<StreamLoader> {
    let config = StreamConfig {
        seed,
        samples: samples.to_vec(),
        batch_size,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        queue: QUEUE,
        start_step,
        stop_step,
        views,
    };
    Ok(StreamLoader::start(Arc::clone(&shared.task.train), config)?)
}
