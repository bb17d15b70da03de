//! Which of many linear heads is best? Trained with SGD or LARS on kept features, all at once, as VISSL and the paper do.

use anyhow::Result;
use ijepa_eval::Features;
use ijepa_eval::heads::{self, HeadConfig, Judged, Recipe, Set, Sweep};
use serde::Serialize;

use super::features::{Judging, Seen};
use super::result::Row;
use super::row;
use crate::cli::{ChoiceOfHead, HeadArgs, LinearArgs, Pool, Preset};
use crate::labelled;
use crate::log::progress::Progress;
use ijepa_data::Fit;

/// A head of a sweep, and how good it was where heads were compared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    /// The layers it sees.
    pub(crate) pool: &'static str,
    pub(crate) batch_norm: bool,
    /// For a batch of 256.
    pub(crate) rate: f64,
    pub(crate) decay: f64,
    /// Mean training loss of the last epoch; none where it left the numbers.
    pub(crate) loss: Option<f64>,
    /// On the held-out training images, or with `--choose val` on the images that are judged.
    pub(crate) accuracy: f64,
}

impl Trial {
    fn of(judged: &Judged, pools: &[Pool]) -> Trial {
        let HeadConfig { set, norm, rate, decay } = judged.head;
        let loss = Some(judged.loss).filter(|loss| loss.is_finite());
        Trial { pool: name(pools[set]), batch_norm: norm, rate, decay, loss, accuracy: judged.accuracy.value }
    }

    /// The settings in a few words.
    pub(crate) fn said(&self) -> String {
        let Trial { pool, rate, decay, .. } = self;
        format!("{pool}, {}lr {rate}, wd {decay}", if self.batch_norm { "BatchNorm, " } else { "" })
    }
}

/// Trains and judges the heads of `eval linear --preset`.
pub(super) fn run(args: &LinearArgs, preset: Preset) -> Result<Vec<Row>> {
    let LinearArgs { source, labels, heads, .. } = args;
    let (train, val) = labelled::pair(&source.train, &source.val, source.seed)?;
    let recipe = recipe(preset, heads);
    // The last layer is the end of the last four, so one set of features holds both.
    let pool = if heads.pools.contains(&Pool::Last4) { Pool::Last4 } else { Pool::Last };
    let judging =
        Judging { source, labels, train: train.into(), val: val.into(), fit: Fit::Cut, seen: Seen::Pooled(pool) };
    judging.run(|kind, train, val| {
        let pools = if kind == "pixels" { &[Pool::Last] } else { &heads.pools[..] };
        let sweep = recipe.sweep(pools.len(), source.seed);
        let sets = |features| pools.iter().map(|&own| set(features, own, pool, kind)).collect::<Vec<_>>();
        let features = (&train.features, &val.features);
        let (best, trials) = trained((&sets(features.0), &sets(features.1)), &sweep, heads.choose)?;
        let trials: Vec<Trial> = trials.iter().map(|trial| Trial::of(trial, pools)).collect();
        let by = match heads.choose {
            ChoiceOfHead::HeldOut => "chosen of",
            ChoiceOfHead::Val => "best on val of",
        };
        let head = format!("{}: {by} {} heads", recipe.name, trials.len());
        let mut row = row(kind, head, "accuracy", best.accuracy, features);
        row.setting = Some(Trial::of(&best, pools).said());
        row.heads = trials;
        Ok(vec![row])
    })
}

/// The best head, and all that were compared.
fn trained((train, val): (&[Set], &[Set]), sweep: &Sweep, choice: ChoiceOfHead) -> Result<(Judged, Vec<Judged>)> {
    let heads = sweep.heads.len();
    let again = if choice == ChoiceOfHead::HeldOut { 1 } else { 0 };
    let mut progress = Progress::start((sweep.epochs * (heads + again)) as u64, 0);
    let mut done = 0;
    let watch = |epoch: usize, losses: &[f64]| {
        done += losses.len() as u64;
        let least = losses.iter().copied().filter(|loss| loss.is_finite()).fold(f64::INFINITY, f64::min);
        progress.advance(done, &format!("epochs of a head  epoch {}  least loss {least:.4}", epoch % sweep.epochs + 1));
    };
    match choice {
        ChoiceOfHead::HeldOut => {
            let chosen = heads::choose(train, val, sweep, watch)?;
            Ok((chosen.judged, chosen.trials))
        }
        ChoiceOfHead::Val => {
            let judged = heads::evaluate(train, val, sweep, watch)?;
            let better = |best: usize, at: usize| judged[at].accuracy.value > judged[best].accuracy.value;
            let best = (0..heads).fold(0, |best, at| if better(best, at) { at } else { best });
            Ok((judged[best].clone(), judged))
        }
    }
}

/// The preset with what was asked for instead.
fn recipe(preset: Preset, args: &HeadArgs) -> Recipe {
    let mut recipe = match preset {
        Preset::Default => Recipe::standard(),
        Preset::Imagenet => Recipe::imagenet(),
        Preset::Cifar100 => Recipe::cifar100(),
        Preset::Places205 => Recipe::places205(),
        Preset::Inat18 => Recipe::inat18(),
        Preset::ClevrCount => Recipe::clevr_count(),
        Preset::ClevrDist => Recipe::clevr_dist(),
    };
    let replace = |values: &mut Vec<f64>, other: &[f64]| {
        if !other.is_empty() {
            *values = other.to_vec();
        }
    };
    replace(&mut recipe.rates, &args.rates);
    replace(&mut recipe.decays, &args.decays);
    if !args.batch_norm.is_empty() {
        recipe.norms.clone_from(&args.batch_norm);
    }
    recipe.epochs = args.epochs.unwrap_or(recipe.epochs);
    recipe.batch = args.rows.unwrap_or(recipe.batch);
    recipe
}

/// The columns of a pooling in features of that one or of more layers.
fn set<'a>(features: &'a Features, wanted: Pool, kept: Pool, kind: &str) -> Set<'a> {
    let width = features.width;
    let first = match (wanted, kept) {
        (Pool::Last, Pool::Last4) if kind != "pixels" => width / 4 * 3,
        _ => 0,
    };
    Set { features, columns: first..width }
}

fn name(pool: Pool) -> &'static str {
    match pool {
        Pool::Last => "last",
        Pool::Last4 => "last4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layer_is_the_end_of_the_last_four() {
        let features = Features { rows: 2, width: 8, values: (0..16).map(|k| k as f32).collect(), labels: vec![0, 1] };
        assert_eq!(set(&features, Pool::Last, Pool::Last4, "trained").columns, 6..8);
        assert_eq!(set(&features, Pool::Last4, Pool::Last4, "trained").columns, 0..8);
        assert_eq!(set(&features, Pool::Last, Pool::Last, "trained").columns, 0..8);
        assert_eq!(set(&features, Pool::Last, Pool::Last4, "pixels").columns, 0..8);
    }
}
