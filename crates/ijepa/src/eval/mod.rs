//! `ijepa eval METHOD`: how good are an encoder's features?
//!
//! Frozen features ([`features`]) of the images with labels ([`subset`]) are judged by nearest neighbours or linear heads; what came out
//! is shown by [`result`]. What is asked is a class, or a count or a distance ([`question`]).

mod attentive;
mod features;
mod heads;
mod question;
mod rank;
pub(crate) mod result;
pub(crate) mod subset;

use anyhow::Result;
use ijepa_data::Fit;
use ijepa_eval::Features;
use ijepa_eval::knn::{self, Knn};
use ijepa_eval::linear::{self, Logistic};
use ijepa_eval::metrics::{Estimate, accuracy};
use ijepa_eval::quantity;
use ijepa_eval::ridge::Ridge;

use crate::cli::{EvalCommand, EvalSource, KnnArgs, LabelArgs, TaskArgs};
use crate::exit::Exit;
use crate::labelled;
use crate::tune;
use features::{Answered, Judging, Seen};
use question::Question;
use result::{Row, show};

/// As in DINO (Caron et al. 2021) and Wu et al. 2018.
pub(crate) const KNN_TEMPERATURE: f32 = 0.07;

/// Runs the command.
pub(crate) fn run(command: &EvalCommand) -> Result<Exit> {
    match command {
        EvalCommand::Knn(args) => {
            let judge = |kind, train: &Answered, val: &Answered| neighbours(args, kind, &train.features, &val.features);
            show("knn", &by_class(&args.source, &args.labels, judge)?, &args.source)?;
        }
        EvalCommand::Linear(args) => {
            let seed = args.source.seed;
            let judge = |kind, train: &Answered, val: &Answered| {
                logistic(kind, &train.features, &val.features, &Logistic::standard(seed))
            };
            let rows = match args.preset {
                Some(preset) => heads::run(args, preset)?,
                None => by_class(&args.source, &args.labels, judge)?,
            };
            show("linear", &rows, &args.source)?;
        }
        EvalCommand::Logistic(args) => {
            let judge = |kind, train: &Answered, val: &Answered| {
                let msn = Logistic::msn(args.penalty, train.features.rows);
                logistic(kind, &train.features, &val.features, &msn)
            };
            show("logistic", &by_class(&args.source, &args.labels, judge)?, &args.source)?;
        }
        EvalCommand::Count(args) => show("count", &task(args, Question::Count)?, &args.source)?,
        EvalCommand::Distance(args) => show("distance", &task(args, Question::Distance)?, &args.source)?,
        EvalCommand::Attentive(args) => show("attentive", &attentive::run(args)?, &args.source)?,
        EvalCommand::Rank(args) => rank::run(args)?,
        EvalCommand::Finetune(args) => return tune::finetune(args),
        EvalCommand::Semi(args) => return tune::semi(args),
    }
    Ok(Exit::Done)
}

/// What `judge` makes of images with classes.
fn by_class(
    source: &EvalSource,
    labels: &LabelArgs,
    judge: impl Fn(&'static str, &Answered, &Answered) -> Result<Vec<Row>>,
) -> Result<Vec<Row>> {
    let (train, val) = labelled::pair(&source.train, &source.val, source.seed)?;
    let (train, val) = (train.into(), val.into());
    Judging { source, labels, train, val, fit: Fit::Cut, seen: Seen::Pooled(source.encoder.pool) }.run(judge)
}

fn row(
    features: &'static str,
    head: String,
    metric: &'static str,
    estimate: Estimate,
    (train, val): (&Features, &Features),
) -> Row {
    let Estimate { value, standard_error } = estimate;
    let (n_train, n_val, width) = (train.rows, val.rows, train.width);
    Row {
        features,
        head,
        setting: None,
        metric,
        value,
        standard_error,
        n_train,
        n_val,
        width,
        draws: Vec::new(),
        heads: Vec::new(),
    }
}

fn neighbours(args: &KnnArgs, kind: &'static str, train: &Features, val: &Features) -> Result<Vec<Row>> {
    let votes: Vec<Knn> = args.k.iter().map(|&k| Knn { k, temperature: KNN_TEMPERATURE }).collect();
    let row = |(knn, predictions): (&Knn, Vec<u32>)| {
        Ok(row(kind, format!("knn k={}", knn.k), "accuracy", accuracy(&predictions, &val.labels)?, (train, val)))
    };
    votes.iter().zip(knn::sweep(train, val, &votes)?).map(row).collect()
}

fn logistic(kind: &'static str, train: &Features, val: &Features, how: &Logistic) -> Result<Vec<Row>> {
    let judged = linear::evaluate(train, val, how)?;
    let mut row = row(kind, "logistic".to_owned(), "accuracy", judged.accuracy, (train, val));
    row.setting = Some(format!("l2={:e}", judged.fit.lambda));
    Ok(vec![row])
}

/// As classes by a linear classifier, and as a number by least squares.
fn task(args: &TaskArgs, question: Question) -> Result<Vec<Row>> {
    let source = &args.source;
    let (train, val, classes) = question::asked(args, question)?;
    // What lies at the edge counts too.
    let seen = Seen::Pooled(source.encoder.pool);
    let judging = Judging { source, labels: &args.labels, train, val, fit: Fit::Squash, seen };
    judging.run(|kind, train, val| {
        let mut rows = logistic(kind, &train.features, &val.features, &Logistic::standard(source.seed))?;
        rows[0].head = format!("logistic, {classes} classes");
        rows.extend(regression(kind, train, val, source.seed)?);
        Ok(rows)
    })
}

/// R² and mean absolute error of ridge regression, λ chosen on held-out training images.
fn regression(kind: &'static str, train: &Answered, val: &Answered, seed: u64) -> Result<Vec<Row>> {
    let (features, ridge) = ((&train.features, &val.features), Ridge::standard(seed));
    let judged = quantity::evaluate(features.0, &train.values, features.1, &val.values, 1, &ridge)?;
    let quality = judged.outputs[0];
    let both = [("r2", quality.r_squared), ("mae", quality.absolute_error)];
    Ok(both
        .map(|(metric, estimate)| {
            let mut row = row(kind, "ridge".to_owned(), metric, estimate, features);
            row.setting = Some(format!("l2={:e}", judged.fit.lambda));
            row
        })
        .into())
}
