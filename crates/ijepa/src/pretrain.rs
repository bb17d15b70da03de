//! `ijepa pretrain`: from the command line to the loop.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ijepa_data::{Dataset, LoaderConfig, Split, TrainLoader};
use ijepa_model::checkpoint;
use ijepa_model::jepa::{Jepa, State};
use ijepa_tensor::Buf;

use crate::batches::Batches;
use crate::cli::PretrainArgs;
use crate::exit::{Exit, Failure};
use crate::log::{Log, folder};
use crate::output;
use crate::run::{self, Run, Settings, Start};
use crate::stop::Stop;
use crate::train::{latest, train};

/// Batches made ahead of the step that is being taken.
const QUEUE: usize = 4;

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
pub(crate) fn run(args: &PretrainArgs) -> Result<Exit> {
    let settings = run::settings(args)?;
    if args.dry_run {
        let (run, input) = resolve(&settings, args.replay.as_deref())?;
        let model = Jepa::new(run.encoder, run.predictor);
        let state = begin(&run, &model)?;
        describe(&run, &model, &state, &input);
        return Ok(Exit::Done);
    }
    let done = pretrain(&settings, args.replay.as_deref())?;
    if done.exit == Exit::Done {
        output::note(&format!("done: {}", latest(&done.run).display()));
    }
    Ok(done.exit)
}

/// Trains as the settings say; `replay` names a file of batches to take instead of images.
pub(crate) fn pretrain(settings: &Settings, replay: Option<&Path>) -> Result<Done> {
    let (run, input) = resolve(settings, replay)?;
    let model = Jepa::new(run.encoder, run.predictor);
    let mut state = begin(&run, &model)?;
    let mut exit = Exit::Done;
    if state.step >= run.steps {
        output::note(&format!("{} has done all its {} steps", run.folder.display(), run.steps));
    } else {
        folder::prepare(&run.folder, &run.config, matches!(run.start, Start::Resume | Start::ResumeFrom(_)))?;
        describe(&run, &model, &state, &input);
        let mut batches = batches(&run, input, state.step)?;
        let mut log = Log::open(&run, state.step)?;
        let stop = Stop::on_signals()?;
        exit = train(&run, &model, &mut state, &mut batches, &mut log, &stop)?;
        if exit == Exit::Stopped {
            let folder = run.folder.display();
            output::note(&format!("stopped and saved; go on with: ijepa pretrain --resume --out {folder}"));
        }
    }
    Ok(Done { exit, run, target: state.target })
}

fn resolve(settings: &Settings, replay: Option<&Path>) -> Result<(Run, Input)> {
    for note in &settings.notes {
        output::note(note);
    }
    let Some(path) = replay else {
        let dataset = Dataset::open(&settings.data()?, Split::Train, settings.config.meta.seed)?;
        let run = settings.resolve(dataset.len())?;
        return Ok((run, Input::Dataset(Arc::new(dataset))));
    };
    let encoder = crate::config::encoder_config(&settings.config);
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

/// The state before the first step of this process.
fn begin(run: &Run, model: &Jepa) -> Result<State> {
    match &run.start {
        Start::Fresh => Ok(model.init(run.config.meta.seed, run.config.meta.init_std)),
        Start::Init(path) => {
            let mut state = restore(model, path)?;
            for moments in [&mut state.exp_avg, &mut state.exp_avg_sq] {
                *moments = Buf::zeros(model.layout.len);
            }
            state.step = 0;
            Ok(state)
        }
        Start::Resume if !latest(run).exists() => {
            output::note(&format!("{} holds no checkpoint yet; starting from step 0", run.folder.display()));
            Ok(model.init(run.config.meta.seed, run.config.meta.init_std))
        }
        Start::Resume => restore(model, &latest(run)),
        Start::ResumeFrom(path) => restore(model, path),
    }
}

fn restore(model: &Jepa, path: &Path) -> Result<State> {
    let held = checkpoint::read(path)?;
    model.restore(&held).with_context(|| format!("{} does not fit the configuration", path.display()))
}

fn batches(run: &Run, input: Input, start_step: u64) -> Result<Batches> {
    let dataset = match input {
        Input::Replay(batches) => return Ok(batches),
        Input::Dataset(dataset) => dataset,
    };
    let config = LoaderConfig {
        seed: run.config.meta.seed,
        batch_size: run.config.data.batch_size,
        threads: run.loader_threads,
        queue: QUEUE,
        start_step,
        stop_step: run.steps,
        transform: run.transform,
        masks: run.masks.clone(),
        skip_limit: run.config.data.skip_limit as u64,
    };
    Ok(Batches::Loader(TrainLoader::start(dataset, config)?))
}

/// What is about to happen, in a few lines.
fn describe(run: &Run, model: &Jepa, state: &State, input: &Input) {
    let encoder = run.encoder;
    let (rows, columns) = encoder.grid();
    let learnt = model.layout.learnt() as f64 / 1e6;
    output::note(&format!(
        "encoder {}×{}×{} on {rows}×{columns} patches of {}, predictor {}×{}: {learnt:.1} M parameters",
        encoder.width, encoder.depth, encoder.heads, encoder.patch, run.predictor.width, run.predictor.depth
    ));
    let source = match input {
        Input::Dataset(dataset) => format!("{} images", dataset.len()),
        Input::Replay(_) => "a replay".to_owned(),
    };
    output::note(&format!(
        "{source}, batches of {}, steps {} to {} ({} an epoch), into {}",
        run.config.data.batch_size,
        state.step,
        run.steps,
        run.steps_per_epoch,
        run.folder.display()
    ));
}
