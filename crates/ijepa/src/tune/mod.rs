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

use anyhow::Result;
use ijepa_eval::metrics::Estimate;
use ijepa_model::Classifier;
use ijepa_model::checkpoint::{Meta, Reader};
use ijepa_model::classifier::State;
use ijepa_model::saved;
use ijepa_tensor::Buf;
use serde::Serialize;
use serde_json::json;

use course::{Course, Length, Shared};
use fit::Fit;
use keep::{Keeper, Sums};
use recipe::{Recipe, Semi};
use semi::SemiFit;
use task::Task;

use crate::cli::{FinetuneArgs, SemiArgs, TuneArgs};
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
    /// What the training began with: `trained` or `untrained`.
    features: &'static str,
    head: &'static str,
    metric: &'static str,
    value: f64,
    /// Of the images that were judged; of several draws, that of their mean.
    standard_error: f64,
    n_train: usize,
    n_val: usize,
    width: usize,
    /// The values of several draws; `value` is their mean.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    draws: Vec<f64>,
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
    Done(State, Sums),
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
        let encoder = Encoder::load(&args.checkpoint, &args.encoder())?;
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
        let stop = args.out.is_some().then(Stop::on_signals).transpose()?;
        Ok(Bench { args, encoder, task, model, recipe, stop })
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
        let weights =
            keep::fingerprint(&begin.weights.as_slice().iter().map(|value| value.to_bits()).collect::<Vec<u32>>());
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
        let mut course = Course::new(self.shared(), keeper, length, &state, sums);
        let exit = train(&mut state, &mut course)?;
        let sums = course.finish();
        if exit == Exit::Stopped {
            course::note_stopped(folder.as_deref());
            return Ok(Ended::Stopped);
        }
        Ok(Ended::Done(state, sums))
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
        let (Estimate { value, standard_error }, n_val) =
            self.task.judge(&self.model, state.judged(), self.args.at_once)?;
        output::note(&format!("{}: {head}: {:.2} % ± {:.2}", begin.features, 100.0 * value, 100.0 * standard_error));
        let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        Ok(Row {
            features: begin.features,
            head,
            metric: "accuracy",
            value,
            standard_error,
            n_train: begin.labelled.len(),
            n_val,
            width: self.encoder.vit.config.width,
            draws: Vec::new(),
            loss: sums.mean_loss(),
            seconds: sums.seconds,
            sure: share(sums.sure, sums.unlabelled),
            right: share(sums.right, sums.sure),
        })
    }

    fn show(&self, protocol: &'static str, results: &[Row], semi: Option<&Semi>) -> Result<Exit> {
        if self.args.json {
            output::json(&Report { protocol, results, recipe: &self.recipe, semi })?;
        } else {
            output::result(&table(protocol, results))?;
        }
        Ok(Exit::Done)
    }
}

/// The rows of several draws as their means; the error of a mean is the deviation between draws over the root of their number.
fn mean(draws: Vec<Vec<Row>>) -> Vec<Row> {
    let count = draws.len() as f64;
    let mut means = draws.first().cloned().unwrap_or_default();
    if draws.len() < 2 {
        return means;
    }
    for (at, row) in means.iter_mut().enumerate() {
        let of = |field: fn(&Row) -> f64| Estimate::of(draws.iter().map(move |rows| field(&rows[at]))).value;
        row.draws = draws.iter().map(|rows| rows[at].value).collect();
        let Estimate { value, standard_error } = Estimate::of(row.draws.iter().copied());
        row.value = value;
        // The variance between few draws has one degree of freedom less than draws.
        row.standard_error = standard_error * (count / (count - 1.0)).sqrt();
        (row.loss, row.seconds) = (of(|row| row.loss), of(|row| row.seconds));
        row.sure = row.sure.map(|_| of(|row| row.sure.unwrap_or_default()));
        row.right = row.right.map(|_| of(|row| row.right.unwrap_or_default()));
    }
    means
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
        let (value, error) = (format!("{:.2} %", 100.0 * row.value), format!("{:.2}", 100.0 * row.standard_error));
        let (train, val) = (row.n_train.to_string(), row.n_val.to_string());
        let (loss, seconds) = (format!("{:.3}", row.loss), format!("{:.0}", row.seconds));
        let draws = if row.draws.is_empty() { String::new() } else { format!("mean of {} draws", row.draws.len()) };
        line(row.features, row.head, [&value, &error, &train, &val, &loss, &seconds], &draws)
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64, sure: Option<f64>) -> Row {
        let (n_train, n_val, width, loss, seconds) = (10, 10, 4, 2.0 * value, 1.0);
        let (features, head, metric) = ("trained", "semi", "accuracy");
        Row {
            features,
            head,
            metric,
            value,
            standard_error: 0.5,
            n_train,
            n_val,
            width,
            draws: vec![],
            loss,
            seconds,
            sure,
            right: None,
        }
    }

    #[test]
    fn several_draws_become_their_mean_and_its_error() {
        let mean = mean(vec![vec![row(0.2, Some(0.5))], vec![row(0.4, Some(0.7))], vec![row(0.6, Some(0.9))]]);
        assert_eq!(mean[0].draws, [0.2, 0.4, 0.6]);
        assert!((mean[0].value - 0.4).abs() < 1e-12 && (mean[0].loss - 0.8).abs() < 1e-12);
        // s = 0.2 between the three, over √3.
        assert!((mean[0].standard_error - 0.2 / 3f64.sqrt()).abs() < 1e-12);
        assert!(mean[0].sure.is_some_and(|sure| (sure - 0.7).abs() < 1e-12));
    }

    #[test]
    fn one_draw_stays_as_it_is() {
        let one = mean(vec![vec![row(0.25, None)]]);
        assert_eq!((one[0].value, one[0].standard_error, one[0].draws.len()), (0.25, 0.5, 0));
    }
}
