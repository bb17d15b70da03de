//! Where do pictures come from? Files, shards, Parquet, arrays, ready-made tensors, or rendered scenes.

mod arrays;
mod at;
mod files;
mod parquet;
mod scenes;
mod shards;
mod tensors;
mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use arrays::Arrays;
pub use files::{Files, Index};
pub use parquet::Parquet;
pub use scenes::{DISTANCE_EDGES, SCENE_CLASSES, SCENE_SIDE, SceneLabels, Scenes, distance_bin};
pub use shards::Shards;
pub use tensors::Tensors;

use crate::decode::{Limits, decode, read_file};
use crate::error::DataError;
use crate::picture::Picture;

/// What a data source is, as the end of a sentence.
const EXPECTED: &str = "a folder of images, of .tar shards, of .parquet, CIFAR or IDX files, a list of images (.txt, .lst, .list, .tsv, .csv), \
    shards (.tar, .tar.gz, .tgz), .parquet, an array (.npy, IDX), .safetensors or scenes:N is expected";

/// Pictures, numbered from 0, with labels where they are known.
#[derive(Debug)]
pub enum Dataset {
    /// Image files: those under a folder, or those of a list.
    Files(Files),
    /// Image files in tars, as WebDataset has them.
    Shards(Shards),
    /// Rows of Parquet files.
    Parquet(Parquet),
    /// Pictures of one size in a few binary files.
    Arrays(Arrays),
    /// Normalised tensors of one `.safetensors` file.
    Tensors(Tensors),
    /// Scenes that are rendered when they are asked for.
    Scenes(Scenes),
}

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure on.
    Val,
}

/// Where a data set may keep what it would otherwise have to find again.
#[derive(Clone, Default)]
pub struct Storage {
    /// A folder for lists of what was found; without it every opening searches again.
    pub index: Option<PathBuf>,
    /// A folder for downloaded or unpacked shards; without it a folder of the user's cache.
    pub downloads: Option<PathBuf>,
    /// Most bytes of downloads that are kept; without it as many as there are.
    pub download_bytes: Option<u64>,
    /// Hears, while shards are opened, how many of how many are; any thread may tell it. Those that nobody has opened before take long.
    pub opened: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

/// What the chunks of a data set that are fetched need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    /// Of each chunk while it is there; 0 where it is read in its place.
    pub(crate) bytes: Vec<u64>,
    /// Most bytes of them at a time.
    pub(crate) limit: u64,
}

/// One element of a data set.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// A picture that still has to be cut and normalised.
    Picture(Picture),
    /// Values to be used as they are.
    Normalised {
        /// Rows and columns.
        size: (usize, usize),
        /// Channel by channel.
        values: Vec<f32>, // (3, h, w)
    },
}

/// A sample as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// The bytes of an image file.
    Encoded(Vec<u8>),
    /// A sample that was never encoded.
    Ready(Sample),
}

impl Dataset {
    /// Opens a data source: `scenes:N` (N rendered scenes of `seed`), or what lies at a path or an address.
    ///
    /// A folder holds images ([`Files`]), `.tar` shards ([`Shards`]), Parquet files ([`Parquet`]), CIFAR-10 or CIFAR-100 in its binary
    /// version, or MNIST and its kin in IDX files ([`Arrays`]). A file is a list of images (`.txt`, `.lst`, `.list`, `.tsv`, `.csv`:
    /// [`Files::open_list`]), a shard or several (`PATH/name-{000000..001281}.tar`, `.tar.gz`, `.tgz`, at an `http(s)` address too), a
    /// `.parquet`, an array (`.npy`, IDX), or `.safetensors` ([`Tensors`]). Where there are parts of names like `train` and `val`, the
    /// split is taken, of `scenes:N` too; anything else is the same for both splits.
    pub fn open(spec: &str, split: Split, seed: u64) -> Result<Dataset, DataError> {
        Dataset::open_with(spec, split, seed, &Storage::default())
    }

    /// As [`Dataset::open`], with a place for what is worth finding again.
    pub fn open_with(spec: &str, split: Split, seed: u64, storage: &Storage) -> Result<Dataset, DataError> {
        if let Some(count) = spec.strip_prefix("scenes:") {
            return match count.parse::<usize>() {
                Ok(count) if count > 0 => Ok(Dataset::Scenes(Scenes::new(count, split, seed))),
                _ => Err(DataError::Source {
                    spec: spec.into(),
                    problem: "after `scenes:` a number of scenes above 0 is expected, as in scenes:20000".into(),
                }),
            };
        }
        if let Some(shards) = Shards::find(spec, split, storage)? {
            return Ok(Dataset::Shards(shards));
        }
        let path = Path::new(spec);
        let metadata = std::fs::metadata(path)
            .map_err(|error| DataError::Source { spec: spec.into(), problem: format!("{error}; {EXPECTED}") })?;
        if metadata.is_dir() {
            if let Some(arrays) = Arrays::find(path, split)? {
                return Ok(Dataset::Arrays(arrays));
            }
            if let Some(parquet) = Parquet::open_folder(path, split)? {
                return Ok(Dataset::Parquet(parquet));
            }
            return Files::open(path, split, storage.index.as_deref()).map(Dataset::Files);
        }
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match ending.as_str() {
            "safetensors" => Tensors::open(path).map(Dataset::Tensors),
            "txt" | "lst" | "list" | "tsv" | "csv" => Files::open_list(path, split).map(Dataset::Files),
            "parquet" => Parquet::open(path).map(Dataset::Parquet),
            _ if Arrays::reads(path) => Arrays::open(path).map(Dataset::Arrays),
            _ => Err(DataError::Source { spec: spec.into(), problem: format!("this is a file; {EXPECTED}") }),
        }
    }

    /// Number of samples.
    #[expect(clippy::len_without_is_empty, reason = "an empty data set cannot be opened")]
    pub fn len(&self) -> usize {
        match self {
            Dataset::Files(files) => files.len(),
            Dataset::Shards(shards) => shards.len(),
            Dataset::Parquet(parquet) => parquet.len(),
            Dataset::Arrays(arrays) => arrays.len(),
            Dataset::Tensors(tensors) => tensors.len(),
            Dataset::Scenes(scenes) => scenes.len(),
        }
    }

    /// The class of every sample: of image files their class folder or what their list says, of shards `.cls` or `.json`, of Parquet the
    /// class column, of arrays and tensors the labels with them, of scenes the shape of the largest object.
    pub fn labels(&self) -> Option<Vec<u32>> {
        match self {
            Dataset::Files(files) => files.labels().map(<[u32]>::to_vec),
            Dataset::Shards(shards) => shards.labels(),
            Dataset::Parquet(parquet) => parquet.labels().map(<[u32]>::to_vec),
            Dataset::Arrays(arrays) => arrays.labels().map(<[u32]>::to_vec),
            Dataset::Tensors(tensors) => tensors.labels().map(<[u32]>::to_vec),
            Dataset::Scenes(scenes) => Some((0..scenes.len()).map(|index| scenes.labels(index).class).collect()),
        }
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Option<&[String]> {
        match self {
            Dataset::Files(files) => files.classes(),
            Dataset::Shards(shards) => shards.classes(),
            Dataset::Parquet(parquet) => parquet.classes(),
            Dataset::Arrays(arrays) => arrays.classes(),
            Dataset::Tensors(_) => None,
            Dataset::Scenes(scenes) => Some(scenes.classes()),
        }
    }

    /// Everything known about a scene; nothing for other sources.
    pub fn scene_labels(&self, index: usize) -> Option<SceneLabels> {
        match self {
            Dataset::Scenes(scenes) => Some(scenes.labels(index)),
            _ => None,
        }
    }

    /// Rows and columns of the samples, when they are values to be used as they are, and cannot be cut to another size.
    pub fn normalised_size(&self) -> Option<(usize, usize)> {
        match self {
            Dataset::Tensors(tensors) => Some(tensors.size()),
            Dataset::Arrays(arrays) => arrays.normalised_size(),
            _ => None,
        }
    }

    /// Reads or renders one sample.
    pub fn sample(&self, index: usize) -> Result<Sample, DataError> {
        match self.read(index)? {
            Stored::Ready(sample) => Ok(sample),
            Stored::Encoded(bytes) => decode(&bytes, Limits::default())
                .map(Sample::Picture)
                .map_err(|source| DataError::Decode { name: self.name(index), source }),
        }
    }

    /// Reads one sample and decodes nothing yet.
    pub fn read(&self, index: usize) -> Result<Stored, DataError> {
        match self {
            Dataset::Files(files) => read_file(&files.path(index)).map(Stored::Encoded),
            Dataset::Shards(shards) => shards.read(index).map(Stored::Encoded),
            Dataset::Parquet(parquet) => parquet.read(index).map(Stored::Encoded),
            Dataset::Arrays(arrays) => arrays.sample(index).map(Stored::Ready),
            Dataset::Tensors(tensors) => tensors.sample(index).map(Stored::Ready),
            Dataset::Scenes(scenes) => Ok(Stored::Ready(Sample::Picture(scenes.picture(index)))),
        }
    }

    /// Numbers of samples that lie together, in order, where reading them in any order would cost much: shards that have to be fetched,
    /// groups of rows that have to be unpacked. Empty where it costs nothing.
    pub fn chunks(&self) -> Vec<usize> {
        match self {
            Dataset::Shards(shards) => shards.chunks(),
            Dataset::Parquet(parquet) => parquet.chunks(),
            _ => Vec::new(),
        }
    }

    /// What the chunks need that are fetched before they are read; nothing where none is.
    pub(crate) fn space(&self) -> Option<Space> {
        match self {
            Dataset::Shards(shards) => shards.space(),
            _ => None,
        }
    }

    /// Fetches a chunk if it is not there, without making the chunks `beside` go, and gives up soon after `stop` is set. What goes
    /// wrong is for the readers to meet.
    pub(crate) fn prepare(&self, chunk: usize, beside: &[usize], stop: &AtomicBool) {
        if let Dataset::Shards(shards) = self {
            shards.prepare(chunk, beside, stop);
        }
    }

    /// What to call a sample in a message: its path, or as in `scenes:17`.
    pub fn name(&self, index: usize) -> String {
        match self {
            Dataset::Files(files) => files.path(index).display().to_string(),
            Dataset::Shards(shards) => shards.name(index),
            Dataset::Parquet(parquet) => parquet.name(index),
            Dataset::Arrays(arrays) => arrays.name(index),
            Dataset::Tensors(tensors) => tensors.name(index),
            Dataset::Scenes(_) => format!("scenes:{index}"),
        }
    }
}
