//! What can be measured, on which images, with how many labels?

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{EncoderArgs, FinetuneArgs, Pool, SemiArgs, at_least_one};

/// What `eval` can measure.
#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Vote of the nearest training images, weighted by cosine similarity.
    Knn(KnnArgs),
    /// Linear classifiers on frozen features: logistic regression, or many heads trained with SGD or LARS.
    Linear(LinearArgs),
    /// Logistic regression as MSN fits it to 1 % of the labels: rows centred and of length 1, a fixed penalty, no intercept.
    Logistic(LogisticArgs),
    /// How many objects are there? As classes, and as a number.
    Count(TaskArgs),
    /// How far is the nearest object? As classes, and as a number.
    Distance(TaskArgs),
    /// One layer of cross-attention with learned queries over the patch tokens, then a linear classifier.
    Attentive(AttentiveArgs),
    /// How many directions do features use? Without labels: RankMe, effective rank, alpha-ReQ, LiDAR, deviation.
    Rank(RankArgs),
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
Two ways to train a linear classifier on frozen features:
  without --preset  multinomial logistic regression on standardised columns, solved to the end (L-BFGS); its penalty is
                    chosen on a held-out tenth of the training images
  with --preset     many linear heads trained at once with SGD or LARS, as in VISSL and the paper: on the last layer and
                    on the last four side by side, with and without BatchNorm, at several rates and weight decays

Presets (batch, epochs; learning rates are for 256 images of a batch):
  default      SGD, 256, 100, cosine; rates 1, 0.1, 0.01; decays 0.0005, 0
  imagenet     LARS, 16384, 50, a tenth at 15, 30, 45; rates 0.1, 0.01; decays 0.0005, 0: 16 heads, ViT-H of the paper
  cifar100     SGD, 256, 28, a tenth at 8, 16, 24; rate 0.01; decay 0.0005
  places205    SGD, 256, 14, a tenth at 4, 8, 12; rate 0.01; decay 0.0005
  inat18       SGD, 256, 84, a tenth at 24, 48, 72; rate 0.01; decay 0.0005
  clevr-count  SGD, 256, 50, cosine to a hundredth; rate 0.01; decay 0.0005
  clevr-dist   SGD, 256, 100, cosine to a hundredth; rate 0.01; decay 0.0005

Example:
  ijepa eval linear --checkpoint runs/photos/checkpoints/latest.safetensors --train photos/train --val photos/val
  ijepa eval linear --checkpoint model.safetensors --train photos/train --val photos/val --baselines --json
  ijepa eval linear --checkpoint model.safetensors --train photos/train --val photos/val --fraction 0.01 --draws 5
  ijepa eval linear --checkpoint model.safetensors --train imagenet/train --val imagenet/val --preset imagenet")]
pub(crate) struct LinearArgs {
    #[command(flatten)]
    pub(crate) source: EvalSource,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Train many heads with SGD or LARS instead, with these settings.
    #[arg(long, value_enum, conflicts_with = "pool", help_heading = HEADS)]
    pub(crate) preset: Option<Preset>,
    #[command(flatten)]
    pub(crate) heads: HeadArgs,
}

/// Where settings of heads stand in --help.
const HEADS: &str = "Heads";

/// What is different from a preset of heads.
#[derive(Args, Clone, Debug)]
pub(crate) struct HeadArgs {
    /// Where the best head is looked for.
    #[arg(long, help_heading = HEADS, value_enum, default_value_t = ChoiceOfHead::HeldOut, requires = "preset")]
    pub(crate) choose: ChoiceOfHead,
    /// What heads see: the mean of the last layer, means of the last four side by side.
    #[arg(long, help_heading = HEADS, value_enum, value_name = "POOL,…", default_value = "last,last4", value_delimiter = ',', requires = "preset")]
    pub(crate) pools: Vec<Pool>,
    /// Whether BatchNorm comes first [default: the preset's].
    #[arg(long, help_heading = HEADS, value_name = "true|false,…", value_delimiter = ',', requires = "preset")]
    pub(crate) batch_norm: Vec<bool>,
    /// Learning rates for 256 images of a batch [default: the preset's].
    #[arg(long, help_heading = HEADS, value_name = "X,…", value_delimiter = ',', requires = "preset")]
    pub(crate) rates: Vec<f64>,
    /// Weight decays [default: the preset's].
    #[arg(long, help_heading = HEADS, value_name = "X,…", value_delimiter = ',', requires = "preset")]
    pub(crate) decays: Vec<f64>,
    /// Passes over the labelled images [default: the preset's].
    #[arg(long, help_heading = HEADS, value_name = "N", value_parser = at_least_one::<usize>, requires = "preset")]
    pub(crate) epochs: Option<usize>,
    /// Images of a batch of features [default: the preset's].
    #[arg(long, help_heading = HEADS, value_name = "N", value_parser = at_least_one::<usize>, requires = "preset")]
    pub(crate) rows: Option<usize>,
}

/// Settings that others report with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Preset {
    Default,
    Imagenet,
    Cifar100,
    Places205,
    Inat18,
    ClevrCount,
    ClevrDist,
}

/// Where the best of many heads is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ChoiceOfHead {
    /// On a tenth of the training images that is held out; the head is then trained anew on all of them.
    HeldOut,
    /// On the images that are judged, as the paper does: the figure flatters.
    Val,
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

/// Options of `eval attentive`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Each of the --queries looks at the patch tokens of the frozen encoder with weights of its own (softmax of a scaled product),
and takes a projection of what it sees; all of them side by side go through a linear classifier. AdamW, batches of 256, a
cosine. The learning rate is chosen on a held-out tenth of the training images; the probe is then trained anew on all of
them. Tokens are kept like features: images × patches × width numbers of 4 bytes.

Example:
  ijepa eval attentive --checkpoint model.safetensors --train photos/train --val photos/val
  ijepa eval attentive --checkpoint model.safetensors --train photos/train --val photos/val --rates 0.001 --queries 8")]
pub(crate) struct AttentiveArgs {
    #[command(flatten)]
    pub(crate) source: EvalSource,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Queries; they divide the encoder's width.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one::<usize>)]
    pub(crate) queries: usize,
    /// Learning rates; of several, the best on a held-out tenth of the training images.
    #[arg(long, value_name = "X,…", default_value = "0.0003,0.001,0.003", value_delimiter = ',')]
    pub(crate) rates: Vec<f64>,
    /// AdamW's weight decay.
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    pub(crate) weight_decay: f64,
    /// Passes over the labelled images.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_one::<usize>)]
    pub(crate) epochs: usize,
}

/// Options of `eval rank`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
RankMe (Garrido et al. 2023), effective rank (Roy & Vetterli 2007: RankMe without the mean), alpha-ReQ (Agrawal et al.
2022), LiDAR (Thilak et al. 2023) on --views random crops of --pictures, and the mean deviation of the columns. LiDAR as
published hides patches of I-JEPA's images instead of cropping.

Example:
  ijepa eval rank --checkpoint model.safetensors --data photos/
  ijepa eval rank --checkpoint model.safetensors --data photos/ --baselines --views 10 --json")]
pub(crate) struct RankArgs {
    /// Checkpoint: a file or folder of any known format, hf:OWNER/NAME, or a download name of the reference.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// Images, with or without labels: what pretrain takes as --data.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    /// Images at most, evenly spread over the data; the authors of RankMe take 25,600.
    #[arg(long, value_name = "N", default_value_t = 25_600, value_parser = at_least_one::<usize>)]
    pub(crate) images: usize,
    /// Pictures of which LiDAR sees several views.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one::<usize>)]
    pub(crate) pictures: usize,
    /// Views of each of them; 0 leaves LiDAR out.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) views: usize,
    /// Also measure an untrained encoder of the same sizes, and raw pixels.
    #[arg(long)]
    pub(crate) baselines: bool,
    #[command(flatten)]
    pub(crate) encoder: EncoderArgs,
    /// Seed of the untrained encoder, of scenes, and of the views.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Write table and plot to one HTML file.
    #[arg(long, value_name = "F.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print the results as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where features are kept.
#[derive(Args, Clone, Debug)]
pub(crate) struct CacheArgs {
    /// Where features are kept and found again [default: ~/.cache/ijepa/features].
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_cache")]
    pub(crate) cache: Option<PathBuf>,
    /// Compute all features anew and keep none.
    #[arg(long)]
    pub(crate) no_cache: bool,
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
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
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
