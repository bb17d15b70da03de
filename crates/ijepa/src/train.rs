//! The training loop, in the order in which things happen.

use std::mem::replace;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use ijepa_data::Dataset;
use ijepa_model::checkpoint::{Meta, Source};
use ijepa_model::jepa::{Batch, Jepa, State};
use ijepa_model::optimiser;
use ijepa_tensor::ops::statistics;
use ijepa_tensor::{Buf, Pool, Var, ViewMut};

use crate::batches::Batches;
use crate::distributed::{Buckets, World};
use crate::exit::{Exit, Failure};
use crate::feed::Feed;
use crate::log::{Log, Row, folder};
use crate::output;
use crate::run::{IMAGES_PER_STEP, Run};
use crate::stop::Stop;
use crate::waits::{Waits, fetched_again};
use crate::watch::Watch;

/// The key of the number of images in a checkpoint: with another number, an epoch and the order in it would be others.
pub(crate) const IMAGES: &str = "images";

/// Trains from `state.step` to `run.steps`; [`Exit::Stopped`] when a signal came and everything is saved.
pub(crate) fn train(
    (run, world): (&Run, &World),
    model: &Jepa,
    state: &mut State,
    batches: &mut Batches,
    log: &mut Log,
    watch: &mut Option<Watch>,
    stop: &Stop,
) -> Result<Exit> {
    let pool = Pool::on(state.params.device()); // every activation and gradient, used again from step to step
    let mut grads = state.params.zeros_beside(state.params.len());
    let buckets = buckets(run, world, grads.len());
    let mut feed = Feed::of(batches, world);
    let first = state.step;
    let mut saved = first;
    let mut waits = Waits::begin();

    for step in first..run.steps {
        let began = Instant::now();
        // 1. and 2. what the images say, summed over the ranks
        let own = match gradients((run, world), model, state, (&pool, &mut grads, &buckets), &mut feed, log) {
            Ok(Some(own)) => own,
            Ok(None) => break,
            Err(error) => {
                if state.step > saved {
                    save((run, world), model, state)?;
                }
                return Err(error);
            }
        };
        let waited = feed.waited();
        waits.add(waited);
        let all = Sums::over(world, &own, (&grads, &buckets), stop.asked());
        if !all.loss.is_finite() || !all.grad_norm.is_finite() {
            return world.agree(Err(not_finite(run, step, all, saved).into()));
        }
        // 3. move the encoder and the predictor, then the target encoder
        move_on((run, world), model, state, (&mut grads, &buckets));

        let (elapsed, waited) = (began.elapsed().as_secs_f64(), waited.as_secs_f64());
        log.step(&Row {
            step,
            epoch: step / run.steps_per_epoch + 1,
            loss: all.loss,
            lr: run.schedule.lr(step),
            wd: run.schedule.weight_decay(step),
            ema: run.schedule.momentum(step),
            context_patches: own.context_patches,
            target_patches: own.target_patches,
            grad_norm: all.grad_norm,
            target_std: statistics::mean_column_deviation(own.targets.view(), own.targets.width()),
            step_ms: (elapsed - waited) * 1e3,
            data_ms: waited * 1e3,
            img_per_s: own.together as f64 / elapsed,
        })?;
        if let Some(watch) = watch.as_mut().filter(|watch| watch.is_due(state.step)) {
            let (seen, warning) = watch.look(run, model, state, all.loss, &own.targets)?;
            log.seen(&seen, warning)?;
        }

        if all.stop || state.step == run.steps || state.step.is_multiple_of(run.save_every) {
            save((run, world), model, state)?;
            saved = state.step;
        }
        if all.stop && state.step < run.steps {
            log.progress.finish();
            return Ok(Exit::Stopped);
        }
    }
    log.progress.finish();
    let batches = feed.source();
    output::note(&waits.said(batches.spent(), run.loader_threads));
    if let Some(said) = waits.exchanged(world.exchanged(), state.step - first) {
        output::note(&said);
    }
    if let Some(Dataset::Shards(shards)) = batches.dataset()
        && let Some(said) = fetched_again(shards.fetched(), shards.copied(), run.config.data.download_gb)
    {
        output::note(&said);
    }
    Ok(Exit::Done)
}

/// What this rank knows of a step.
struct Own {
    /// Its share of the loss.
    loss: f64,
    /// Images of the step, of all ranks together.
    together: usize,
    /// Of the last batch.
    context_patches: f64,
    target_patches: f64,
    targets: Var,
}

/// The gradients of this rank's images of a step, one batch after the other, and in its shards their sums over the ranks; nothing after the last
/// step.
fn gradients(
    (run, world): (&Run, &World),
    model: &Jepa,
    state: &State,
    (pool, grads, buckets): (&Pool, &mut Buf, &Buckets),
    feed: &mut Feed,
    log: &mut Log,
) -> Result<Option<Own>> {
    let mut reduction = world.reduction(buckets);
    let (mut own, mut loss) = (None, 0.0);
    for batch in 0..run.shares.accumulate {
        drop(own.take()); // its targets make room
        let Some(data) = feed.next(world, log)? else { return Ok(None) };
        let share = data.masks.batch as f32 / data.together as f32;
        let seen = Batch { images: feed.images(&data), masks: &data.masks };
        let sum = |grads: ViewMut, from: usize| {
            if batch + 1 == run.shares.accumulate {
                reduction.complete(grads, from);
            }
        };

        let targets = model.targets(pool, state.target.view(), seen); // 1. what the target encoder sees, no gradient
        let part = model.loss_and_gradients(pool, (&state.params, grads, batch > 0), seen, &targets, share, sum); // 2. guess it from the context
        feed.look_ahead(world);
        loss += f64::from(share) * f64::from(part.to_vec()[0]);
        own = Some(Own {
            loss,
            together: data.together,
            context_patches: data.masks.context[0].per_image as f64,
            target_patches: data.masks.targets[0].per_image as f64,
            targets,
        });
        feed.recycle(data);
    }
    reduction.finish(grads);
    Ok(own)
}

/// What all ranks know of a step, once gradients are summed.
#[derive(Clone, Copy)]
struct Sums {
    loss: f64,
    /// Norm of the gradient over all parameters.
    grad_norm: f64,
    /// Whether any rank was asked to stop.
    stop: bool,
}

impl Sums {
    /// `grads` holds the sums in this rank's shards.
    fn over(world: &World, own: &Own, (grads, buckets): (&Buf, &Buckets), stop: bool) -> Sums {
        let norm = statistics::norm(grads.view(), &buckets.own());
        if world.is_alone() {
            return Sums { loss: own.loss, grad_norm: norm, stop };
        }
        let ranks = world.gather([own.loss, norm * norm, f64::from(u8::from(stop))]);
        Sums {
            loss: ranks.iter().map(|[loss, ..]| loss).sum(),
            grad_norm: ranks.iter().map(|[_, square, _]| square).sum::<f64>().sqrt(),
            stop: ranks.iter().any(|[.., stop]| *stop > 0.0),
        }
    }
}

/// The step of the optimiser and of the target encoder, the same on all ranks. Where the moments are shared out (ZeRO-1: Rajbhandari et
/// al., arXiv 1910.02054), each rank moves the parameters of its shard; else each moves them all.
fn move_on((run, world): (&Run, &World), model: &Jepa, state: &mut State, (grads, buckets): (&mut Buf, &Buckets)) {
    if is_sharded(run, world) {
        optimiser::move_parts(model, state, grads, &run.schedule, &buckets.own());
        let State { params, target, step, .. } = state;
        world.all_gather(params, buckets, |params, part| {
            optimiser::follow(model, (params, target), &run.schedule, *step, part);
        });
        *step += 1;
    } else {
        world.all_gather(grads, buckets, |_, _| {});
        optimiser::step(model, state, grads, &run.schedule);
    }
}

/// How gradients, parameters and moments are shared out.
fn buckets(run: &Run, world: &World, len: usize) -> Buckets {
    world.buckets(len, 1e6 * run.config.distributed.bucket_mb)
}

/// Whether each rank holds the optimiser's moments of its own shards alone.
fn is_sharded(run: &Run, world: &World) -> bool {
    run.config.distributed.shard_optimizer && !world.is_alone()
}

/// Gives back the memory of moments that other ranks hold, before anything is trained.
pub(crate) fn keep_own_moments(run: &Run, world: &World, state: &mut State) {
    if is_sharded(run, world) {
        let parts = buckets(run, world, state.params.len()).own();
        for moments in [&mut state.exp_avg, &mut state.exp_avg_sq] {
            let mut own = Buf::zeros(parts.iter().map(Range::len).sum());
            let mut rest = own.as_mut_slice();
            for part in &parts {
                let (values, others) = rest.split_at_mut(part.len());
                values.copy_from_slice(&moments.as_slice()[part.clone()]);
                rest = others;
            }
            *moments = own;
        }
    }
}

/// The newest checkpoint of a run.
pub(crate) fn latest(run: &Run) -> PathBuf {
    folder::latest(&run.folder)
}

/// Writes the newest checkpoint, whole or not at all: the first rank does, with what the others hold. All ranks must call it.
fn save((run, world): (&Run, &World), model: &Jepa, state: &mut State) -> Result<()> {
    if !is_sharded(run, world) {
        let written = match (world.is_first(), state.params.device()) {
            (false, _) => Ok(()),
            (true, None) => write(run, model, state),
            (true, Some(_)) => write(run, model, &state.fetched()),
        };
        return world.agree(written);
    }
    let buckets = buckets(run, world, state.params.len());
    let gather = |own: &Buf| world.gather_owned(own, &buckets);
    let written = match (gather(&state.exp_avg), gather(&state.exp_avg_sq)) {
        (Some(exp_avg), Some(exp_avg_sq)) => {
            if state.params.device().is_some() {
                let (params, target) = (state.params.to_main_memory(), state.target.to_main_memory());
                let fetched = State { params, target, exp_avg, exp_avg_sq, step: state.step };
                return world.agree(write(run, model, &fetched));
            }
            let own = [replace(&mut state.exp_avg, exp_avg), replace(&mut state.exp_avg_sq, exp_avg_sq)];
            let written = write(run, model, state);
            [state.exp_avg, state.exp_avg_sq] = own;
            written
        }
        _ => Ok(()),
    };
    world.agree(written)
}

fn write(run: &Run, model: &Jepa, state: &State) -> Result<()> {
    // What the reference keeps beside its weights.
    let last = state.step.saturating_sub(1);
    let other = [
        (IMAGES, run.images.to_string()),
        ("steps_per_epoch", run.steps_per_epoch.to_string()),
        ("batch_size", run.config.data.batch_size.to_string()),
        ("world_size", run.shares.ranks.to_string()),
        (IMAGES_PER_STEP, run.shares.batch.to_string()),
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

fn not_finite(run: &Run, step: u64, Sums { loss, grad_norm, .. }: Sums, saved: u64) -> Failure {
    let kept = match saved {
        0 => "nothing was saved yet".to_owned(),
        saved => format!("{} holds the state after step {saved}", latest(run).display()),
    };
    Failure::new(Exit::NotFinite, format!("the loss of step {step} is {loss} and the norm of its gradient {grad_norm}; the step was not taken, {kept}"))
        .remedy("a lower optimization.lr, a longer optimization.warmup, or a look at the data (images that are constant, or not normalised)")
}
