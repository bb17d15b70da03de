//! What can be measured, on which images, with how many labels?

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{EncoderArgs, FinetuneArgs, SemiArgs, at_least_one};

/// What `eval` can measure.
#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Vote of the nearest training images, weighted by cosine similarity.
    Knn(KnnArgs),
    /// Logistic regression on frozen features, regularisation chosen on held-out training images.
    Linear(LinearArgs),
    /// Logistic regression as MSN fits it to 1 % of the labels: rows centred and of length 1, a fixed penalty, no intercept.
    Logistic(LogisticArgs),
    /// How many objects are there? As classes, and as a number.
    Count(TaskArgs),
    /// How far is the nearest object? As classes, and as a number.
    Distance(TaskArgs),
    /// Train the whole network on labelled images.
    Finetune(Box<FinetuneArgs>),
    /// Train the whole network on labelled and on unlabelled images, which it labels itself.
    Semi(Box<SemiArgs>),
}

/// Options of `eval knn`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa eval knn --checkpoint runs/photos/checkpoints/latest.safetensors --train photos/train --val photos/val
  ijepa eval knn --checkpoint model.safetensors --train photos/train --val photos/val --k 10,20,100")]
pub(crate) struct KnnArgs {
    #[command(flatten)]
    pub(crate) source: EvalSource,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Neighbours that vote; several numbers give a result each, from one search.
    #[arg(long, value_name = "K,…", default_value = "20", value_delimiter = ',', value_parser = at_least_one::<usize>)]
    pub(crate) k: Vec<usize>,
}

/// Options of `eval linear`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa eval linear --checkpoint runs/photos/checkpoints/latest.safetensors --train photos/train --val photos/val
  ijepa eval linear --checkpoint model.safetensors --train photos/train --val photos/val --baselines --json
  ijepa eval linear --checkpoint model.safetensors --train photos/train --val photos/val --fraction 0.01 --draws 5")]
pub(crate) struct LinearArgs {
    #[command(flatten)]
    pub(crate) source: EvalSource,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
}

/// Options of `eval logistic`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa eval logistic --checkpoint model.safetensors --train imagenet/train --val imagenet/val --labelled 1percent.txt
  ijepa eval logistic --checkpoint model.safetensors --train photos/train --val photos/val --fraction 0.01 --draws 5")]
pub(crate) struct LogisticArgs {
    #[command(flatten)]
    pub(crate) source: EvalSource,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// The penalty, as lambda/2 of the squared weights, is this over the number of labelled images.
    #[arg(long, value_name = "X", default_value_t = 0.0025)]
    pub(crate) penalty: f64,
}

/// Options of `eval count` and `eval distance`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
What --train and --val take:
  CLEVR_v1.0/   images/train, images/val and scenes/ as published (of any number of images)
  DIR/          images, and a labels.csv with a header whose first column is the image's path
  scenes:N      rendered scenes
Classes are the paper's for CLEVR (3 to 10 objects; six bins of distance), every number of objects elsewhere, and
six equally frequent bins of distance unless --edges gives others.

Example:
  ijepa eval count --checkpoint model.safetensors --train CLEVR_v1.0 --val CLEVR_v1.0
  ijepa eval distance --checkpoint model.safetensors --train frames/ --val frames/ --column near_m --baselines")]
pub(crate) struct TaskArgs {
    #[command(flatten)]
    pub(crate) source: EvalSource,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Column of labels.csv [default: n_objects or count; near_m or distance].
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// Bounds between classes, ascending: a number equal to a bound is below it.
    #[arg(long, value_name = "X,…", value_delimiter = ',')]
    pub(crate) edges: Vec<f64>,
}

/// Which features are measured on which images.
#[derive(Args, Clone, Debug)]
pub(crate) struct EvalSource {
    /// Checkpoint: a file or folder of any known format, hf:OWNER/NAME, or a download name of the reference.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// Labelled images to learn from: a folder of class folders, or anything else that pretrain takes as --data.
    #[arg(long, value_name = "PATH")]
    pub(crate) train: String,
    /// Labelled images to be measured on.
    #[arg(long, value_name = "PATH")]
    pub(crate) val: String,
    /// Also measure an untrained encoder of the same sizes, and raw pixels.
    #[arg(long)]
    pub(crate) baselines: bool,
    #[command(flatten)]
    pub(crate) encoder: EncoderArgs,
    /// Seed of the untrained encoder, of scenes, and of what is drawn from the labelled images.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Where features are kept and found again [default: ~/.cache/ijepa/features].
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_cache")]
    pub(crate) cache: Option<PathBuf>,
    /// Compute all features anew and keep none.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Write table and plot to one HTML file.
    #[arg(long, value_name = "F.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print the results as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How many of the training images have labels.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LabelArgs {
    /// Learn from this share of each class, at least one image.
    #[arg(long, value_name = "0..1", conflicts_with_all = ["per_class", "labelled"])]
    pub(crate) fraction: Option<f64>,
    /// Learn from this many images of each class.
    #[arg(long, value_name = "N", conflicts_with = "labelled", value_parser = at_least_one::<usize>)]
    pub(crate) per_class: Option<usize>,
    /// Learn from the images that a file names, one a line, such as the published 1 % of ImageNet.
    #[arg(long, value_name = "FILE")]
    pub(crate) labelled: Option<PathBuf>,
    /// Draw that often with --fraction or --per-class; mean and spread are reported.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one::<usize>)]
    pub(crate) draws: usize,
}
