//! `ijepa eval finetune|semi`: how good is a network when all of it learns from labels?
//!
//! Reading order: [`recipe`] (with which settings) → [`task`] (from which images) → [`fit`] (fine-tuning, step by step) → [`semi`] (with
//! images that have no labels) → [`course`] and [`keep`] (what happens around a step).

mod course;
mod fit;
mod keep;
mod recipe;
mod semi;
mod task;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use ijepa_eval::metrics::Estimate;
use ijepa_model::Classifier;
use ijepa_model::checkpoint::{Meta, Reader};
use ijepa_model::classifier::State;
use ijepa_model::saved;
use ijepa_tensor::Buf;
use ijepa_tensor::cuda::Device;
use serde::Serialize;
use serde_json::json;

use course::{Course, Length, Shared};
use fit::Fit;
use keep::{Keeper, Sums};
use recipe::{Recipe, Semi};
use semi::SemiFit;
use task::Task;

use crate::cli::{FinetuneArgs, SemiArgs, TuneArgs};
use crate::device::{self, Place};
use crate::eval::result;
use crate::exit::{Exit, Failure};
use crate::extract::{Encoder, unfit};
use crate::output;
use crate::stop::Stop;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'r> {
    protocol: &'static str,
    results: &'r [Row],
    recipe: &'r Recipe,
    #[serde(skip_serializing_if = "Option::is_none")]
    semi: Option<&'r Semi>,
}

/// One number, and the training that led to it.
#[derive(Clone, Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    result: result::Row,
    /// Mean training loss of the last epoch.
    loss: f64,
    /// Of training alone.
    seconds: f64,
    /// Share of the images without labels that the teacher was sure of in the last epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    sure: Option<f64>,
    /// Share of those that it was right about.
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<f64>,
}

/// All that the trainings of a command have in common.
struct Bench<'a> {
    args: &'a TuneArgs,
    encoder: Encoder,
    task: Task,
    model: Classifier,
    recipe: Recipe,
    stop: Option<Stop>,
    /// What is computed on, if not the CPU.
    device: Option<Rc<Device>>,
}

/// What one training begins with.
struct Begin<'a> {
    features: &'static str,
    weights: &'a Buf,
    labelled: Vec<u32>,
    seed: u64,
    folder: Option<PathBuf>,
}

/// How a training ended: with a network and its sums, or because it was told to.
enum Ended {
    Done(Box<State>, Sums),
    Stopped,
}

/// Runs `eval finetune`.
pub(crate) fn finetune(args: &FinetuneArgs) -> Result<Exit> {
    let bench = Bench::open(&args.tune, args.ema)?;
    let Some(rows) = bench.each(|begin| {
        bench.finetuned(begin, begin.folder.clone()).and_then(|ended| match ended {
            Ended::Stopped => Ok(None),
            Ended::Done(state, sums) => Ok(Some(vec![bench.row("finetune", begin, &state, &sums)?])),
        })
    })?
    else {
        return Ok(Exit::Stopped);
    };
    bench.show("finetune", &rows, None)
}

/// Runs `eval semi`.
pub(crate) fn semi(args: &SemiArgs) -> Result<Exit> {
    let bench = Bench::open(&args.tune, None)?;
    let semi = settings(args, bench.encoder.vit.config.width)?;
    if args.init.is_some() && (args.tune.labels.draws > 1 || args.tune.baselines) {
        let problem =
            "--init is one network that was fine-tuned on one draw of labels: it takes neither --draws nor --baselines";
        return Err(Failure::usage(problem).remedy("without --init, each draw is fine-tuned first").into());
    }
    // Told before anything is trained.
    if bench.task.others(&bench.task.choose(0)?).is_empty() {
        let problem = "all images of --train have labels: none is left to learn from without one";
        return Err(Failure::usage(problem).remedy("--fraction, --per-class or --labelled").into());
    }
    let Some(rows) = bench.each(|begin| {
        let first = match &args.init {
            Some(path) => bench.tuned(path, begin)?,
            None => match bench.finetuned(begin, begin.folder.as_ref().map(|folder| folder.join("finetune")))? {
                Ended::Done(state, sums) => (state.judged().clone(), sums),
                Ended::Stopped => return Ok(None),
            },
        };
        let tuned = bench.model.begin_with(first.0.clone(), false);
        let before = bench.row("finetune", begin, &tuned, &first.1)?;
        match bench.semi(begin, &semi, first.0)? {
            Ended::Stopped => Ok(None),
            Ended::Done(state, sums) => Ok(Some(vec![before, bench.row("semi", begin, &state, &sums)?])),
        }
    })?
    else {
        return Ok(Exit::Stopped);
    };
    bench.show("semi", &rows, Some(&semi))
}

fn settings(args: &SemiArgs, width: usize) -> Result<Semi> {
    let base = Semi::named(args.tune.recipe.recipe, width);
    let semi = Semi {
        epochs: args.semi_epochs.unwrap_or(base.epochs),
        lr: args.semi_lr.unwrap_or(base.lr),
        batch: args.semi_batch.unwrap_or(base.batch),
        teacher: args.teacher.unwrap_or(base.teacher),
        threshold: args.threshold.unwrap_or(base.threshold),
        mu: args.mu,
        lambda: args.lambda.unwrap_or(base.lambda),
        mixed: args.pseudo_mixup.unwrap_or(base.mixed),
        weak_scale: args.weak_scale.unwrap_or(base.weak_scale),
        aligned: args.align.unwrap_or(base.aligned),
        ..base
    };
    for (flag, value) in [("--semi-epochs", semi.epochs), ("--semi-lr", semi.lr), ("--lambda", semi.lambda)] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(Failure::usage(format!("{flag} {value}: a number of at least 0 is expected")).into());
        }
    }
    Ok(semi)
}

impl<'a> Bench<'a> {
    fn open(args: &'a TuneArgs, ema: Option<f64>) -> Result<Bench<'a>> {
        let encoder = Encoder::load(&args.checkpoint, &args.network)?;
        let config = encoder.vit.config;
        let recipe = Recipe::of(&args.recipe, ema, config.width)?;
        let task = Task::open(args, config.image, encoder.normalisation)?;
        if args.resume && args.out.as_ref().is_some_and(|out| !out.exists()) {
            let out = args.out.as_deref().unwrap_or(Path::new("")).display();
            return Err(Failure::usage(format!("--resume: {out} holds no run"))
                .remedy("the folder that was given as --out")
                .into());
        }
        let model = Classifier::new(config, task.classes);
        let device = Place::of(&args.device)?.open()?;
        if device.is_some() {
            device::check_network("encoder", config.width, config.heads)?;
        }
        let stop = args.out.is_some().then(Stop::on_signals).transpose()?;
        Ok(Bench { args, encoder, task, model, recipe, stop, device })
    }

    fn shared(&self) -> Shared<'_> {
        let TuneArgs { at_once, eval_every, .. } = *self.args;
        Shared { task: &self.task, model: &self.model, at_once, eval_every, stop: self.stop.as_ref() }
    }

    /// Calls `train` for every draw of labels, from the checkpoint and, with `--baselines`, from random weights; the means of the
    /// draws. Nothing when a training was stopped.
    fn each(&self, train: impl Fn(&Begin) -> Result<Option<Vec<Row>>>) -> Result<Option<Vec<Row>>> {
        let kinds: &[&'static str] = if self.args.baselines { &["trained", "untrained"] } else { &["trained"] };
        let draws = self.args.labels.draws as u64;
        let alone = kinds.len() == 1 && draws == 1;
        let mut rows = Vec::new();
        for &features in kinds {
            let mut of_draws = Vec::new();
            for draw in 0..draws {
                let seed = self.args.seed.wrapping_add(draw);
                let random = (features == "untrained").then(|| self.encoder.untrained(seed).params);
                let folder = self
                    .args
                    .out
                    .as_ref()
                    .map(|out| if alone { out.clone() } else { out.join(format!("{features}-{draw}")) });
                // The same labels for each draw unless they are drawn; everything else is drawn anew.
                let labelled = self.task.choose(if self.task.is_drawn() { draw } else { 0 })?;
                let weights = random.as_ref().unwrap_or(&self.encoder.params);
                match train(&Begin { features, weights, labelled, seed, folder })? {
                    Some(rows) => of_draws.push(rows),
                    None => return Ok(None),
                }
            }
            rows.extend(mean(of_draws));
        }
        Ok(Some(rows))
    }

    /// A place for a training of that kind, and what it holds already.
    fn keeper(
        &self,
        method: &str,
        begin: &Begin,
        folder: Option<PathBuf>,
        semi: Option<&Semi>,
    ) -> Result<(Keeper, Option<(State, Sums)>)> {
        let config = self.encoder.vit.config;
        let meta = Meta {
            method: Some(method.to_owned()),
            seed: Some(begin.seed),
            config: self.encoder.meta.config.clone(),
            heads: Some(config.heads),
            image: Some(config.image),
            ..Meta::default()
        };
        // Weights stand for the checkpoint, wherever it lies now.
        let weights = keep::fingerprint(bytemuck::cast_slice(begin.weights.as_slice()));
        let identity = json!({
            "recipe": self.recipe, "semi": semi, "features": begin.features, "weights": weights, "labelled": keep::fingerprint(&begin.labelled),
            "images": self.task.train_labels.len(), "seed": begin.seed, "at_once": self.args.at_once,
        });
        let keeper = Keeper::new(folder, meta, identity.to_string(), &begin.labelled);
        let held = keeper.load(&self.model, self.args.resume)?;
        Ok((keeper, held))
    }

    /// Trains on labelled images.
    fn finetuned(&self, begin: &Begin, folder: Option<PathBuf>) -> Result<Ended> {
        let fit = Fit { shared: self.shared(), recipe: &self.recipe, labelled: &begin.labelled, seed: begin.seed };
        let (keeper, held) = self.keeper("finetune", begin, folder, None)?;
        let fresh = || (self.model.begin(begin.weights, begin.seed, self.recipe.ema.is_some()), Sums::default());
        let length = fit.length();
        self.note(begin, "fine-tuning", &format!("{} labelled images", begin.labelled.len()), length);
        self.run(keeper, held.unwrap_or_else(fresh), length, |state, course| fit.train(state, course))
    }

    /// Trains on, also on images without labels.
    fn semi(&self, begin: &Begin, semi: &Semi, tuned: Buf) -> Result<Ended> {
        let unlabelled = self.task.others(&begin.labelled);
        let (shared, recipe, labelled) = (self.shared(), &self.recipe, &begin.labelled[..]);
        let fit = SemiFit { shared, recipe, semi, labelled, unlabelled: &unlabelled, seed: begin.seed };
        let (keeper, held) = self.keeper("semi", begin, begin.folder.clone(), Some(semi))?;
        let fresh = || (self.model.begin_with(tuned, true), Sums::default());
        let length = fit.length();
        self.note(
            begin,
            "semi-supervised",
            &format!("{} labelled images and {} others", labelled.len(), unlabelled.len()),
            length,
        );
        self.run(keeper, held.unwrap_or_else(fresh), length, |state, course| fit.train(state, course))
    }

    fn run(
        &self,
        keeper: Keeper,
        (mut state, sums): (State, Sums),
        length: Length,
        train: impl FnOnce(&mut State, &mut Course) -> Result<Exit>,
    ) -> Result<Ended> {
        let folder = keeper.folder().map(Path::to_path_buf);
        if let Some(device) = &self.device {
            state = state.on(device);
        }
        let mut course = Course::new(self.shared(), keeper, length, &state, sums);
        let exit = train(&mut state, &mut course)?;
        let sums = course.finish();
        if exit == Exit::Stopped {
            course::note_stopped(folder.as_deref());
            return Ok(Ended::Stopped);
        }
        let state = if self.device.is_some() { state.fetched() } else { state };
        Ok(Ended::Done(Box::new(state), sums))
    }

    /// A network that was fine-tuned before, which must be one for these classes.
    fn tuned(&self, path: &Path, begin: &Begin) -> Result<(Buf, Sums)> {
        let mut file = Reader::open(path)?;
        let problem = match saved::classes(&file) {
            None => "it holds no classifier".to_owned(),
            Some(classes) if classes != self.task.classes => {
                format!("it tells {classes} classes apart, --train has {}", self.task.classes)
            }
            Some(_) => {
                let (was, is) = (file.meta().other.get(keep::LABELLED), keep::fingerprint(&begin.labelled));
                if was.is_some_and(|was| *was != is) {
                    output::warning(
                        "--init was fine-tuned on other labelled images than these: the same --fraction and --seed choose the same",
                    );
                }
                return Ok((self.model.restore_weights(&mut file)?, Sums::default()));
            }
        };
        Err(unfit(path, problem, "a checkpoint that ijepa eval finetune --out left, on the same classes"))
    }

    fn note(&self, begin: &Begin, what: &str, images: &str, length: Length) {
        output::note(&format!("{}: {what} on {images}, {} steps, seed {}", begin.features, length.steps, begin.seed));
    }

    fn row(&self, head: &'static str, begin: &Begin, state: &State, sums: &Sums) -> Result<Row> {
        let moved = self.device.as_ref().map(|device| Buf::parameters_on(device, state.judged().as_slice()));
        let judged = moved.as_ref().unwrap_or(state.judged());
        let (Estimate { value, standard_error }, n_val) = self.task.judge(&self.model, judged, self.args.at_once)?;
        let result = result::Row {
            features: begin.features,
            head: head.to_owned(),
            setting: None,
            metric: "accuracy",
            value,
            standard_error,
            n_train: begin.labelled.len(),
            n_val,
            width: self.encoder.vit.config.width,
            draws: Vec::new(),
            heads: Vec::new(),
        };
        output::note(&result.note());
        let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        let (sure, right) = (share(sums.sure, sums.unlabelled), share(sums.right, sums.sure));
        Ok(Row { result, loss: sums.mean_loss(), seconds: sums.seconds, sure, right })
    }

    fn show(&self, protocol: &'static str, results: &[Row], semi: Option<&Semi>) -> Result<Exit> {
        let TuneArgs { checkpoint, train, val, seed, .. } = self.args;
        let mut settings = vec![("learnt from", train.clone()), ("judged on", val.clone()), ("seed", seed.to_string())];
        settings.push(("recipe", serde_json::to_string(&self.recipe)?));
        if let Some(semi) = semi {
            settings.push(("without labels", serde_json::to_string(semi)?));
        }
        let rows: Vec<result::Row> = results.iter().map(|row| row.result.clone()).collect();
        result::Page { protocol, checkpoint, settings }.write(&rows, self.args.report.as_deref())?;
        if self.args.json {
            output::json(&Report { protocol, results, recipe: &self.recipe, semi })?;
        } else {
            output::result(&table(protocol, results))?;
        }
        Ok(Exit::Done)
    }
}

/// The rows of several draws as their means.
fn mean(draws: Vec<Vec<Row>>) -> Vec<Row> {
    let results = draws.iter().map(|rows| rows.iter().map(|row| row.result.clone()).collect()).collect();
    let of_draws = |(at, result): (usize, result::Row)| {
        let of = |field: fn(&Row) -> f64| Estimate::of(draws.iter().map(move |rows| field(&rows[at]))).value;
        let first = &draws[0][at];
        Row {
            result,
            loss: of(|row| row.loss),
            seconds: of(|row| row.seconds),
            sure: first.sure.map(|_| of(|row| row.sure.unwrap_or_default())),
            right: first.right.map(|_| of(|row| row.right.unwrap_or_default())),
        }
    };
    result::mean(results).into_iter().enumerate().map(of_draws).collect()
}

fn table(protocol: &str, results: &[Row]) -> String {
    let line = |features: &str, head: &str, [value, error, train, val, loss, seconds]: [&str; 6], draws: &str| {
        let line = format!(
            "{features:<10} {head:<10} {value:>9} {error:>6} {train:>8} {val:>7} {loss:>7} {seconds:>8}  {draws}"
        );
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(protocol, "head", ["accuracy", "±", "n_train", "n_val", "loss", "seconds"], "")];
    lines.extend(results.iter().map(|row| {
        let result = &row.result;
        let (value, error) = result.said();
        let (train, val) = (result.n_train.to_string(), result.n_val.to_string());
        let (loss, seconds) = (format!("{:.3}", row.loss), format!("{:.0}", row.seconds));
        let draws = match result.draws.len() {
            0 => String::new(),
            draws => format!("mean of {draws} draws"),
        };
        line(result.features, &result.head, [&value, &error, &train, &val, &loss, &seconds], &draws)
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_training_becomes_a_mean_too() {
        let result = result::Row {
            features: "trained",
            head: "semi".to_owned(),
            setting: None,
            metric: "accuracy",
            value: 0.5,
            standard_error: 0.1,
            n_train: 10,
            n_val: 10,
            width: 4,
            draws: vec![],
            heads: vec![],
        };
        let row = |loss, sure| vec![Row { result: result.clone(), loss, seconds: 1.0, sure: Some(sure), right: None }];
        let mean = mean(vec![row(0.4, 0.5), row(0.8, 0.9)]);
        assert_eq!((mean[0].result.draws.len(), mean[0].right), (2, None));
        assert!((mean[0].loss - 0.6).abs() < 1e-12 && mean[0].sure.is_some_and(|sure| (sure - 0.7).abs() < 1e-12));
    }
}
