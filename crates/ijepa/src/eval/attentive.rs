//! What do an encoder's tokens say, when a head may choose among them? Cross-attention with learned queries on kept tokens.

use anyhow::Result;
use ijepa_data::Fit;
use ijepa_eval::attentive::{self, Attentive};

use super::features::{Answered, Judging, Seen};
use super::result::Row;
use super::row;
use crate::cli::AttentiveArgs;
use crate::labelled;
use crate::log::progress::Progress;

/// Images of a step.
const BATCH: usize = 256;

/// Runs `eval attentive`.
pub(super) fn run(args: &AttentiveArgs) -> Result<Vec<Row>> {
    let AttentiveArgs { source, labels, .. } = args;
    let (train, val) = labelled::pair(&source.train, &source.val, source.seed)?;
    let seen = Seen::Tokens { queries: args.queries };
    let judging = Judging { source, labels, train: train.into(), val: val.into(), fit: Fit::Cut, seen };
    judging.run(|kind, train, val| judge(args, kind, train, val))
}

fn judge(args: &AttentiveArgs, kind: &'static str, train: &Answered, val: &Answered) -> Result<Vec<Row>> {
    let how = Attentive {
        tokens: train.features.width / train.token_width,
        queries: args.queries,
        rates: args.rates.clone(),
        decay: args.weight_decay,
        epochs: args.epochs,
        batch: BATCH,
        seed: args.source.seed,
    };
    let trainings = args.rates.len() + usize::from(args.rates.len() > 1);
    let mut progress = Progress::start((trainings * args.epochs) as u64, 0);
    let judged = attentive::evaluate(&train.features, &val.features, &how, |epoch, loss| {
        progress.advance(epoch as u64 + 1, &format!("epochs  loss {loss:.4}"));
    })?;
    progress.finish();
    let head = format!("attentive, {} queries", args.queries);
    let mut row = row(kind, head, "accuracy", judged.accuracy, (&train.features, &val.features));
    row.setting = Some(format!("lr={:e}", judged.rate));
    Ok(vec![row])
}
