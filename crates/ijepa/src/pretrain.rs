//! `ijepa pretrain`: from the command line to the loop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ijepa_data::dataset::Index;
use ijepa_data::{Dataset, LoaderConfig, Split, Storage, TrainLoader};
use ijepa_model::VitConfig;
use ijepa_model::checkpoint::{self, Meta, Network, Reader, Source};
use ijepa_model::jepa::{Jepa, State};
use ijepa_model::saved::{self, Hints, encoder_sizes, predictor_sizes, restore_encoder};
use ijepa_tensor::Buf;

use crate::batches::Batches;
use crate::cli::PretrainArgs;
use crate::config::{self, Recompute};
use crate::device;
use crate::distributed::World;
use crate::exit::{Exit, Failure};
use crate::extract::{self, choose_network, configuration};
use crate::hub;
use crate::log::{Log, folder};
use crate::opening;
use crate::run::{self, Run, Settings, Shares, Start};
use crate::stop::Stop;
use crate::train::{IMAGES, keep_own_moments, latest, train};
use crate::watch::Watch;
use crate::{output, precision};

/// Batches made ahead of the step that is being taken.
pub(crate) const QUEUE: usize = 4;

/// What a run reads: images to draw batches from, or batches.
enum Input {
    Dataset(Arc<Dataset>),
    Replay(Batches),
}

/// How a run ended.
pub(crate) struct Done {
    pub(crate) exit: Exit,
    pub(crate) run: Run,
    /// Weights of the target encoder.
    pub(crate) target: Buf,
}

/// Runs the command.
pub(crate) fn run(args: &PretrainArgs, world: &World) -> Result<Exit> {
    let settings = world.agree(run::settings(args))?;
    let settings = Settings { ranks: (world.rank, world.size), ..settings };
    if args.dry_run {
        let storage = Storage { index: None, ..settings.storage() };
        let ready = ready(&settings, args.replay.as_deref(), storage, world);
        let Ready { run, model, state, .. } = world.agree(ready)?;
        describe(&run, &model, &state);
        return Ok(Exit::Done);
    }
    let done = pretrain(&settings, args.replay.as_deref(), world)?;
    if done.exit == Exit::Done {
        output::note(&format!("done: {}", latest(&done.run).display()));
    }
    Ok(done.exit)
}

/// Trains as the settings say; `replay` names a file of batches to take instead of images.
pub(crate) fn pretrain(settings: &Settings, replay: Option<&Path>, world: &World) -> Result<Done> {
    let ready = ready(settings, replay, settings.storage(), world);
    let Ready { run, model, state, mut batches, mut watch } = world.agree(ready)?;
    // Until here the first rank may have listed or fetched all data, for as long as that takes.
    world.set_patience(Duration::from_secs_f64(60.0 * settings.config.distributed.timeout_minutes));
    if state.step >= run.steps {
        output::note(&format!("{} has done all its {} steps", run.folder.display(), run.steps));
        return Ok(Done { exit: Exit::Done, run, target: state.target });
    }
    let mut log = world.first_alone(|| {
        if world.is_first() {
            folder::prepare(&run.folder, &run.config, run.start.goes_on())?;
        }
        Log::open(&run, state.step)
    })?;
    describe(&run, &model, &state);
    let stop = Stop::on_signals()?;
    let (exit, target) = device::guarded(|| {
        let mut state = moved(state, world);
        let exit = train((&run, world), &model, &mut state, &mut batches, &mut log, &mut watch, &stop)?;
        Ok((exit, if world.device.is_some() { state.target.to_main_memory() } else { state.target }))
    })?;
    if exit == Exit::Stopped {
        let folder = run.folder.display();
        output::note(&match replay {
            None => format!("stopped and saved; go on with: ijepa pretrain --resume --out {folder}"),
            Some(file) => format!(
                "stopped and saved; go on with: ijepa pretrain --resume --out {folder} --replay {}",
                file.display()
            ),
        });
    }
    Ok(Done { exit, run, target })
}

/// The state where this rank computes; it is nowhere else from then on.
fn moved(state: State, world: &World) -> State {
    match &world.device {
        Some(device) => state.on(device),
        None => state,
    }
}

/// All that training needs, checked; nothing is written yet.
struct Ready {
    run: Run,
    model: Jepa,
    state: State,
    batches: Batches,
    watch: Option<Watch>,
}

fn ready(settings: &Settings, replay: Option<&Path>, storage: Storage, world: &World) -> Result<Ready> {
    folder::check(&settings.folder, settings.start.goes_on())?;
    let (run, input) = resolve(settings, replay, storage, world)?;
    let recompute = run.config.meta.recompute == Recompute::Blocks;
    let mut model = Jepa { recompute, ..Jepa::new(run.encoder, run.predictor) };
    (model.target_precision, model.precision) =
        precision::of_networks(run.config.meta.bfloat16_on_cpu, "meta.bfloat16_on_cpu")?;
    if world.device.is_some() {
        device::check(&model)?;
    }
    let mut state = begin(&run, &model)?;
    keep_own_moments(&run, world, &mut state);
    let images = match &input {
        Input::Dataset(dataset) => Some(dataset),
        Input::Replay(_) => None,
    };
    let watch = if world.is_first() { Watch::of(&run, images)? } else { None };
    let batches = batches(&run, input, state.step)?;
    Ok(Ready { run, model, state, batches, watch })
}

fn resolve(settings: &Settings, replay: Option<&Path>, storage: Storage, world: &World) -> Result<(Run, Input)> {
    for note in &settings.notes {
        output::note(note);
    }
    let Some(path) = replay else {
        // The first rank leaves its list of the images for the others.
        let dataset = world
            .first_alone(|| Ok(opening::open(&settings.data()?, Split::Train, settings.config.meta.seed, storage)?))?;
        if world.is_first() {
            remarks(&dataset);
        }
        let run = settings.resolve(dataset.len())?;
        return Ok((run, Input::Dataset(Arc::new(dataset))));
    };
    if !world.is_alone() || settings.config.optimization.accumulate > 1 {
        let problem = "--replay: a step of a replay is one batch of one process";
        return Err(Failure::usage(problem).remedy("start one process, with optimization.accumulate=1").into());
    }
    let encoder = config::encoder_config(&settings.config);
    let batches = Batches::replay(path, encoder.image, encoder.patches())?;
    let Batches::Replay(steps) = &batches else { unreachable!("a replay is a list of batches") };
    // In a replay an epoch is its share of the file.
    let steps = steps.len() as u64;
    let epochs = settings.config.optimization.epochs as u64;
    if steps < epochs || !steps.is_multiple_of(epochs) {
        let problem = format!(
            "{}: {steps} steps are not a whole number of steps for each of optimization.epochs = {epochs}",
            path.display()
        );
        return Err(Failure::usage(problem)
            .remedy("--set optimization.epochs=…, a divisor of the number of steps")
            .into());
    }
    Ok((settings.resolve_steps(steps / epochs), Input::Replay(batches)))
}

/// What a user may not expect of the data.
fn remarks(dataset: &Dataset) {
    match dataset {
        Dataset::Files(files) => {
            if let Index::Unwritten(reason) = files.index() {
                output::warning(&format!("the list of images is not kept for the next time: {reason}"));
            }
            if files.broken_links() > 0 {
                output::warning(&format!("{} links lead nowhere and are passed over", files.broken_links()));
            }
        }
        Dataset::Shards(shards) => {
            if shards.without_image() > 0 {
                output::warning(&format!(
                    "{} samples of the shards hold no image and are passed over",
                    shards.without_image()
                ));
            }
            if shards.images_beside() > 0 {
                output::note(&format!(
                    "{} further images of samples with several are not used",
                    shards.images_beside()
                ));
            }
        }
        _ => (),
    }
}

/// The state before the first step of this process.
fn begin(run: &Run, model: &Jepa) -> Result<State> {
    match &run.start {
        Start::Fresh => Ok(model.init(run.config.meta.seed, run.config.meta.init_std)),
        Start::Init(path) => init(run, model, &hub::locate(path)?),
        Start::Resume if !latest(run).exists() => {
            output::note(&format!("{} holds no checkpoint yet; starting from step 0", run.folder.display()));
            Ok(model.init(run.config.meta.seed, run.config.meta.init_std))
        }
        Start::Resume => go_on(run, model, &latest(run)),
        Start::ResumeFrom(path) => go_on(run, model, path),
    }
}

/// Weights of a checkpoint and everything else fresh. A file with one encoder gives it to both, a file without a predictor leaves that
/// fresh.
fn init(run: &Run, model: &Jepa, path: &Path) -> Result<State> {
    let mut file = Reader::open(path)?;
    let has = |network: Network| file.shape(&format!("{}patch_embed.proj.weight", network.prefix())).is_some();
    let both = !file.meta().lone && has(Network::Target) && has(Network::Context);
    let (prefix, network) = match both {
        true => (Network::Context.prefix(), None),
        false => choose_network(&file, None, path)?,
    };
    let native = native(run, &file, prefix, path)?;
    let mut state = model.init(run.config.meta.seed, run.config.meta.init_std);
    let whole = predictor_sizes(&file).is_some();
    if whole {
        state = model.restore_weights(&mut file, Some(native.grid())).with_context(|| unfit(path))?;
    } else {
        let (layout, vit) = saved::encoder(run.encoder);
        let mut held =
            |prefix| restore_encoder((&layout, &vit), &mut file, prefix, native.grid()).with_context(|| unfit(path));
        let context = held(prefix)?;
        let target = if both { held(Network::Target.prefix())? } else { context.clone() };
        state.target.as_mut_slice().copy_from_slice(target.as_slice());
        state.params.as_mut_slice()[..model.encoder_len].copy_from_slice(context.as_slice());
        let held = match (both, network) {
            (true, _) => "both encoders: they begin with them".to_owned(),
            (false, Some(network)) => format!("the {} encoder alone: both begin with it", network.name()),
            (false, None) => "one encoder: both begin with it".to_owned(),
        };
        output::note(&format!("{} holds {held}, the predictor with fresh weights", path.display()));
    }
    if native.grid() != run.encoder.grid() {
        let (from, to) = (native.grid(), run.encoder.grid());
        output::note(&format!("positions of {}×{} patches are interpolated to {}×{}", from.0, from.1, to.0, to.1));
    }
    Ok(state)
}

/// The sizes of the encoder in a file, as far as possible by its own word; it must have the run's heads, which no shape tells.
fn native(run: &Run, file: &Reader, prefix: &str, path: &Path) -> Result<VitConfig> {
    let run_hints = Hints { heads: Some(run.encoder.heads), image: Some(run.encoder.image) };
    let carried = configuration(file, None, prefix, path)?;
    let carried = carried.any().map(config::encoder_config);
    let hints = carried.map_or(run_hints, |sizes| Hints { heads: Some(sizes.heads), image: Some(sizes.image) });
    let advice = "see what the file holds: ijepa inspect FILE";
    let native = encoder_sizes(file, prefix, Hints::default(), hints)
        .map_err(|problem| extract::unfit(path, problem, advice))?;
    if native.heads != run.encoder.heads {
        let problem =
            format!("its encoder has {} attention heads, the configuration {}", native.heads, run.encoder.heads);
        return Err(extract::unfit(path, problem, &format!("--set meta.enc_heads={}", native.heads)));
    }
    Ok(native)
}

fn unfit(path: &Path) -> String {
    format!("{} does not fit the configuration", path.display())
}

/// The state in a checkpoint of this run.
fn go_on(run: &Run, model: &Jepa, path: &Path) -> Result<State> {
    let mut file = Reader::open(path)?;
    // Checkpoints of the reference do not say how many there were.
    if let Some(images) = file.meta().other.get(IMAGES).filter(|images| **images != run.images.to_string()) {
        let images = if images == "0" { "a replay instead of" } else { images };
        return Err(Failure::usage(format!(
            "{} began with {images} images, the data now has {}: the order of the images and the schedules would be others",
            run.folder.display(),
            run.images
        ))
        .remedy(format!(
            "name the data that it began with (--data), or begin a new run with --init {} and another --out",
            path.display()
        ))
        .into());
    }
    let mut state = model.restore(&mut file).with_context(|| unfit(path))?;
    if file.meta().source == Source::Reference {
        state.step = epochs_in_steps(run, path, file.meta(), state.step)?;
        output::note(&format!("going on from {}, after {} steps", path.display(), state.step));
    }
    let newest = latest(run);
    if newest.exists() {
        let done = checkpoint::list(&newest)?.optimizer_step.unwrap_or(0);
        if done > state.step {
            return Err(Failure::usage(format!(
                "meta.read_checkpoint names step {} of a run that is at step {done}: {} would be lost",
                state.step,
                newest.display()
            ))
            .remedy(format!(
                "--set meta.read_checkpoint=null to go on from the newest, or a new run with --init {} and another --out",
                path.display()
            ))
            .into());
        }
    }
    Ok(state)
}

/// The step after the epochs that the reference completed. Its optimiser may count a few fewer: with bf16 it leaves out steps whose
/// scaled gradients overflow (quirk Q21).
fn epochs_in_steps(run: &Run, path: &Path, meta: &Meta, optimizer_step: u64) -> Result<u64> {
    let epochs = meta.epoch.unwrap_or(0);
    let steps = epochs.saturating_mul(run.steps_per_epoch);
    if optimizer_step <= steps && optimizer_step >= steps - steps / 100 {
        return Ok(steps);
    }
    let number = |key: &str| meta.other.get(key).and_then(|text| text.parse::<u64>().ok());
    let batch =
        number("batch_size").zip(number("world_size")).map(|(images, processes)| images.saturating_mul(processes));
    Err(Failure::usage(format!(
        "{} was written after {epochs} epochs and {optimizer_step} steps; with this data and {} images a step, {epochs} epochs are {steps} steps",
        path.display(),
        run.shares.batch
    ))
    .remedy(match batch {
        Some(batch) => format!(
            "the data that it was trained on, and as many images a step: --set data.batch_size={batch} on one rank, or data.batch_size × ranks × \
             optimization.accumulate = {batch}"
        ),
        None => "the data and the batch size (of all processes together) that it was trained with".to_owned(),
    })
    .into())
}

fn batches(run: &Run, input: Input, start_step: u64) -> Result<Batches> {
    let dataset = match input {
        Input::Replay(batches) => return Ok(batches.after(start_step)),
        Input::Dataset(dataset) => dataset,
    };
    let config = LoaderConfig {
        seed: run.config.meta.seed,
        batch_size: run.shares.batch,
        rank: run.shares.rank,
        world: run.shares.ranks,
        accumulate: run.shares.accumulate,
        truncate_over: config::truncate_over(&run.config),
        drop_last: run.config.data.drop_last,
        shuffle_window: run.config.data.shuffle_window,
        threads: run.loader_threads,
        queue: QUEUE,
        start_step,
        stop_step: run.steps,
        transform: run.transform,
        masks: run.masks.clone(),
        skip_limit: run.config.data.skip_limit as u64,
    };
    Ok(Batches::Loader(TrainLoader::start(Arc::clone(&dataset), config)?, dataset))
}

/// What is about to happen, in a few lines.
fn describe(run: &Run, model: &Jepa, state: &State) {
    let encoder = run.encoder;
    let (rows, columns) = encoder.grid();
    let learnt = model.layout.learnt() as f64 / 1e6;
    output::note(&format!(
        "encoder {}×{}×{} on {rows}×{columns} patches of {}, predictor {}×{}: {learnt:.1} M parameters",
        encoder.width, encoder.depth, encoder.heads, encoder.patch, run.predictor.width, run.predictor.depth
    ));
    let source = match run.images {
        0 => "a replay".to_owned(),
        images => format!("{images} images"),
    };
    let Shares { batch, ranks, accumulate, .. } = run.shares;
    let batches = match (ranks, accumulate) {
        (1, 1) => format!("batches of {batch}"),
        (1, _) => format!("{batch} images a step in {accumulate} batches"),
        (_, 1) => format!("{batch} images a step for {ranks} ranks"),
        _ => format!("{batch} images a step for {ranks} ranks in {accumulate} batches each"),
    };
    output::note(&format!(
        "{source}, {batches}, steps {} to {} ({} an epoch), into {}",
        state.step,
        run.steps,
        run.steps_per_epoch,
        run.folder.display()
    ));
}
