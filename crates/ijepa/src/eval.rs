//! `ijepa eval knn|linear`: how good are frozen features?

use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{Dataset, Split, Storage};
use ijepa_eval::Features;
use ijepa_eval::knn::{self, Knn};
use ijepa_eval::linear::{self, Logistic};
use ijepa_eval::metrics::{Estimate, accuracy};
use serde::Serialize;

use crate::cli::{EvalCommand, EvalSource};
use crate::exit::{Exit, Failure};
use crate::extract::{Encoder, pixels};
use crate::opening;
use crate::output;

/// As in DINO (Caron et al. 2021) and Wu et al. 2018.
const KNN_TEMPERATURE: f32 = 0.07;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    protocol: &'static str,
    results: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    features: &'static str,
    head: String,
    metric: &'static str,
    value: f64,
    standard_error: f64,
    n_train: usize,
    n_val: usize,
    width: usize,
}

/// Runs the command.
pub(crate) fn run(command: &EvalCommand) -> Result<Exit> {
    let source = match command {
        EvalCommand::Knn(args) => &args.source,
        EvalCommand::Linear(args) => &args.source,
    };
    let seed = source.seed;
    let mut results = Vec::new();
    each_features(source, |features, train, val| {
        let (head, value) = match command {
            EvalCommand::Knn(args) => {
                let knn = Knn { k: args.k, temperature: KNN_TEMPERATURE };
                (format!("knn k={}", args.k), accuracy(&knn::predict(&train, &val, knn)?, &val.labels)?)
            }
            EvalCommand::Linear(_) => {
                let judged = linear::evaluate(&train, &val, &Logistic::standard(seed))?;
                (format!("logistic l2={:e}", judged.fit.lambda), judged.accuracy)
            }
        };
        let Estimate { value, standard_error } = value;
        output::note(&format!("{features}: {head}: {:.2} % ± {:.2}", 100.0 * value, 100.0 * standard_error));
        results.push(Row {
            features,
            head,
            metric: "accuracy",
            value,
            standard_error,
            n_train: train.rows,
            n_val: val.rows,
            width: train.width,
        });
        Ok(())
    })?;
    let protocol = match command {
        EvalCommand::Knn(_) => "knn",
        EvalCommand::Linear(_) => "linear",
    };
    if source.json {
        output::json(&Report { protocol, results })?;
    } else {
        output::result(&table(protocol, &results))?;
    }
    Ok(Exit::Done)
}

/// Calls `judge` with the features of the checkpoint and, with `--baselines`, of an untrained encoder and of raw pixels.
fn each_features(
    source: &EvalSource,
    mut judge: impl FnMut(&'static str, Features, Features) -> Result<()>,
) -> Result<()> {
    let encoder = Encoder::load(&source.checkpoint, &source.encoder)?;
    let train = labelled(&source.train, Split::Train, source.seed)?;
    let val = labelled(&source.val, Split::Val, source.seed)?;
    if train.classes() != val.classes() {
        let names = |classes: Option<&[String]>| {
            classes.map_or_else(
                || "none".to_owned(),
                |names| format!("{} ({}, …)", names.len(), names.first().map_or("", String::as_str)),
            )
        };
        return Err(Failure::new(
            Exit::Data,
            format!(
                "--train and --val must have the same classes: {} has {}, {} has {}",
                source.train,
                names(train.classes()),
                source.val,
                names(val.classes())
            ),
        )
        .remedy("class folders of the same names on both sides")
        .into());
    }
    let (pool, batch) = (source.encoder.pool, source.encoder.batch);
    let mut judge = |name, features: &dyn Fn(&Arc<Dataset>) -> Result<Features>| {
        let (train, val) = (features(&train)?, features(&val)?);
        let (train, val) = numbered(train, val);
        judge(name, train, val)
    };
    judge("trained", &|data| encoder.extract(data, pool, batch))?;
    if source.baselines {
        let untrained = encoder.untrained(source.seed);
        judge("untrained", &|data| untrained.extract(data, pool, batch))?;
        let size = encoder.vit.config.image;
        judge("pixels", &|data| pixels(data, size, encoder.normalisation, batch))?;
    }
    Ok(())
}

/// Labels as 0, 1, 2, … in the order of the training rows' own: a file may number its classes by anything, and heads make room for every
/// number up to the largest. A class that training does not have comes after all others, so that no prediction is right about it.
fn numbered(mut train: Features, mut val: Features) -> (Features, Features) {
    let mut classes = train.labels.clone();
    classes.sort_unstable();
    classes.dedup();
    for label in train.labels.iter_mut().chain(&mut val.labels) {
        *label = classes.binary_search(label).unwrap_or(classes.len()) as u32;
    }
    (train, val)
}

fn labelled(spec: &str, split: Split, seed: u64) -> Result<Arc<Dataset>> {
    let dataset = opening::open(spec, split, seed, Storage::default())?;
    if dataset.labels().is_none() {
        return Err(Failure::new(
            Exit::Data,
            format!("{spec}: expected labelled images, got {} without classes", dataset.len()),
        )
        .remedy("a folder with one sub-folder for each class, or a .safetensors with `labels`")
        .into());
    }
    Ok(Arc::new(dataset))
}

fn table(protocol: &str, results: &[Row]) -> String {
    let mut lines =
        vec![format!("{protocol:<12} {:<22} {:>8}  {:>6}  {:>8} {:>8}", "head", "accuracy", "±", "n_train", "n_val")];
    lines.extend(results.iter().map(|row| {
        format!(
            "{:<12} {:<22} {:>7.2}%  {:>5.2}  {:>8} {:>8}",
            row.features,
            row.head,
            100.0 * row.value,
            100.0 * row.standard_error,
            row.n_train,
            row.n_val
        )
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbered_from_0_by_the_classes_of_training() {
        let of =
            |labels: &[u32]| Features { rows: labels.len(), width: 0, values: Vec::new(), labels: labels.to_vec() };
        let (train, val) = numbered(of(&[7, 3_000_000_000, 7, 2]), of(&[2, 5, 3_000_000_000]));
        assert_eq!((train.labels, val.labels), (vec![1, 2, 1, 0], vec![0, 3, 2]));
    }
}
