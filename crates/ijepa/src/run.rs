//! What will the program do?
//!
//! [`Settings`] is what was typed, checked, with the options of the command line on top; [`Run`] is what follows from it once the number
//! of images is known. In a [`Run`] every duration is in steps, and nothing is left to be looked up.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ijepa_data::{MaskConfig, Storage, TrainTransform, batches_per_epoch};
use ijepa_model::checkpoint;
use ijepa_model::schedule::Schedule;
use ijepa_model::{PredictorConfig, VitConfig};

use crate::cli::PretrainArgs;
use crate::config::{self, Config, Origins};
use crate::device::Place;
use crate::exit::{Exit, Failure};
use crate::log::folder::{PARAMS, latest, reference_latest};

/// Where weights, moments and the step come from at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Drawn from the seed, step 0.
    Fresh,
    /// Weights of a checkpoint, step 0.
    Init(PathBuf),
    /// Everything from the newest checkpoint of the run folder; step 0 where there is none.
    Resume,
    /// Everything from this checkpoint.
    ResumeFrom(PathBuf),
}

impl Start {
    /// Whether an earlier run goes on.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Start::Resume | Start::ResumeFrom(_))
    }
}

/// How the images of a step are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Images of a step, of all ranks together.
    pub(crate) batch: usize,
    /// Which rank this is.
    pub(crate) rank: usize,
    /// How many there are.
    pub(crate) ranks: usize,
    /// Batches in which a rank takes its share, one after the other.
    pub(crate) accumulate: usize,
}

impl Shares {
    /// As the configuration says for so many ranks. A run that began with steps of `begun` images keeps them, whatever the number of
    /// ranks: they take fewer or more batches of at most `data.batch_size`.
    fn new(config: &Config, (rank, ranks): (usize, usize), begun: Option<usize>) -> Shares {
        let at_once = config.data.batch_size * ranks;
        let batch = begun.unwrap_or(at_once * config.optimization.accumulate);
        Shares { batch, rank, ranks, accumulate: batch.div_ceil(at_once) }
    }
}

/// What was typed, checked, before any data is seen.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Every value of the configuration.
    pub(crate) config: Config,
    /// Where each value came from.
    pub(crate) origins: Origins,
    /// The run folder.
    pub(crate) folder: PathBuf,
    /// How the run starts.
    pub(crate) start: Start,
    /// Which rank this is, and how many there are.
    pub(crate) ranks: (usize, usize),
    /// Images of a step of the run that goes on.
    pub(crate) begun: Option<usize>,
    /// `--steps`: the run ends after so many.
    pub(crate) step_limit: Option<u64>,
    /// What has no effect here, one line each.
    pub(crate) notes: Vec<String>,
}

/// A resolved run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The run folder.
    pub(crate) folder: PathBuf,
    /// How the run starts.
    pub(crate) start: Start,
    /// Images in the data, 0 for a replay.
    pub(crate) images: usize,
    /// Who takes which of them.
    pub(crate) shares: Shares,
    /// Full batches in the data.
    pub(crate) steps_per_epoch: u64,
    /// The run ends after this step.
    pub(crate) steps: u64,
    /// Inputs of the schedules.
    pub(crate) schedule: Schedule,
    /// A checkpoint every so many steps.
    pub(crate) save_every: u64,
    /// A row of metrics every so many steps.
    pub(crate) log_every: u64,
    /// Threads that prepare images.
    pub(crate) loader_threads: usize,
    /// The encoders.
    pub(crate) encoder: VitConfig,
    /// The predictor.
    pub(crate) predictor: PredictorConfig,
    /// The masks.
    pub(crate) masks: MaskConfig,
    /// What happens to a training image.
    pub(crate) transform: TrainTransform,
    /// Everything else, as typed: batch size, seed, limits.
    pub(crate) config: Config,
}

/// Reads and checks what was typed for `pretrain`. Nothing is written and no data is opened.
pub(crate) fn settings(args: &PretrainArgs) -> Result<Settings> {
    // Going on with a run needs no second mention of its run file.
    let own = args
        .out
        .as_ref()
        .map(|out| out.join(PARAMS))
        .filter(|params| args.resume && args.config.is_none() && params.is_file());
    let file = args.config.as_deref().or(own.as_deref());
    settings_of(args, config::load(file, &args.set)?)
}

/// As [`settings`], for a configuration that was read already.
pub(crate) fn settings_of(args: &PretrainArgs, (mut config, mut origins): (Config, Origins)) -> Result<Settings> {
    let place = Place::asked(args)?;
    if let Some(data) = &args.data {
        config.data.path = Some(data.clone());
        origins.set("data.path", "--data");
    }
    if let Some(seed) = args.seed {
        config.meta.seed = seed;
        origins.set("meta.seed", "--seed");
    }
    config::mask_config(&config).validate().map_err(|error| mask_failure(&error))?;
    let folder = folder(args, &config);
    config.logging.folder = folder
        .to_str()
        .ok_or_else(|| Failure::usage(format!("--out {}: expected UTF-8", folder.display())))?
        .to_owned();
    if args.out.is_some() {
        origins.set("logging.folder", "--out");
    }
    let start = start(args, &config, &folder)?;
    if args.resume {
        refuse_nothing(&folder, &start)?;
    }
    if start.goes_on() {
        refuse_changes(&config, &folder)?;
    }
    // A run that goes on has said it before.
    let notes = if start == Start::Resume { Vec::new() } else { notes(&config, &origins, place) };
    let begun = begun(&start, &folder);
    Ok(Settings { config, origins, folder, start, ranks: (0, 1), begun, step_limit: args.steps, notes })
}

impl Settings {
    /// What `data.path`, or `data.root_path` and `data.image_folder`, name: what `Dataset::open` takes.
    pub(crate) fn data(&self) -> Result<String> {
        data_of(&self.config)
    }

    /// Where the data set may keep what it finds: its index beside the run, shards where the run file says.
    pub(crate) fn storage(&self) -> Storage {
        Storage { index: Some(self.folder.join("index")), ..storage_of(&self.config) }
    }

    /// The run, for data of `images` images.
    pub(crate) fn resolve(&self, images: usize) -> Result<Run> {
        let Shares { batch, ranks, .. } = self.shares();
        if images < batch {
            let (size, times) = (self.config.data.batch_size, self.config.optimization.accumulate * ranks);
            let together = if times > 1 { format!(", {batch} images for a step") } else { String::new() };
            return Err(Failure::new(
                Exit::Data,
                format!(
                    "the data has {images} images, fewer than one batch: {} is {size}{together}",
                    self.origins.of("data.batch_size")
                ),
            )
            .remedy(format!("--set data.batch_size={}, or more images", (images / times).max(1)))
            .into());
        }
        let steps_per_epoch = batches_per_epoch(images, batch, self.config.data.drop_last);
        Ok(Run { images, ..self.resolve_steps(steps_per_epoch) })
    }

    fn shares(&self) -> Shares {
        Shares::new(&self.config, self.ranks, self.begun)
    }

    /// The run, for epochs of `steps_per_epoch` steps (as in a replay).
    pub(crate) fn resolve_steps(&self, steps_per_epoch: u64) -> Run {
        let config = &self.config;
        let optimization = &config.optimization;
        let epoch = steps_per_epoch as f64;
        let ema_steps = optimization.ipe_scale * optimization.epochs as f64 * epoch;
        let schedule = Schedule {
            start_lr: optimization.start_lr,
            lr: optimization.lr,
            final_lr: optimization.final_lr,
            weight_decay: optimization.weight_decay,
            final_weight_decay: optimization.final_weight_decay,
            ema: (optimization.ema[0], optimization.ema[1]),
            warmup_steps: (optimization.warmup * epoch) as u64,
            cosine_steps: ema_steps as u64,
            ema_steps,
        };
        let steps = optimization.epochs as u64 * steps_per_epoch;
        Run {
            folder: self.folder.clone(),
            start: self.start.clone(),
            images: 0,
            shares: self.shares(),
            steps_per_epoch,
            steps: self.step_limit.map_or(steps, |limit| limit.min(steps)),
            schedule,
            save_every: config.logging.save_every.steps(steps_per_epoch),
            log_every: config.logging.log_every.steps(steps_per_epoch),
            loader_threads: loader_threads(config),
            encoder: config::encoder_config(config),
            predictor: config::predictor_config(config),
            masks: config::mask_config(config),
            transform: config::train_transform(config),
            config: config.clone(),
        }
    }
}

/// As [`Settings::data`].
pub(crate) fn data_of(config: &Config) -> Result<String> {
    let data = &config.data;
    if let Some(path) = &data.path {
        return Ok(path.clone());
    }
    if data.root_path.is_empty() || is_placeholder(&data.root_path) {
        let what = if data.root_path.is_empty() {
            "no data is named"
        } else {
            "data.root_path still is the placeholder of the example"
        };
        return Err(Failure::usage(what)
            .remedy(
                "give --data PATH (a folder of images, or one of the others in docs/data.md, or scenes:N), or data.path in the run file",
            )
            .into());
    }
    let root = Path::new(&data.root_path).join(&data.image_folder);
    Ok(root.to_string_lossy().into_owned())
}

/// Masks that the grid cannot give are a fault of the configuration.
pub(crate) fn mask_failure(error: &ijepa_data::MaskError) -> Failure {
    Failure::usage(error.problem.clone()).remedy(error.remedy.clone())
}

/// `--out`, else `logging.folder`, else `runs/` and the name of the run file.
fn folder(args: &PretrainArgs, config: &Config) -> PathBuf {
    if let Some(out) = &args.out {
        return out.clone();
    }
    let folder = &config.logging.folder;
    if !folder.is_empty() && !is_placeholder(folder) {
        return PathBuf::from(folder);
    }
    let name =
        args.config.as_deref().and_then(Path::file_stem).map_or_else(|| "pretrain".into(), |stem| stem.to_owned());
    Path::new("runs").join(name)
}

/// The reference's example files hold `$replace_this_...` where a user must write a path.
fn is_placeholder(text: &str) -> bool {
    text.starts_with("$replace_this")
}

fn start(args: &PretrainArgs, config: &Config, folder: &Path) -> Result<Start> {
    let meta = &config.meta;
    match (&args.init, args.resume, meta.load_checkpoint, &meta.read_checkpoint) {
        (Some(init), ..) => Ok(Start::Init(init.clone())),
        (None, true, ..) | (None, false, true, None) => newest(config, folder),
        // As in the reference, the name is relative to the run folder.
        (None, false, true, Some(name)) => Ok(Start::ResumeFrom(folder.join(name))),
        (None, false, false, _) => Ok(Start::Fresh),
    }
}

/// The run's newest checkpoint: ours, or that of the reference where it began the run or went on with it.
fn newest(config: &Config, folder: &Path) -> Result<Start> {
    let (ours, theirs) = (latest(folder), reference_latest(folder, &config.logging.write_tag));
    if theirs.exists() {
        let steps = |path: &Path| -> Result<u64> { Ok(checkpoint::list(path)?.optimizer_step.unwrap_or(0)) };
        let newer = !ours.exists() || steps(&theirs)? > steps(&ours)?;
        return Ok(if newer { Start::ResumeFrom(theirs) } else { Start::Resume });
    }
    let other = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let other = other.filter(|_| !ours.exists()).find(|path| path.to_string_lossy().ends_with("-latest.pth.tar"));
    match other {
        None => Ok(Start::Resume),
        Some(other) => Err(Failure::usage(format!(
            "{} holds {}, and logging.write_tag is {}",
            folder.display(),
            other.display(),
            config.logging.write_tag
        ))
        .remedy("--set logging.write_tag=TAG, the first part of that name, to go on from it")
        .into()),
    }
}

/// The key of the number of images of a step in a checkpoint: a run keeps it when it goes on with another number of ranks.
pub(crate) const IMAGES_PER_STEP: &str = "images_per_step";

/// Images of a step of the run that goes on, where its checkpoint says it. What is wrong with a checkpoint is said when it is loaded.
fn begun(start: &Start, folder: &Path) -> Option<usize> {
    let path = match start {
        Start::Fresh | Start::Init(_) => return None,
        Start::Resume => latest(folder),
        Start::ResumeFrom(path) => path.clone(),
    };
    let meta = checkpoint::list(&path).ok()?.meta;
    meta.other.get(IMAGES_PER_STEP)?.parse().ok().filter(|images| *images > 0)
}

/// A name without a run is a misspelt one: it must not begin another run.
fn refuse_nothing(folder: &Path, start: &Start) -> Result<()> {
    if folder.join(PARAMS).exists() || latest(folder).exists() || matches!(start, Start::ResumeFrom(_)) {
        return Ok(());
    }
    let problem = format!(
        "{} holds no run to go on with: expected {PARAMS}, {} or a TAG-latest.pth.tar of the reference",
        folder.display(),
        latest(folder).display()
    );
    Err(Failure::usage(problem).remedy("name the folder of the run with --out, or begin one without --resume").into())
}

/// Where shards from the network are kept, and how much of them.
pub(crate) fn storage_of(config: &Config) -> Storage {
    let data = &config.data;
    Storage {
        downloads: data.download_folder.as_ref().map(PathBuf::from),
        download_bytes: (data.download_gb > 0.0).then_some((data.download_gb * 1e9) as u64),
        ..Storage::default()
    }
}

/// A run goes on as it began: what would change its numbers must not have changed.
fn refuse_changes(config: &Config, folder: &Path) -> Result<()> {
    let params = folder.join(PARAMS);
    let text = match std::fs::read_to_string(&params) {
        Ok(text) => text,
        // The weights alone were put there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::usage(format!("cannot read what the run began with: {}", params.display()))
                .because(error)
                .remedy("make the file readable, or begin a new run with --init and another --out")
                .into());
        }
    };
    let (before, _) = config::parse(&text, &params.display().to_string())?;
    // The reference's batch is that of one process, of which there may have been many.
    let begun_elsewhere = !latest(folder).exists();
    let harmless = |key: &str| {
        key.starts_with("logging.")
            || (begun_elsewhere && matches!(key, "data.batch_size" | "optimization.accumulate"))
            || matches!(
                key,
                "data.num_workers"
                    | "data.pin_mem"
                    | "data.skip_limit"
                    | "data.download_folder"
                    | "data.download_gb"
                    | "data.path"
                    | "data.root_path"
                    | "data.image_folder"
                    | "distributed.bucket_mb"
                    | "distributed.shard_optimizer"
                    | "distributed.timeout_minutes"
                    | "meta.copy_data"
                    | "meta.load_checkpoint"
                    | "meta.read_checkpoint"
                    | "meta.recompute"
            )
    };
    let changed: Vec<String> = before
        .differences(config)
        .into_iter()
        .filter(|(key, ..)| !harmless(key))
        .map(|(key, before, now)| format!("{key} was {before}, now {now}"))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!("{} is to go on with other values than it began with: {}", folder.display(), changed.join("; ")))
        .remedy("leave the values as they were (`--resume --out RUN` alone takes them from the run), or begin a new run with --init and another --out")
        .into())
}

/// What was typed and has no effect here, one line each.
fn notes(config: &Config, origins: &Origins, place: Place) -> Vec<String> {
    let mut notes = Vec::new();
    let (half, cpu) = (config.meta.use_bfloat16, place == Place::Cpu);
    let idle: Vec<&str> = [
        ("meta.use_bfloat16", half && cpu, "meta.use_bfloat16 (the CPU computes in f32)"),
        ("meta.use_bfloat16", !half && !cpu, "meta.use_bfloat16: false (a GPU computes in bfloat16)"),
        ("meta.bfloat16_on_cpu", !cpu, "meta.bfloat16_on_cpu"),
        ("data.pin_mem", config.data.pin_mem, "data.pin_mem"),
        (
            "eval.train",
            config.eval.train.is_some() && config.eval.every.is_none(),
            "eval.train and eval.val (eval.every is null)",
        ),
        ("meta.copy_data", config.meta.copy_data, "meta.copy_data (images are read where they are)"),
    ]
    .into_iter()
    .filter(|(key, on, _)| *on && origins.typed(key))
    .map(|(.., text)| text)
    .collect();
    if !idle.is_empty() {
        notes.push(format!("without effect here: {}", idle.join(", ")));
    }
    if loader_threads(config) < config.data.num_workers && origins.typed("data.num_workers") {
        notes.push(format!(
            "data.num_workers is {}; {} loader threads are used, one a core (their number changes no result)",
            config.data.num_workers,
            loader_threads(config)
        ));
    }
    notes
}

/// At least one, at most one a core.
fn loader_threads(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.data.num_workers.clamp(1, cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> PretrainArgs {
        PretrainArgs { data: Some("scenes:100".into()), ..PretrainArgs::default() }
    }

    fn with(sets: &[&str]) -> Settings {
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        settings(&PretrainArgs { set: sets, ..args() }).expect("the configuration is valid")
    }

    #[test]
    fn durations_are_steps_and_schedules_round_as_the_reference_does() {
        let settings = with(&[
            "optimization.epochs=2",
            "optimization.warmup=1",
            "optimization.ipe_scale=1.25",
            "logging.save_every=0.5 epochs",
        ]);
        let run = settings.resolve_steps(5);
        assert_eq!(
            (run.steps, run.schedule.warmup_steps, run.schedule.cosine_steps, run.schedule.ema_steps),
            (10, 5, 12, 12.5)
        );
        assert_eq!((run.save_every, run.log_every), (3, 1));
    }

    #[test]
    fn a_step_limit_ends_the_run_and_leaves_the_schedules() {
        let settings = Settings { step_limit: Some(7), ..with(&["optimization.warmup=1", "optimization.epochs=2"]) };
        let run = settings.resolve_steps(5);
        assert_eq!((run.steps, run.schedule.cosine_steps), (7, 10));
        let longer = Settings { step_limit: Some(700), ..settings };
        assert_eq!(longer.resolve_steps(5).steps, 10);
    }

    #[test]
    fn the_last_partial_batch_is_dropped_and_less_than_a_batch_is_refused() {
        let settings = with(&["data.batch_size=8"]);
        assert_eq!(settings.resolve(17).expect("two batches").steps_per_epoch, 2);
        let error = settings.resolve(7).expect_err("less than a batch");
        assert_eq!(crate::exit::code(&error), Exit::Data);
        assert!(error.to_string().contains("7 images"), "{error}");
    }

    #[test]
    fn data_is_the_option_then_the_path_then_the_references_two_keys() {
        assert_eq!(with(&["data.path=elsewhere"]).data().expect("--data is given"), "scenes:100");
        let without = |sets: &[&str]| {
            let sets = sets.iter().map(|set| (*set).to_owned()).collect();
            settings(&PretrainArgs { set: sets, ..PretrainArgs::default() }).expect("it is valid")
        };
        assert_eq!(without(&["data.path=elsewhere"]).data().expect("data.path is given"), "elsewhere");
        assert_eq!(
            without(&["data.root_path=/d", "data.image_folder=in1k/"]).data().expect("both are given"),
            "/d/in1k/"
        );
        let placeholder =
            without(&["data.root_path=$replace_this_with_a_path"]).data().expect_err("it is a placeholder");
        assert_eq!(crate::exit::code(&placeholder), Exit::Usage);
        assert_eq!(crate::exit::code(&without(&[]).data().expect_err("nothing is named")), Exit::Usage);
    }

    #[test]
    fn load_checkpoint_means_what_it_means_in_the_reference() {
        assert_eq!(with(&["meta.load_checkpoint=false", "meta.read_checkpoint=a.pth.tar"]).start, Start::Fresh);
        assert_eq!(with(&["meta.load_checkpoint=true"]).start, Start::Resume);
        let from = with(&["meta.load_checkpoint=true", "meta.read_checkpoint=a.pth.tar", "logging.folder=runs/x"]);
        assert_eq!(from.start, Start::ResumeFrom("runs/x/a.pth.tar".into()));
    }

    #[test]
    fn the_run_folder_is_the_option_then_the_file_then_the_run_files_name() {
        assert_eq!(with(&["logging.folder=runs/x"]).folder, Path::new("runs/x"));
        assert_eq!(with(&["logging.folder=$replace_this_with_path/y"]).folder, Path::new("runs/pretrain"));
        let out = PretrainArgs { out: Some("here".into()), set: vec!["logging.folder=there".into()], ..args() };
        assert_eq!(settings(&out).expect("it is valid").folder, Path::new("here"));
    }

    #[test]
    fn a_resumed_run_refuses_values_that_would_change_it_and_takes_its_own() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let out = dir.path().to_owned();
        let begun = settings(&PretrainArgs { out: Some(out.clone()), seed: Some(5), ..args() }).expect("it is valid");
        std::fs::write(out.join(PARAMS), begun.config.to_yaml()).expect("it can be written");
        let resume = PretrainArgs { out: Some(out), resume: true, ..PretrainArgs::default() };
        let resumed = settings(&resume).expect("nothing has changed");
        assert_eq!(resumed.config, begun.config);
        let changed = settings(&PretrainArgs { set: vec!["optimization.lr=0.5".into()], ..resume.clone() })
            .expect_err("lr has changed");
        assert!(changed.to_string().contains("optimization.lr was 0.001, now 0.5"), "{changed}");
        settings(&PretrainArgs { set: vec!["data.num_workers=1".into()], ..resume }).expect("threads change nothing");
    }
}
