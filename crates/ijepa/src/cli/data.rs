//! What can be asked about data: `data check`, `data pack`, `bench data`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::at_least_one;

/// What can be done with data sets.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Decode every image in full: what is unreadable, what is there twice, how the classes are filled.
    Check(DataCheckArgs),
    /// Write images as WebDataset shards, which are read in order instead of file by file.
    Pack(DataPackArgs),
}

/// Options of `data check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Both splits are checked where the data has them. Equal files are found by their content (SHA-256).
The exit code is 3 if any image is unreadable; the report is printed all the same.

Example:
  ijepa data check photos/
  ijepa data check imagenette/data/ --json | jq .unreadable")]
pub(crate) struct DataCheckArgs {
    /// Images: a folder, .parquet files, a .safetensors with `images` (n,3,h,w), or what else --data takes.
    pub(crate) path: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `data pack`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
What is written: OUT/NAME-000000.tar, NAME-000001.tar, … with members KEY.jpg (or .png, …, by content)
and KEY.cls, the number of the class, and OUT/classes.txt with a name a line. Files are packed as they
are, to the byte; the same images give the same shards. What cannot be read, or is no image by its
content, is left out and named.

Example:
  ijepa data pack photos/ --out shards/
  ijepa data pack photos/ --out shards/ --shuffle 0 --shard-bytes 1GB --check")]
pub(crate) struct DataPackArgs {
    /// Images: a folder, .parquet files, or what else holds image files.
    pub(crate) path: String,
    /// Folder for the shards; nothing in it is overwritten.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// First part of the shards' names [default: train and val where the data has both, else images].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Most bytes of a shard, as in 500MB or 1GiB [default: 500MB].
    #[arg(long, value_name = "SIZE", conflicts_with = "shard_images")]
    pub(crate) shard_bytes: Option<Size>,
    /// Most images of a shard.
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    pub(crate) shard_images: Option<usize>,
    /// Store in a random order of this seed, for readers that shuffle only nearby images [default: in order].
    #[arg(long, value_name = "SEED")]
    pub(crate) shuffle: Option<u64>,
    /// Decode every image, and leave out those that cannot be decoded.
    #[arg(long)]
    pub(crate) check: bool,
    /// Print what was written as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number of bytes, as in `500MB`, `1GiB` or `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit: Option<u64> = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "k" | "kb" => Some(1_000),
            "m" | "mb" => Some(1_000_000),
            "g" | "gb" => Some(1_000_000_000),
            "t" | "tb" => Some(1_000_000_000_000),
            "kib" => Some(1 << 10),
            "mib" => Some(1 << 20),
            "gib" => Some(1 << 30),
            "tib" => Some(1 << 40),
            _ => None,
        };
        let number = text[..digits].parse::<u64>().ok().filter(|&number| number > 0);
        let bytes = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
        bytes.map(Size).ok_or_else(|| "expected a number of bytes above 0, as in 500MB, 1GiB or 4096".to_owned())
    }
}

/// Options of `bench data`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Images go the way of pretraining: read, decoded, cut at random, brought to size, normalised, with
masks. What is counted is the steady state, after the first batches. Compare with the images a
second that `bench step` or a run's progress shows: data should come several times as fast.

Example:
  ijepa bench data --data photos/
  ijepa bench data --data photos/ --config configs/imagenette96.yaml --threads 1 --json")]
pub(crate) struct BenchDataArgs {
    /// Images: whatever pretrain takes.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: String,
    /// Run file with crops, distortions and batch size [default: the reference's values].
    #[arg(long, value_name = "CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Change a value of the configuration; may be given many times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Side of the crop in pixels [default: data.crop_size].
    #[arg(long, value_name = "PIXELS", value_parser = at_least_one::<usize>)]
    pub(crate) crop: Option<usize>,
    /// Images to measure on, rounded up to whole batches.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_least_one::<usize>)]
    pub(crate) images: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        let size = |text: &str| text.parse::<Size>().ok().map(|size| size.0);
        assert_eq!(["500MB", "1 GiB", "4096", "2k"].map(size), [500_000_000, 1 << 30, 4096, 2000].map(Some));
        for wrong in ["", "0", "MB", "-1", "1.5GB", "7 parsecs", "99999999999999999999", "20000000TiB", "1é"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
