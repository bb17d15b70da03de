//! What can the user ask for? The command line, nothing else: what each command does is in the module of its name.

mod data;
mod eval;
mod plan;
mod tune;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::config::Bfloat16;

pub(crate) use data::{BenchDataArgs, DataCheckArgs, DataCommand, DataPackArgs};
pub(crate) use eval::{
    AttentiveArgs, CacheArgs, ChoiceOfHead, EvalCommand, EvalSource, HeadArgs, KnnArgs, LabelArgs, LinearArgs, Preset,
    RankArgs, TaskArgs,
};
pub(crate) use plan::PlanArgs;
pub(crate) use tune::{FinetuneArgs, RecipeArgs, RecipeName, SemiArgs, TuneArgs};

/// Image representations by predicting what is hidden (I-JEPA): pretrain, evaluate, look inside.
#[derive(Debug, Parser)]
#[command(name = "ijepa", version, propagate_version = true, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more on stderr.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,

    /// Say nothing on stderr but warnings and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 901)]
    pub(crate) quiet: bool,

    /// Threads to compute with [default: one per core]; results do not depend on it.
    #[arg(long, global = true, value_name = "N", display_order = 902)]
    pub(crate) threads: Option<NonZeroUsize>,
}

const EXIT_CODES: &str = "\
Begin with `ijepa demo`: it needs no data and takes a few minutes.

Exit codes: 0 done, 1 failed, 2 command line or configuration, 3 data, 4 checkpoint, 5 device or a lost
rank, 6 the loss is not finite, 75 stopped by a signal after saving (start again with --resume).";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pretrain on rendered scenes and probe what was learnt; needs no data.
    Demo(DemoArgs),
    /// Learn from images without labels.
    Pretrain(PretrainArgs),
    /// Measure how good a checkpoint's features are.
    #[command(subcommand)]
    Eval(Box<EvalCommand>),
    /// Write the features of images to a file.
    Embed(EmbedArgs),
    /// List what a checkpoint holds, without loading it.
    Inspect(InspectArgs),
    /// Write a checkpoint in another program's format.
    Convert(ConvertArgs),
    /// Check a data set, or store it so that it can be read fast.
    #[command(subcommand)]
    Data(DataCommand),
    /// Show, check and compare run files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make pictures of what the method does.
    #[command(subcommand)]
    View(ViewCommand),
    /// Measure how fast this machine is and how much of it is used.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// What a run would take, on this machine or on GPUs: memory, images a second, hours.
    Plan(PlanArgs),
    /// What this machine has, what is missing, and what to do about it.
    Doctor(DoctorArgs),
}

/// Options of `pretrain`.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "\
Several processes train together when mpirun or srun starts them, in builds with MPI (see doctor and docs/ranks.md):
data.batch_size is that of each; optimization.accumulate adds up several batches for a step.

Example:
  ijepa pretrain configs/imagenette96.yaml --data photos/ --out runs/photos
  ijepa pretrain --resume --out runs/photos
  mpirun -n 4 ijepa pretrain configs/imagenette96.yaml --data photos/ --out runs/photos")]
pub(crate) struct PretrainArgs {
    /// Run file: the reference's YAML with our own keys [default: the reference's values; with --resume, the run's own].
    pub(crate) config: Option<PathBuf>,
    /// Images: a folder (its train/ if it has one), a list, shards (.tar, http:// too), Parquet, CIFAR, IDX, .npy, .safetensors
    /// (docs/data.md has them all), or scenes:N.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// The run folder [default: logging.folder, else runs/ and the run file's name].
    #[arg(long, value_name = "RUN")]
    pub(crate) out: Option<PathBuf>,
    /// Change a value of the configuration; may be given many times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Go on from the newest checkpoint of the run folder, or from the TAG-latest.pth.tar of a run that the reference began there.
    #[arg(long, conflicts_with = "init")]
    pub(crate) resume: bool,
    /// Begin with the weights of a checkpoint, named as anywhere (see inspect); of one without a predictor, with its encoder.
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) init: Option<PathBuf>,
    /// Train on exactly these batches: step{i}.images, step{i}.context{k}, step{i}.target{j}.
    #[arg(long, value_name = "BATCHES.safetensors", conflicts_with = "data")]
    pub(crate) replay: Option<PathBuf>,
    /// End after N steps; schedules keep their length.
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>)]
    pub(crate) steps: Option<u64>,
    /// Seed of every draw [default: meta.seed].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Where to compute: cpu, which auto is too, or a GPU: cuda or cuda:N (docs/cuda.md: no GPU has run it yet).
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// Train on these GPUs of this machine, one process each, over NCCL: numbers and ranges.
    #[arg(long, value_name = "0-3,6", conflicts_with = "device")]
    pub(crate) gpus: Option<String>,
    /// Check everything, say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Options of `demo`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa demo
  ijepa demo --out runs/demo-1 --seed 1 --json")]
pub(crate) struct DemoArgs {
    /// The run folder [default: runs/demo, or runs/demo-2, … if that is taken].
    #[arg(long, value_name = "RUN")]
    pub(crate) out: Option<PathBuf>,
    /// Seed of every draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Train for N steps instead [default: what takes a few minutes on two cores].
    #[arg(long, value_name = "N", value_parser = at_least_one::<u64>)]
    pub(crate) steps: Option<u64>,
    /// Print the results as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which encoder of a checkpoint, and what the checkpoint does not say of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct NetworkArgs {
    /// Which encoder: the slowly moving average (target), or the one that learns by gradients (context) [default: target; of a
    /// file with one encoder, that one].
    #[arg(long, value_enum)]
    pub(crate) network: Option<Network>,
    /// Run file with the encoder's heads and normalisation, for checkpoints that do not carry them (those of the reference).
    #[arg(long, value_name = "CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Attention heads, where neither the checkpoint nor its width tells them.
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub(crate) heads: Option<usize>,
    /// Height and width of images in pixels, where they are not those of training: positions are interpolated.
    #[arg(long, value_name = "H[xW]")]
    pub(crate) image_size: Option<ImageSize>,
}

/// How images become features.
#[derive(Args, Clone, Debug)]
pub(crate) struct EncoderArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// How tokens become one vector: mean of the last layer, or means of the last four layers side by side.
    #[arg(long, value_enum, default_value_t = Pool::Last)]
    pub(crate) pool: Pool,
    /// Images at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one::<usize>)]
    pub(crate) batch: usize,
    /// Where the encoder computes: cpu, or a GPU: cuda or cuda:N, in bfloat16 (docs/cuda.md: no GPU has run it yet).
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
}

/// The two encoders of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Network {
    Target,
    Context,
}

impl From<Network> for ijepa_model::checkpoint::Network {
    fn from(network: Network) -> Self {
        match network {
            Network::Target => Self::Target,
            Network::Context => Self::Context,
        }
    }
}

/// `224` or `224x336`, height first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageSize {
    height: usize,
    width: usize,
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ImageSize, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=8192).contains(side));
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        let sides = side(height).zip(side(width));
        let (height, width) = sides.ok_or("expected 1 to 8192 pixels, as in 224 or 224x336 (height first)")?;
        Ok(ImageSize { height, width })
    }
}

impl From<ImageSize> for (usize, usize) {
    fn from(size: ImageSize) -> Self {
        (size.height, size.width)
    }
}

/// Features of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pool {
    Last,
    Last4,
}

/// Options of `embed`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
What is written:
  F.npy          `pooled` (n,d) f32; beside it F.labels.npy (n) i64, F.paths.txt, and F.tokens.npy (n,l,d) with --tokens
  F.safetensors  tensors `pooled`, `labels`, and `tokens` with --tokens; beside it F.paths.txt
  F.parquet      columns `path`, `label`, `pooled`, and `tokens` with --tokens (a list of l lists of d)
Labels are written where the images have them: sub-folders are classes, in the order of names.

Example:
  ijepa embed --checkpoint runs/photos/checkpoints/latest.safetensors --data photos/ --out photos.parquet")]
pub(crate) struct EmbedArgs {
    /// Checkpoint: a file or folder of any known format, hf:OWNER/NAME, or a download name of the reference.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// Images: a folder (its train/ if it has one), a list, shards (.tar, http:// too), Parquet, CIFAR, IDX, .npy, .safetensors
    /// (docs/data.md has them all), or scenes:N.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    /// File to write, ending in .npy, .safetensors or .parquet.
    #[arg(long, value_name = "F")]
    pub(crate) out: PathBuf,
    /// Write every token as well.
    #[arg(long)]
    pub(crate) tokens: bool,
    /// Multiply in bfloat16: up to twice as fast on CPUs with AVX512-BF16, features off by about 0.5 %.
    #[arg(long, conflicts_with = "device")]
    pub(crate) bf16: bool,
    #[command(flatten)]
    pub(crate) encoder: EncoderArgs,
    /// Print what was written as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Names, here and wherever a checkpoint is named: hf:OWNER/NAME or hf:OWNER/NAME@REVISION is fetched from the
Hugging Face Hub; IN1K-vit.h.14-300e, IN1K-vit.h.16-448px-300e, IN22K-vit.h.14-900e and IN22K-vit.g.16-600e
are the reference's downloads. Fetched once, then taken from the caches that other programs share.

Environment:
  HF_HOME, HF_HUB_CACHE   cache of hf: names [default: ~/.cache/huggingface]
  HF_TOKEN                token for private and gated repositories [default: that of `hf auth login`]
  HF_ENDPOINT             address of the Hub [default: https://huggingface.co]
  HF_HUB_OFFLINE=1        never use the network
  TORCH_HOME              cache of download names [default: ~/.cache/torch]
  IJEPA_REFERENCE_URL     address of the downloads [default: https://dl.fbaipublicfiles.com/ijepa]

Example:
  ijepa inspect runs/photos/checkpoints/latest.safetensors
  ijepa inspect hf:facebook/ijepa_vith14_1k
  ijepa inspect IN1K-vit.h.14-300e --json")]
pub(crate) struct InspectArgs {
    /// Checkpoint: a file or folder of any known format, hf:OWNER/NAME, or a download name of the reference.
    pub(crate) file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Formats that `convert` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A checkpoint of ours.
    Safetensors,
    /// The reference's .pth.tar, which it trains on from.
    Pth,
    /// A folder for transformers' IJepaModel.
    Hf,
    /// A .safetensors with timm's names.
    Timm,
    /// A graph for ONNX runtimes.
    Onnx,
}

/// Options of `convert`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Training checkpoints go over whole between safetensors and pth: three networks, the optimiser and the epoch. The other formats,
and --network, take one encoder. docs/interop.md says what each format holds.

Example:
  ijepa convert jepa-latest.pth.tar latest.safetensors
  ijepa convert latest.safetensors ijepa-hf --to hf
  ijepa convert latest.safetensors encoder.onnx --image-size 224x336
  ijepa convert latest.safetensors predictor.onnx --predictor")]
pub(crate) struct ConvertArgs {
    /// Checkpoint to read: a file or folder of any known format, hf:OWNER/NAME, or a download name of the reference.
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// File, or folder with --to hf, to write.
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Format to write [default: by the ending of OUT: .safetensors, .pth.tar, .pth, .onnx].
    #[arg(long, value_enum)]
    pub(crate) to: Option<Format>,
    /// Write only this encoder [default: hf, timm and onnx take the target encoder].
    #[arg(long, value_enum)]
    pub(crate) network: Option<Network>,
    /// Write the predictor instead of an encoder (onnx only).
    #[arg(long, conflicts_with_all = ["network", "image_size"])]
    pub(crate) predictor: bool,
    /// Run file with the encoder's heads and normalisation, for checkpoints that do not carry them; it is written along.
    #[arg(long, value_name = "CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Attention heads, where neither the checkpoint nor its width tells them.
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub(crate) heads: Option<usize>,
    /// Height and width of images in pixels, where they are not those of training: positions are interpolated.
    #[arg(long, value_name = "H[xW]")]
    pub(crate) image_size: Option<ImageSize>,
    /// Print what was written as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be done with run files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every value of a run file, defaults included.
    Show(ConfigShowArgs),
    /// Whether run files can be run, and what is wrong with those that cannot.
    Validate(ConfigValidateArgs),
    /// The values in which two run files differ.
    Diff(ConfigDiffArgs),
}

/// Options of `config show`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa config show configs/cifar10.yaml
  ijepa config show in1k_vith14_ep300.yaml --set data.batch_size=64 --json")]
pub(crate) struct ConfigShowArgs {
    /// Run file [default: the reference's values].
    pub(crate) config: Option<PathBuf>,
    /// Change a value of the configuration; may be given many times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print one JSON object: section.key to value and where the value comes from.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `config validate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa config validate configs/*.yaml")]
pub(crate) struct ConfigValidateArgs {
    /// Run files.
    #[arg(required = true)]
    pub(crate) configs: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `config diff`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa config diff configs/cifar10.yaml configs/imagenette96.yaml
  ijepa config diff mine.yaml runs/photos/params-ijepa.yaml --json")]
pub(crate) struct ConfigDiffArgs {
    /// One run file.
    pub(crate) a: PathBuf,
    /// The other.
    pub(crate) b: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub(crate) enum ViewCommand {
    /// Which patches are context and targets: a picture, mean counts, and how often each patch is kept.
    Masks(MasksArgs),
}

/// Options of `view masks`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The picture has a row an image: the image, what the context encoder sees, then each target block
with a frame of its own colour. Below stand two maps, context and targets: the brighter a patch,
the more often it is kept.

Example:
  ijepa view masks configs/imagenette96.yaml --data photos/ --out masks.png
  ijepa view masks --set mask.patch_size=16 --batch 64 --json")]
pub(crate) struct MasksArgs {
    /// Run file [default: the reference's values].
    pub(crate) config: Option<PathBuf>,
    /// Change a value of the configuration; may be given many times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Images to draw on [default: plain grey].
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// Images of a batch: masks of a batch are cut to equal length, so this changes them [default: data.batch_size, with
    /// mask.truncate_over: global times optimization.accumulate].
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub(crate) batch: Option<usize>,
    /// Batches to count over.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one::<usize>)]
    pub(crate) batches: usize,
    /// Seed of every draw [default: meta.seed].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Picture to write [default: masks.png; none with --json].
    #[arg(long, value_name = "FILE.png")]
    pub(crate) out: Option<PathBuf>,
    /// Print the numbers as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be timed.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// One training step.
    Step(BenchStepArgs),
    /// Features by ViT-B/16 at 224 pixels.
    Embed(BenchEmbedArgs),
    /// Every op alone, as a share of the ceiling that binds it.
    Ops(BenchOpsArgs),
    /// Images a second from a data set to batches, without a model.
    Data(BenchDataArgs),
}

/// Sizes of a training step: image and patch, encoder width×depth×heads, predictor, batch, context and target patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchShape {
    /// 32/4, 192×12×3, 96×6, 64 images, 32 and 4×12 patches.
    #[value(name = "S1", alias = "s1")]
    S1,
    /// 224/16, 384×12×6, 192×6, 16 images, 80 and 4×34 patches.
    #[value(name = "S2", alias = "s2")]
    S2,
    /// 224/16, 768×12×12, 384×6, 8 images, 80 and 4×34 patches.
    #[value(name = "S3", alias = "s3")]
    S3,
    /// For a GPU: ViT-B/16 as the reference trains it, predictor 384×12, 128 images, 52 and 4×33 patches.
    #[value(name = "B16", alias = "b16")]
    B16,
    /// For a GPU: ViT-H/14 at the reference's settings, predictor 384×12, 128 images, 69 and 4×45 patches.
    #[value(name = "H14", alias = "h14")]
    H14,
}

/// Options of `bench step`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
IJEPA_CPU=avx2 (or avx512, neon, portable) computes with a narrower instruction set than the widest.

Example:
  ijepa bench step --shape S2
  ijepa bench step --shape S1 --threads 1 --json
  ijepa bench step --config configs/cifar10.yaml")]
pub(crate) struct BenchStepArgs {
    /// Sizes of the step.
    #[arg(long, value_enum, default_value_t = BenchShape::S1)]
    pub(crate) shape: BenchShape,
    /// Take the sizes and masks of a run file instead, one batch a step; images are noise.
    #[arg(long, value_name = "CONFIG", conflicts_with = "shape")]
    pub(crate) config: Option<PathBuf>,
    /// Change a value of that run file; may be given many times.
    #[arg(long, value_name = "SECTION.KEY=VALUE", conflicts_with = "shape")]
    pub(crate) set: Vec<String>,
    /// Compute the activations of blocks anew on the way back, as meta.recompute: blocks does.
    #[arg(long)]
    pub(crate) recompute: bool,
    /// Steps of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = at_least_one::<usize>)]
    pub(crate) steps: usize,
    /// Networks whose linear layers multiply in bfloat16, as meta.bfloat16_on_cpu says it.
    #[arg(long, value_enum, value_name = "NETWORKS")]
    pub(crate) bf16: Option<Bfloat16>,
    /// Where to compute: cpu, or a GPU: cuda or cuda:N, in bfloat16.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", conflicts_with = "bf16")]
    pub(crate) device: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `bench embed`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa bench embed --batch 16 --json")]
pub(crate) struct BenchEmbedArgs {
    /// Images at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one::<usize>)]
    pub(crate) batch: usize,
    /// Calls of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = at_least_one::<usize>)]
    pub(crate) repeat: usize,
    /// Multiply in bfloat16.
    #[arg(long)]
    pub(crate) bf16: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `bench ops`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa bench ops
  ijepa bench ops --shape S3 --threads 1 --json")]
pub(crate) struct BenchOpsArgs {
    /// Ops of one shape [default: of all].
    #[arg(long, value_enum)]
    pub(crate) shape: Option<BenchShape>,
    /// Calls of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = at_least_one::<usize>)]
    pub(crate) repeat: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  ijepa doctor
  ijepa doctor --json
  ijepa doctor --device cuda")]
pub(crate) struct DoctorArgs {
    /// Also run every op on a GPU (cuda or cuda:N) and compare it with the CPU.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A count that cannot be 0.
fn at_least_one<Count: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<Count, String> {
    let count = text.parse().ok().filter(|count| *count >= Count::from(1));
    count.ok_or_else(|| "expected a whole number, at least 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
