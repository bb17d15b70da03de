//! The training loop, in the order in which things happen.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use ijepa_data::Dataset;
use ijepa_model::checkpoint::{Meta, Source};
use ijepa_model::jepa::{Batch, Jepa, State};
use ijepa_model::optimiser;
use ijepa_tensor::ops::{adamw, statistics};
use ijepa_tensor::{Buf, Pool, View};

use crate::batches::Batches;
use crate::exit::{Exit, Failure};
use crate::log::{Log, Row, folder};
use crate::output;
use crate::run::Run;
use crate::stop::Stop;
use crate::waits::{Waits, fetched_again};
use crate::watch::Watch;

/// The key of the number of images in a checkpoint: with another number, an epoch and the order in it would be others.
pub(crate) const IMAGES: &str = "images";

/// Trains from `state.step` to `run.steps`; [`Exit::Stopped`] when a signal came and everything is saved.
pub(crate) fn train(
    run: &Run,
    model: &Jepa,
    state: &mut State,
    batches: &mut Batches,
    log: &mut Log,
    watch: &mut Option<Watch>,
    stop: &Stop,
) -> Result<Exit> {
    let pool = Pool::new(); // every activation and gradient, used again from step to step
    let mut grads = Buf::zeros(model.layout.len);
    let mut saved = state.step;
    let mut waits = Waits::begin();

    for step in state.step..run.steps {
        let began = Instant::now();
        let data = match batches.next() {
            Ok(Some(data)) => data,
            Ok(None) => break,
            Err(error) => {
                if state.step > saved {
                    save(run, model, state)?;
                }
                log.unreadable(error.unreadable())?;
                return Err(error.into());
            }
        };
        let waited = began.elapsed();
        waits.add(waited);
        log.unreadable(&data.unreadable)?;
        let batch = Batch { images: View::Cpu(&data.images), masks: &data.masks };

        let targets = model.targets(&pool, state.target.view(), batch); // 1. what the target encoder sees, no gradient
        adamw::clear(grads.view_mut());
        let loss = model.loss_and_gradients(&pool, &state.params, &mut grads, batch, &targets); // 2. guess it from the context
        let grad_norm = statistics::norm(grads.view());
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(not_finite(run, step, loss, grad_norm, saved).into());
        }
        optimiser::step(model, state, &grads, &run.schedule); // 3. move the encoder and the predictor, then the target encoder

        let elapsed = began.elapsed().as_secs_f64();
        log.step(&Row {
            step,
            epoch: step / run.steps_per_epoch + 1,
            loss: f64::from(loss),
            lr: run.schedule.lr(step),
            wd: run.schedule.weight_decay(step),
            ema: run.schedule.momentum(step),
            context_patches: data.masks.context[0].per_image as f64,
            target_patches: data.masks.targets[0].per_image as f64,
            grad_norm,
            target_std: statistics::mean_column_deviation(targets.view(), targets.width()),
            step_ms: (elapsed - waited.as_secs_f64()) * 1e3,
            data_ms: waited.as_secs_f64() * 1e3,
            img_per_s: data.masks.batch as f64 / elapsed,
        })?;
        batches.recycle(data);
        if let Some(watch) = watch.as_mut().filter(|watch| watch.is_due(state.step)) {
            let (seen, warning) = watch.look(run, model, state, f64::from(loss), &targets)?;
            log.seen(&seen, warning)?;
        }

        let asked = stop.asked();
        if asked || state.step == run.steps || state.step.is_multiple_of(run.save_every) {
            save(run, model, state)?;
            saved = state.step;
        }
        if asked && state.step < run.steps {
            log.progress.finish();
            return Ok(Exit::Stopped);
        }
    }
    log.progress.finish();
    output::note(&waits.said(batches.spent(), run.loader_threads));
    if let Some(Dataset::Shards(shards)) = batches.dataset()
        && let Some(said) = fetched_again(shards.fetched(), shards.copied(), run.config.data.download_gb)
    {
        output::note(&said);
    }
    Ok(Exit::Done)
}

/// The newest checkpoint of a run.
pub(crate) fn latest(run: &Run) -> PathBuf {
    folder::latest(&run.folder)
}

/// Writes the newest checkpoint, whole or not at all.
pub(crate) fn save(run: &Run, model: &Jepa, state: &State) -> Result<()> {
    // What the reference keeps beside its weights.
    let last = state.step.saturating_sub(1);
    let other = [
        (IMAGES, run.images.to_string()),
        ("steps_per_epoch", run.steps_per_epoch.to_string()),
        ("batch_size", run.config.data.batch_size.to_string()),
        ("world_size", "1".to_owned()),
        ("lr", run.schedule.lr(last).to_string()),
        ("weight_decay", run.schedule.weight_decay(last).to_string()),
    ];
    let meta = Meta {
        source: Source::Ours,
        step: Some(state.step),
        epoch: Some(state.step / run.steps_per_epoch),
        method: Some("ijepa".to_owned()),
        seed: Some(run.config.meta.seed),
        config: Some(run.config.to_yaml()),
        other: other.map(|(key, value)| (key.to_owned(), value)).into(),
        ..Meta::default()
    };
    Ok(model.save(&latest(run), state, &meta)?)
}

fn not_finite(run: &Run, step: u64, loss: f32, grad_norm: f64, saved: u64) -> Failure {
    let kept = match saved {
        0 => "nothing was saved yet".to_owned(),
        saved => format!("{} holds the state after step {saved}", latest(run).display()),
    };
    Failure::new(Exit::NotFinite, format!("the loss of step {step} is {loss} and the norm of its gradient {grad_norm}; the step was not taken, {kept}"))
        .remedy("a lower optimization.lr, a longer optimization.warmup, or a look at the data (images that are constant, or not normalised)")
}
