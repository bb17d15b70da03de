//! `ijepa demo`: pretrain on rendered scenes, then ask how much a linear probe reads from the features.
//!
//! Three questions are asked of scenes that training has not seen: which shape is the largest, how many objects are there, how
//! far is the nearest? Three kinds of features answer them by the same protocol: the trained target encoder's, an untrained
//! encoder's, and raw pixels.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use ijepa_data::dataset::{SCENE_CLASSES, distance_bin};
use ijepa_data::{Dataset, Split};
use ijepa_eval::Features;
use ijepa_eval::linear::{self, Logistic};
use ijepa_eval::metrics::Estimate;
use ijepa_model::jepa::Jepa;
use ijepa_tensor::Buf;
use serde::Serialize;

use crate::cli::{DemoArgs, Pool, PretrainArgs};
use crate::config;
use crate::exit::Exit;
use crate::extract::{Encoder, pixels};
use crate::output;
use crate::pretrain::pretrain;
use crate::run::{self, Run};

/// The run file of the demo.
const CONFIG: &str = include_str!("../../../configs/demo.yaml");

/// Fresh scenes that the probes learn from, and that they are judged on.
const PROBE_TRAIN: usize = 8000;
const PROBE_VAL: usize = 4000;

/// Images at a time when features are extracted.
const BATCH: usize = 128;

/// What is asked about a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Task {
    /// Shape of the largest object.
    Class,
    /// Number of objects.
    Count,
    /// Which quarter of the range the nearest object's distance lies in.
    Distance,
}

impl Task {
    pub(crate) const ALL: [Task; 3] = [Task::Class, Task::Count, Task::Distance];

    /// In words, with its number of answers.
    pub(crate) fn question(self) -> String {
        match self {
            Task::Class => format!("shape of the largest ({})", SCENE_CLASSES.len()),
            Task::Count => "number of objects (5)".to_owned(),
            Task::Distance => "distance of the nearest (4)".to_owned(),
        }
    }

    fn label(self, scenes: &Dataset, index: usize) -> u32 {
        let labels = scenes.scene_labels(index).expect("the data are scenes");
        match self {
            Task::Class => labels.class,
            Task::Count => labels.count - 1,
            Task::Distance => distance_bin(labels.distance),
        }
    }
}

/// Accuracy of one kind of features on one task.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Score {
    pub(crate) features: &'static str,
    pub(crate) task: Task,
    metric: &'static str,
    pub(crate) value: f64,
    pub(crate) standard_error: f64,
    n_train: usize,
    n_val: usize,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    run: &'a Path,
    report: &'a Path,
    seconds: f64,
    results: &'a [Score],
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Result<Exit> {
    let began = Instant::now();
    let asked = PretrainArgs { out: Some(folder(args)), seed: Some(args.seed), steps: args.steps, ..PretrainArgs::default() };
    let settings = run::settings_of(&asked, config::parse(CONFIG, "configs/demo.yaml")?)?;
    let done = pretrain(&settings, None)?;
    if done.exit != Exit::Done {
        return Ok(done.exit);
    }
    output::note("probing: which shape is the largest, how many objects, how far is the nearest?");
    let encoders = encoders(&done.run, &done.model, &done.target);
    let probe = Probe::new(args.seed)?;
    let results = probe.scores(&encoders)?;
    let report = done.run.folder.join("report.html");
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        output::json(&Printed { run: &done.run.folder, report: &report, seconds, results: &results })?;
    } else {
        output::result(&table(&results))?;
    }
    Ok(Exit::Done)
}

/// `--out`, else the first of runs/demo, runs/demo-2, … that is free.
fn folder(args: &DemoArgs) -> PathBuf {
    let names = std::iter::once("runs/demo".to_owned()).chain((2..).map(|n| format!("runs/demo-{n}")));
    let free = || names.map(PathBuf::from).find(|folder| !folder.exists()).expect("the numbers do not end");
    args.out.clone().unwrap_or_else(free)
}

/// The trained target encoder, and an untrained one of the same sizes.
fn encoders(run: &Run, model: &Jepa, target: &Buf) -> [(&'static str, Encoder); 2] {
    let trained = Encoder::new(model.encoder.config, target.clone(), run.transform.normalisation);
    let untrained = trained.untrained(run.config.meta.seed);
    [("trained", trained), ("untrained", untrained)]
}

/// Fresh scenes: none of them was trained on.
struct Probe {
    train: Arc<Dataset>,
    val: Arc<Dataset>,
    seed: u64,
}

impl Probe {
    fn new(seed: u64) -> Result<Probe> {
        let scenes = |count: usize, split| Dataset::open(&format!("scenes:{count}"), split, seed.wrapping_add(1)).map(Arc::new);
        Ok(Probe { train: scenes(PROBE_TRAIN, Split::Train)?, val: scenes(PROBE_VAL, Split::Val)?, seed })
    }

    fn scores(&self, encoders: &[(&'static str, Encoder)]) -> Result<Vec<Score>> {
        let mut scores = Vec::new();
        for (name, encoder) in encoders {
            let of = |scenes: &Arc<Dataset>| encoder.extract(scenes, Pool::Last, BATCH);
            scores.extend(self.judge(name, of(&self.train)?.features, of(&self.val)?.features)?);
        }
        let encoder = &encoders[0].1;
        let of = |scenes: &Arc<Dataset>| pixels(scenes, encoder.vit.config.image.0, encoder.normalisation, BATCH);
        scores.extend(self.judge("pixels", of(&self.train)?.features, of(&self.val)?.features)?);
        Ok(scores)
    }

    /// One linear probe for each task on the same features.
    fn judge(&self, features: &'static str, mut train: Features, mut val: Features) -> Result<Vec<Score>> {
        let mut scores = Vec::new();
        for task in Task::ALL {
            train.labels = (0..train.rows).map(|row| task.label(&self.train, row)).collect();
            val.labels = (0..val.rows).map(|row| task.label(&self.val, row)).collect();
            let Estimate { value, standard_error } = linear::evaluate(&train, &val, &Logistic::standard(self.seed))?.accuracy;
            output::note(&format!("{features}: {}: {:.1} %", task.question(), 100.0 * value));
            scores.push(Score { features, task, metric: "accuracy", value, standard_error, n_train: train.rows, n_val: val.rows });
        }
        Ok(scores)
    }
}

fn table(results: &[Score]) -> String {
    let mut lines = vec![format!("{:<30} {:>10} {:>10} {:>10}", "linear probe, accuracy", "trained", "untrained", "pixels")];
    for task in Task::ALL {
        let cell = |features: &str| {
            let score = results.iter().find(|score| score.features == features && score.task == task);
            score.map_or_else(String::new, |score| format!("{:.1} %", 100.0 * score.value))
        };
        lines.push(format!("{:<30} {:>10} {:>10} {:>10}", task.question(), cell("trained"), cell("untrained"), cell("pixels")));
    }
    let error = results.iter().map(|score| score.standard_error).fold(0.0, f64::max);
    lines.push(format!("standard error at most {:.1} points", 100.0 * error));
    lines.join("\n")
}
