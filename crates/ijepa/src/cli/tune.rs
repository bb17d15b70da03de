//! How may a whole network be trained on labels?

use std::path::PathBuf;

use clap::Args;

use super::{LabelArgs, NetworkArgs, at_least_one};

/// Options of `eval finetune`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Recipes (--recipe); every flag below overrides one of their values:
  small          small encoders and a few hundred to a few thousand labelled images on a CPU
  ijepa-1percent 1 % of ImageNet as in the paper (appendix A.2): no mixing, no erasing, no drop path
  ijepa-full     all of ImageNet as in the paper (appendix D, ViT-H/16 at 448 pixels)
  mae            all of ImageNet as in MAE, by the encoder's width (B, L, H)

Example:
  ijepa eval finetune --checkpoint model.safetensors --train photos/train --val photos/val --out runs/tuned
  ijepa eval finetune --checkpoint model.safetensors --train photos/train --val photos/val --fraction 0.01 --draws 5")]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    pub(crate) tune: TuneArgs,
    /// Keep a moving average of the weights, of which this share stays at each step, and judge that one.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) ema: Option<f64>,
}

/// Options of `eval semi`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Semi-ViT (Cai et al. 2022): a network that was fine-tuned on the labelled images teaches itself on the others. A moving
average of it, the teacher, labels a weakly distorted view of each; where it is sure, the student learns to say the same
of a strongly distorted view, mixed with another one by their confidences.

Example:
  ijepa eval semi --checkpoint model.safetensors --train photos/train --val photos/val --fraction 0.01 --out runs/semi
  ijepa eval semi --checkpoint model.safetensors --init runs/tuned/checkpoints/latest.safetensors --train photos/train \\
    --val photos/val --fraction 0.01")]
pub(crate) struct SemiArgs {
    #[command(flatten)]
    pub(crate) tune: TuneArgs,
    /// Begin with a network that `eval finetune` left, instead of fine-tuning first.
    #[arg(long, value_name = "FILE")]
    pub(crate) init: Option<PathBuf>,
    /// Passes over the images without labels [default: the recipe's].
    #[arg(long, value_name = "N")]
    pub(crate) semi_epochs: Option<f64>,
    /// Learning rate for 256 labelled images of a batch [default: the recipe's].
    #[arg(long, value_name = "X")]
    pub(crate) semi_lr: Option<f64>,
    /// Labelled images of a batch [default: the recipe's].
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub(crate) semi_batch: Option<usize>,
    /// Share of the teacher that stays at each step [default: the recipe's].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) teacher: Option<f64>,
    /// Probability from which on the teacher is believed [default: the recipe's].
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) threshold: Option<f64>,
    /// Images without labels for each one with a label.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one::<usize>)]
    pub(crate) mu: usize,
    /// Weight of the loss on images without labels [default: the recipe's].
    #[arg(long, value_name = "X")]
    pub(crate) lambda: Option<f64>,
    /// Smallest share of a picture's area that the teacher sees [default: the recipe's].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) weak_scale: Option<f64>,
    /// Let the teacher name each class as often as the labelled images do, as in ReMixMatch [default: the recipe's].
    #[arg(long, value_name = "true|false")]
    pub(crate) align: Option<bool>,
    /// Mix the images without labels in pairs, by how sure the teacher is of both [default: the recipe's].
    #[arg(long, value_name = "true|false")]
    pub(crate) pseudo_mixup: Option<bool>,
}

/// What fine-tuning of any kind is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct TuneArgs {
    /// Checkpoint: a file or folder of any known format, hf:OWNER/NAME, or a download name of the reference.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// Images to learn from, in class folders, or anything else with labels that pretrain takes as --data.
    #[arg(long, value_name = "PATH")]
    pub(crate) train: String,
    /// Labelled images to be measured on.
    #[arg(long, value_name = "PATH")]
    pub(crate) val: String,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Also begin with random weights, by the same recipe.
    #[arg(long)]
    pub(crate) baselines: bool,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Run folder: keeps the trained network, and what --resume needs.
    #[arg(long, value_name = "RUN")]
    pub(crate) out: Option<PathBuf>,
    /// Go on where the run in --out was stopped.
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
    /// Measure after every N epochs, not only after the last.
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>)]
    pub(crate) eval_every: Option<u64>,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Images in memory at a time; a batch of more is computed in parts.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one::<usize>)]
    pub(crate) at_once: usize,
    /// Where to compute: cpu, or a GPU: cuda or cuda:N, in bfloat16 (docs/cuda.md: no GPU has run it yet).
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// Seed of every draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write table and plot to one HTML file.
    #[arg(long, value_name = "F.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print the results as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a recipe's values stand in --help.
const RECIPE: &str = "Recipe";

/// A recipe, and what is different from it.
#[derive(Args, Clone, Debug)]
pub(crate) struct RecipeArgs {
    /// Where the values below come from.
    #[arg(long, help_heading = RECIPE, value_enum, default_value_t = RecipeName::Small)]
    pub(crate) recipe: RecipeName,
    /// Passes over the labelled images.
    #[arg(long, help_heading = RECIPE, value_name = "N")]
    pub(crate) epochs: Option<f64>,
    /// Epochs in which the learning rate rises.
    #[arg(long, help_heading = RECIPE, value_name = "N")]
    pub(crate) warmup: Option<f64>,
    /// Images of a batch, at most the labelled ones.
    #[arg(long, help_heading = RECIPE, value_name = "N", value_parser = at_least_one::<usize>)]
    pub(crate) batch: Option<usize>,
    /// Learning rate for 256 images of a batch; larger and smaller batches get more and less in proportion.
    #[arg(long, help_heading = RECIPE, value_name = "X")]
    pub(crate) lr: Option<f64>,
    /// What the learning rate is multiplied by from a layer to the one before it.
    #[arg(long, help_heading = RECIPE, value_name = "SHARE", value_parser = share)]
    pub(crate) layer_decay: Option<f64>,
    /// AdamW's weight decay.
    #[arg(long, help_heading = RECIPE, value_name = "X")]
    pub(crate) weight_decay: Option<f64>,
    /// Share of the residual branches of the last block that are dropped.
    #[arg(long, help_heading = RECIPE, value_name = "SHARE", value_parser = share)]
    pub(crate) drop_path: Option<f64>,
    /// Share of a label that is spread over all classes.
    #[arg(long, help_heading = RECIPE, value_name = "SHARE", value_parser = share)]
    pub(crate) smoothing: Option<f64>,
    /// Batches are blended in shares of Beta(alpha, alpha); 0 for never.
    #[arg(long, help_heading = RECIPE, value_name = "ALPHA")]
    pub(crate) mixup: Option<f64>,
    /// Batches exchange rectangles in shares of Beta(alpha, alpha); 0 for never.
    #[arg(long, help_heading = RECIPE, value_name = "ALPHA")]
    pub(crate) cutmix: Option<f64>,
    /// Smallest share of a picture's area that is cut out.
    #[arg(long, help_heading = RECIPE, value_name = "SHARE", value_parser = share)]
    pub(crate) crop_scale: Option<f64>,
    /// Changes of a picture in timm's form, as in rand-m9-mstd0.5-inc1; `none` for none.
    #[arg(long, help_heading = RECIPE, value_name = "FORM")]
    pub(crate) rand_augment: Option<String>,
    /// Share of the pictures that lose a rectangle.
    #[arg(long, help_heading = RECIPE, value_name = "SHARE", value_parser = share)]
    pub(crate) erase: Option<f64>,
}

/// Recipes of fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RecipeName {
    Small,
    #[value(name = "ijepa-1percent")]
    IjepaOnePercent,
    IjepaFull,
    Mae,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}
