//! What did the user ask for?
//!
//! A run file is the reference's YAML, unchanged, plus our own keys. This module knows every key, its default and what may stand
//! there; `run.rs` turns the result into what the program will do. Later wins: defaults, the file, `--set section.key=value`,
//! options of the command line. Defaults are the values of the reference's released configurations; our own keys have
//! theirs in [`Config::default`].

mod check;
mod field;
mod model;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

pub(crate) use field::{Choice, Every};
pub(crate) use model::{encoder_config, mask_config, normalisation, predictor_config, train_transform, truncate_over};

use ijepa_model::params::INIT_STD;

use crate::exit::Failure;
use field::{Field, choice};
use yaml::Value;

choice! {
    /// The training method.
    Method { Ijepa = "ijepa" }
}

choice! {
    /// How blocks are drawn: as the reference does, quirks included, or with all its faults mended.
    Sampler { Reference = "reference", Fixed = "fixed" }
}

choice! {
    /// Networks whose linear layers multiply in bfloat16 on a CPU.
    Bfloat16 { None = "none", Target = "target", All = "all" }
}

choice! {
    /// Over which images masks are cut to equal length: a batch of one rank, as in the reference, or all images of a step.
    TruncateOver { Rank = "rank", Global = "global" }
}

choice! {
    /// Encoders by the reference's names.
    Model {
        Tiny = "vit_tiny", Small = "vit_small", Base = "vit_base", Large = "vit_large", Huge = "vit_huge", Giant = "vit_giant"
    }
}

choice! {
    /// What the way back computes anew instead of finding it in memory.
    Recompute { Nothing = "none", Blocks = "blocks" }
}

/// Images: where they are and what happens to them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Data {
    /// Images that a rank takes at a time.
    pub(crate) batch_size: usize,
    /// Strength of the colour distortion, 0 = greyscale only.
    pub(crate) color_jitter_strength: f64,
    /// Share of the image that a random crop covers, least and most.
    pub(crate) crop_scale: [f64; 2],
    /// Side of the crop in pixels.
    pub(crate) crop_size: usize,
    /// Where shards from the network, and those that were packed with gzip, are kept; null means the user's cache.
    pub(crate) download_folder: Option<String>,
    /// Most gigabytes that are kept there; 0 means all.
    pub(crate) download_gb: f64,
    /// Leave out what remains of an epoch after its last whole batch.
    pub(crate) drop_last: bool,
    /// Folder under `root_path`, as the reference splits it.
    pub(crate) image_folder: String,
    /// Mean that is taken off, per channel, of pixels in 0..1.
    pub(crate) mean: [f64; 3],
    /// Threads that prepare images.
    pub(crate) num_workers: usize,
    /// What `--data` takes; goes before `root_path` and `image_folder`.
    pub(crate) path: Option<String>,
    /// For GPU copies in the reference.
    pub(crate) pin_mem: bool,
    /// Root of all data sets, as the reference splits it.
    pub(crate) root_path: String,
    /// Decode JPEGs at a half, a quarter or an eighth where a crop is still large enough then: quicker, other pixels.
    pub(crate) scaled_decoding: bool,
    /// Images that are shuffled together where they lie in shards that are fetched or unpacked as a whole.
    pub(crate) shuffle_window: usize,
    /// Unreadable images after which a run gives up.
    pub(crate) skip_limit: usize,
    /// Deviation that is divided by, per channel.
    pub(crate) std: [f64; 3],
    /// Colour jitter and greyscale.
    pub(crate) use_color_distortion: bool,
    /// Gaussian blur.
    pub(crate) use_gaussian_blur: bool,
    /// Mirror images at random.
    pub(crate) use_horizontal_flip: bool,
}

/// Several processes that train together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Distributed {
    /// Keep the optimiser's moments of a parameter on one rank only.
    pub(crate) shard_optimizer: bool,
    /// Megabytes of gradients that are summed over the ranks at a time. No key of the reference's.
    pub(crate) bucket_mb: f64,
    /// How long a rank waits for the others before it gives them up.
    pub(crate) timeout_minutes: f64,
}

/// What is looked at while a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eval {
    /// How often; null means never.
    pub(crate) every: Option<Every>,
    /// Training images whose features are looked at.
    pub(crate) images: usize,
    /// Labelled images whose neighbours vote, named as `--data`; with `val`.
    pub(crate) train: Option<String>,
    /// Labelled images that are judged.
    pub(crate) val: Option<String>,
}

/// What is written and how often.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Logging {
    /// The run folder; `--out` goes before it.
    pub(crate) folder: String,
    /// How often `metrics.jsonl` and TensorBoard get a row.
    pub(crate) log_every: Every,
    /// How often a checkpoint is written.
    pub(crate) save_every: Every,
    /// First part of file names.
    pub(crate) write_tag: String,
}

/// Which patches are context, which are targets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mask {
    /// Whether context may cover targets.
    pub(crate) allow_overlap: bool,
    /// Height / width of target blocks, least and most.
    pub(crate) aspect_ratio: [f64; 2],
    /// Share of the grid that a context block covers, least and most.
    pub(crate) enc_mask_scale: [f64; 2],
    /// A mask has more patches than this.
    pub(crate) min_keep: usize,
    /// Context blocks an image.
    pub(crate) num_enc_masks: usize,
    /// Target blocks an image.
    pub(crate) num_pred_masks: usize,
    /// Side of a patch in pixels.
    pub(crate) patch_size: usize,
    /// Share of the grid that a target block covers, least and most.
    pub(crate) pred_mask_scale: [f64; 2],
    /// How blocks are drawn.
    pub(crate) sampler: Sampler,
    /// Over which images of a step masks are cut to equal length.
    pub(crate) truncate_over: TruncateOver,
}

/// The model and where its weights begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    /// Networks whose linear layers multiply in bfloat16 where the CPU has AVX512-BF16: none, the target encoder, or all.
    pub(crate) bfloat16_on_cpu: Bfloat16,
    /// Copies data to local disk in the reference's cluster.
    pub(crate) copy_data: bool,
    /// Blocks of the encoder, instead of `model_name`'s.
    pub(crate) enc_depth: Option<usize>,
    /// Width of the encoder, instead of `model_name`'s.
    pub(crate) enc_emb_dim: Option<usize>,
    /// Attention heads of the encoder (and of the predictor), instead of `model_name`'s.
    pub(crate) enc_heads: Option<usize>,
    /// Standard deviation of initial weights. The reference's 0.02 suits widths around 1000; narrow encoders start with blocks that do
    /// next to nothing, and 0.02·√(1280/width) gives their sums the same size.
    pub(crate) init_std: f64,
    /// Go on from `read_checkpoint`, or from the run's latest checkpoint.
    pub(crate) load_checkpoint: bool,
    /// The encoder.
    pub(crate) model_name: Model,
    /// Blocks of the predictor.
    pub(crate) pred_depth: usize,
    /// Width of the predictor.
    pub(crate) pred_emb_dim: usize,
    /// Checkpoint to go on from, relative to the run folder.
    pub(crate) read_checkpoint: Option<String>,
    /// Activations that are computed again on the way back instead of kept: less memory, more time, the same numbers.
    pub(crate) recompute: Recompute,
    /// Seed of every draw.
    pub(crate) seed: u64,
    /// Compute in bf16 where the device can.
    pub(crate) use_bfloat16: bool,
}

/// Learning rate, weight decay, average, and how long.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Optimization {
    /// Batches of a rank whose gradients are added up for a step.
    pub(crate) accumulate: usize,
    /// Momentum of the target encoder, first and last.
    pub(crate) ema: [f64; 2],
    /// Passes over the data.
    pub(crate) epochs: usize,
    /// Learning rate at the end.
    pub(crate) final_lr: f64,
    /// Weight decay at the end.
    pub(crate) final_weight_decay: f64,
    /// Stretches the schedules beyond the end of the run.
    pub(crate) ipe_scale: f64,
    /// Learning rate after warm-up.
    pub(crate) lr: f64,
    /// Learning rate at the start of warm-up.
    pub(crate) start_lr: f64,
    /// Epochs of warm-up.
    pub(crate) warmup: f64,
    /// Weight decay at the start.
    pub(crate) weight_decay: f64,
}

/// Everything that a run file may say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// `data:`
    pub(crate) data: Data,
    /// `distributed:`
    pub(crate) distributed: Distributed,
    /// `eval:`
    pub(crate) eval: Eval,
    /// `logging:`
    pub(crate) logging: Logging,
    /// `mask:`
    pub(crate) mask: Mask,
    /// `meta:`
    pub(crate) meta: Meta,
    /// `method:`
    pub(crate) method: Method,
    /// `optimization:`
    pub(crate) optimization: Optimization,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: Data {
                batch_size: 128,
                color_jitter_strength: 0.0,
                crop_scale: [0.3, 1.0],
                crop_size: 224,
                download_folder: None,
                download_gb: 0.0,
                drop_last: true,
                image_folder: String::new(),
                mean: [0.485, 0.456, 0.406],
                num_workers: 10,
                path: None,
                pin_mem: true,
                root_path: String::new(),
                scaled_decoding: false,
                shuffle_window: 4096,
                skip_limit: 100,
                std: [0.229, 0.224, 0.225],
                use_color_distortion: false,
                use_gaussian_blur: false,
                use_horizontal_flip: false,
            },
            distributed: Distributed { bucket_mb: 32.0, shard_optimizer: true, timeout_minutes: 30.0 },
            eval: Eval { every: None, images: 2048, train: None, val: None },
            logging: Logging {
                folder: String::new(),
                log_every: Every::Steps(1),
                save_every: Every::Epochs(1.0),
                write_tag: "jepa".into(),
            },
            mask: Mask {
                allow_overlap: false,
                aspect_ratio: [0.75, 1.5],
                enc_mask_scale: [0.85, 1.0],
                min_keep: 10,
                num_enc_masks: 1,
                num_pred_masks: 4,
                patch_size: 14,
                pred_mask_scale: [0.15, 0.2],
                sampler: Sampler::Reference,
                truncate_over: TruncateOver::Rank,
            },
            meta: Meta {
                bfloat16_on_cpu: Bfloat16::None,
                copy_data: false,
                enc_depth: None,
                enc_emb_dim: None,
                enc_heads: None,
                init_std: INIT_STD,
                load_checkpoint: false,
                model_name: Model::Huge,
                pred_depth: 12,
                pred_emb_dim: 384,
                read_checkpoint: None,
                recompute: Recompute::Nothing,
                seed: 0,
                use_bfloat16: true,
            },
            method: Method::Ijepa,
            optimization: Optimization {
                accumulate: 1,
                ema: [0.996, 1.0],
                epochs: 300,
                final_lr: 1e-6,
                final_weight_decay: 0.4,
                ipe_scale: 1.0,
                lr: 1e-3,
                start_lr: 2e-4,
                warmup: 40.0,
                weight_decay: 0.04,
            },
        }
    }
}

impl Config {
    /// Every key with its place: the one list that reading, writing and "did you mean" go by.
    fn fields(&mut self) -> Vec<(&'static str, Field<'_>)> {
        let Config { data, distributed, eval, logging, mask, meta, method, optimization } = self;
        vec![
            ("data.batch_size", Field::Count(&mut data.batch_size)),
            ("data.color_jitter_strength", Field::Real(&mut data.color_jitter_strength)),
            ("data.crop_scale", Field::Reals(&mut data.crop_scale)),
            ("data.crop_size", Field::Count(&mut data.crop_size)),
            ("data.download_folder", Field::MaybeText(&mut data.download_folder)),
            ("data.download_gb", Field::Real(&mut data.download_gb)),
            ("data.drop_last", Field::Flag(&mut data.drop_last)),
            ("data.image_folder", Field::Text(&mut data.image_folder)),
            ("data.mean", Field::Reals(&mut data.mean)),
            ("data.num_workers", Field::Count(&mut data.num_workers)),
            ("data.path", Field::MaybeText(&mut data.path)),
            ("data.pin_mem", Field::Flag(&mut data.pin_mem)),
            ("data.root_path", Field::Text(&mut data.root_path)),
            ("data.scaled_decoding", Field::Flag(&mut data.scaled_decoding)),
            ("data.shuffle_window", Field::Count(&mut data.shuffle_window)),
            ("data.skip_limit", Field::Count(&mut data.skip_limit)),
            ("data.std", Field::Reals(&mut data.std)),
            ("data.use_color_distortion", Field::Flag(&mut data.use_color_distortion)),
            ("data.use_gaussian_blur", Field::Flag(&mut data.use_gaussian_blur)),
            ("data.use_horizontal_flip", Field::Flag(&mut data.use_horizontal_flip)),
            ("distributed.bucket_mb", Field::Real(&mut distributed.bucket_mb)),
            ("distributed.shard_optimizer", Field::Flag(&mut distributed.shard_optimizer)),
            ("distributed.timeout_minutes", Field::Real(&mut distributed.timeout_minutes)),
            ("eval.every", Field::MaybeEvery(&mut eval.every)),
            ("eval.images", Field::Count(&mut eval.images)),
            ("eval.train", Field::MaybeText(&mut eval.train)),
            ("eval.val", Field::MaybeText(&mut eval.val)),
            ("logging.folder", Field::Text(&mut logging.folder)),
            ("logging.log_every", Field::Every(&mut logging.log_every)),
            ("logging.save_every", Field::Every(&mut logging.save_every)),
            ("logging.write_tag", Field::Text(&mut logging.write_tag)),
            ("mask.allow_overlap", Field::Flag(&mut mask.allow_overlap)),
            ("mask.aspect_ratio", Field::Reals(&mut mask.aspect_ratio)),
            ("mask.enc_mask_scale", Field::Reals(&mut mask.enc_mask_scale)),
            ("mask.min_keep", Field::Count(&mut mask.min_keep)),
            ("mask.num_enc_masks", Field::Count(&mut mask.num_enc_masks)),
            ("mask.num_pred_masks", Field::Count(&mut mask.num_pred_masks)),
            ("mask.patch_size", Field::Count(&mut mask.patch_size)),
            ("mask.pred_mask_scale", Field::Reals(&mut mask.pred_mask_scale)),
            ("mask.sampler", Field::Choice(&mut mask.sampler)),
            ("mask.truncate_over", Field::Choice(&mut mask.truncate_over)),
            ("meta.bfloat16_on_cpu", Field::Choice(&mut meta.bfloat16_on_cpu)),
            ("meta.copy_data", Field::Flag(&mut meta.copy_data)),
            ("meta.enc_depth", Field::MaybeCount(&mut meta.enc_depth)),
            ("meta.enc_emb_dim", Field::MaybeCount(&mut meta.enc_emb_dim)),
            ("meta.enc_heads", Field::MaybeCount(&mut meta.enc_heads)),
            ("meta.init_std", Field::Real(&mut meta.init_std)),
            ("meta.load_checkpoint", Field::Flag(&mut meta.load_checkpoint)),
            ("meta.model_name", Field::Choice(&mut meta.model_name)),
            ("meta.pred_depth", Field::Count(&mut meta.pred_depth)),
            ("meta.pred_emb_dim", Field::Count(&mut meta.pred_emb_dim)),
            ("meta.read_checkpoint", Field::MaybeText(&mut meta.read_checkpoint)),
            ("meta.recompute", Field::Choice(&mut meta.recompute)),
            ("meta.seed", Field::Seed(&mut meta.seed)),
            ("meta.use_bfloat16", Field::Flag(&mut meta.use_bfloat16)),
            ("method", Field::Choice(method)),
            ("optimization.accumulate", Field::Count(&mut optimization.accumulate)),
            ("optimization.ema", Field::Reals(&mut optimization.ema)),
            ("optimization.epochs", Field::Count(&mut optimization.epochs)),
            ("optimization.final_lr", Field::Real(&mut optimization.final_lr)),
            ("optimization.final_weight_decay", Field::Real(&mut optimization.final_weight_decay)),
            ("optimization.ipe_scale", Field::Real(&mut optimization.ipe_scale)),
            ("optimization.lr", Field::Real(&mut optimization.lr)),
            ("optimization.start_lr", Field::Real(&mut optimization.start_lr)),
            ("optimization.warmup", Field::Real(&mut optimization.warmup)),
            ("optimization.weight_decay", Field::Real(&mut optimization.weight_decay)),
        ]
    }

    /// The whole configuration as YAML that reads back equal, here and in PyYAML.
    pub(crate) fn to_yaml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, value) in self.values() {
            let (head, name) = key.split_once('.').unwrap_or(("", key));
            if head != section && !head.is_empty() {
                text.push_str(&format!("{head}:\n"));
            }
            section = head;
            let indent = if head.is_empty() { "" } else { "  " };
            text.push_str(&format!("{indent}{name}: {value}\n"));
        }
        text
    }

    /// Every key and its value as YAML.
    pub(crate) fn values(&self) -> Vec<(&'static str, String)> {
        self.clone().fields().into_iter().map(|(key, field)| (key, field.shown())).collect()
    }

    /// Keys whose values differ, with both values as YAML: `(key, self, other)`.
    pub(crate) fn differences(&self, other: &Config) -> Vec<(&'static str, String, String)> {
        let pairs = self.values().into_iter().zip(other.values());
        pairs.filter(|((_, a), (_, b))| a != b).map(|((key, a), (_, b))| (key, a, b)).collect()
    }
}

/// Where each value came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(BTreeMap<String, String>);

impl Origins {
    /// `mask.patch_size (configs/a.yaml:31)`, as messages name a key.
    pub(crate) fn of(&self, key: &str) -> String {
        format!("{key} ({})", self.origin(key))
    }

    /// Where the value of `key` came from: `configs/a.yaml:31`, `--set`, `default`.
    pub(crate) fn origin(&self, key: &str) -> &str {
        self.0.get(key).map_or("default", String::as_str)
    }

    /// Whether anyone typed `key`, rather than leaving its default.
    pub(crate) fn typed(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Notes that `key` was decided by `origin`, such as `--data`.
    pub(crate) fn set(&mut self, key: &str, origin: impl Into<String>) {
        self.0.insert(key.to_owned(), origin.into());
    }
}

/// Reads a run file, or none, and `--set section.key=value` over it; the values are checked one by one and together.
pub(crate) fn load(file: Option<&Path>, sets: &[String]) -> Result<(Config, Origins)> {
    let (mut config, mut origins) = (Config::default(), Origins::default());
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read the run file {}", path.display()))
                .because(error)
                .remedy("check the path; `ijepa pretrain --help` shows how a run file is named")
        })?;
        read_into(&mut config, &mut origins, &text, &path.display().to_string())?;
    }
    let mut problems = Vec::new();
    for set in sets {
        if let Err(problem) = apply_set(&mut config, &mut origins, set) {
            problems.push(problem);
        }
    }
    refuse(problems)?;
    refuse(check::problems(&config, &origins))?;
    Ok((config, origins))
}

/// Reads a configuration that a checkpoint or a run folder carries; `name` says whose it is.
pub(crate) fn parse(text: &str, name: &str) -> Result<(Config, Origins)> {
    let (mut config, mut origins) = (Config::default(), Origins::default());
    read_into(&mut config, &mut origins, text, name)?;
    refuse(check::problems(&config, &origins))?;
    Ok((config, origins))
}

fn read_into(config: &mut Config, origins: &mut Origins, text: &str, name: &str) -> Result<()> {
    let entries = yaml::entries(text).map_err(|error| {
        Failure::usage(format!("{name}:{}: {}", error.line, error.what))
            .remedy("a run file is YAML: sections with `key: value` under them")
    })?;
    let problems = entries
        .iter()
        .filter_map(|entry| assign(config, origins, &entry.key, &entry.value, &format!("{name}:{}", entry.line)).err())
        .collect();
    refuse(problems)
}

fn apply_set(config: &mut Config, origins: &mut Origins, set: &str) -> Result<(), String> {
    let (key, text) = set.split_once('=').ok_or_else(|| format!("--set {set}: expected section.key=value"))?;
    let value = yaml::value(text).map_err(|error| format!("--set {set}: {}", error.what))?;
    assign(config, origins, key.trim(), &value, "--set")
}

/// Puts `value` where `key` says. The error is one line.
fn assign(config: &mut Config, origins: &mut Origins, key: &str, value: &Value, origin: &str) -> Result<(), String> {
    let mut fields = config.fields();
    let Some((_, field)) = fields.iter_mut().find(|(known, _)| *known == key) else {
        let known: Vec<&str> = fields.iter().map(|(known, _)| *known).collect();
        // `data:` with nothing under it says nothing.
        if value.is_null() && known.iter().any(|known| known.starts_with(&format!("{key}."))) {
            return Ok(());
        }
        let hint = match nearest(key, &known) {
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        };
        return Err(format!("{key} ({origin}) is not a key{hint}"));
    };
    field.read(value).map_err(|expected| format!("{key} ({origin}): expected {expected}, got {}", value.shown()))?;
    origins.set(key, origin);
    Ok(())
}

/// The known key that `key` most likely means, if any is near: the right name in the wrong section, the beginning of a name, or a
/// misspelt one.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = |key: &str| key.rsplit('.').next().unwrap_or(key).replace('_', "").to_lowercase();
    let typed = name(key);
    let distance = |candidate: &&str| {
        let meant = name(candidate);
        let whole = strsim::osa_distance(key, candidate);
        match () {
            () if typed == meant => 2,
            () if typed.len() > 2 && meant.starts_with(&typed) => 3,
            // Twice: a misspelt name stays behind a right one.
            () => 2 * whole.min(1 + strsim::osa_distance(&typed, &meant)) + 1,
        }
    };
    let best = known.iter().copied().min_by_key(distance)?;
    (distance(&best) <= 3 + 2 * (typed.len() / 3)).then_some(best)
}

/// All problems at once: a user mends a file in one go.
fn refuse(problems: Vec<String>) -> Result<()> {
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(Failure::usage(one.clone()).into()),
        many => {
            Err(Failure::usage(format!("{} problems in the configuration:\n  - {}", many.len(), many.join("\n  - ")))
                .into())
        }
    }
}

#[cfg(test)]
mod tests;
