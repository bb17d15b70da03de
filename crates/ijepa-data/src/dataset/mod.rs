//! Where do pictures come from? A folder tree, shards, ready-made tensors, or rendered scenes.

mod scenes;
mod shards;
mod tensors;
mod tree;

use std::path::{Path, PathBuf};

pub use scenes::{DISTANCE_EDGES, SCENE_CLASSES, SCENE_SIDE, SceneLabels, Scenes, distance_bin};
pub use shards::Shards;
pub use tensors::Tensors;
pub use tree::Tree;

use crate::decode::{Limits, decode, read_file};
use crate::error::DataError;
use crate::picture::Picture;

/// Pictures, numbered from 0, with labels where they are known.
#[derive(Debug)]
pub enum Dataset {
    /// Image files under a folder.
    Tree(Tree),
    /// Image files in tars, as WebDataset has them.
    Shards(Shards),
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// A folder for lists of what was found; without it every opening searches again.
    pub index: Option<PathBuf>,
    /// A folder for downloaded or unpacked shards; without it a folder of the user's cache.
    pub downloads: Option<PathBuf>,
    /// Most bytes of downloads that are kept; without it as many as there are.
    pub download_bytes: Option<u64>,
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
    /// Opens a data source: `scenes:N` (N rendered scenes of `seed`), the path of a `.safetensors` file, WebDataset shards
    /// (`PATH/name-{000000..001281}.tar`, `.tar.gz`, `.tgz`, at an `http(s)` address too), or a folder of images or of shards.
    ///
    /// Of a folder with `train/` and `val/` (or `validation/`, `test/`) the split is taken, of `scenes:N` too, with scenes of
    /// its own; anything else is the same for both splits.
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
        let metadata = std::fs::metadata(path).map_err(|error| DataError::Source {
            spec: spec.into(),
            problem: format!("{error}; a folder of images, .tar shards, a .safetensors file or scenes:N is expected"),
        })?;
        if metadata.is_dir() {
            return Tree::open(path, split).map(Dataset::Tree);
        }
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")) {
            return Tensors::open(path).map(Dataset::Tensors);
        }
        Err(DataError::Source {
            spec: spec.into(),
            problem: "this is a file; a folder of images, .tar shards, a .safetensors file or scenes:N is expected"
                .into(),
        })
    }

    /// Number of samples.
    #[expect(clippy::len_without_is_empty, reason = "an empty data set cannot be opened")]
    pub fn len(&self) -> usize {
        match self {
            Dataset::Tree(tree) => tree.files().len(),
            Dataset::Shards(shards) => shards.len(),
            Dataset::Tensors(tensors) => tensors.len(),
            Dataset::Scenes(scenes) => scenes.len(),
        }
    }

    /// The class of every sample: of a tree its class folder, of shards `.cls` or `.json`, of tensors `labels`, of scenes the shape of the largest object.
    pub fn labels(&self) -> Option<Vec<u32>> {
        match self {
            Dataset::Tree(tree) => tree.labels(),
            Dataset::Shards(shards) => shards.labels(),
            Dataset::Tensors(tensors) => tensors.labels().map(<[u32]>::to_vec),
            Dataset::Scenes(scenes) => Some((0..scenes.len()).map(|index| scenes.labels(index).class).collect()),
        }
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Option<&[String]> {
        match self {
            Dataset::Tree(tree) => tree.classes(),
            Dataset::Shards(shards) => shards.classes(),
            Dataset::Tensors(_) => None,
            Dataset::Scenes(scenes) => Some(scenes.classes()),
        }
    }

    /// Everything known about a scene; nothing for other sources.
    pub fn scene_labels(&self, index: usize) -> Option<SceneLabels> {
        match self {
            Dataset::Scenes(scenes) => Some(scenes.labels(index)),
            Dataset::Tree(_) | Dataset::Shards(_) | Dataset::Tensors(_) => None,
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
            Dataset::Tree(tree) => read_file(&tree.files()[index]).map(Stored::Encoded),
            Dataset::Shards(shards) => shards.read(index).map(Stored::Encoded),
            Dataset::Tensors(tensors) => tensors.sample(index).map(Stored::Ready),
            Dataset::Scenes(scenes) => Ok(Stored::Ready(Sample::Picture(scenes.picture(index)))),
        }
    }

    /// Numbers of samples that lie together, in order, where reading them in any order would cost much: shards that have to be fetched,
    /// groups of rows that have to be unpacked. Empty where it costs nothing.
    pub fn chunks(&self) -> Vec<usize> {
        match self {
            Dataset::Shards(shards) => shards.chunks(),
            Dataset::Tree(_) | Dataset::Tensors(_) | Dataset::Scenes(_) => Vec::new(),
        }
    }

    /// What to call a sample in a message: its path, or as in `scenes:17`.
    pub fn name(&self, index: usize) -> String {
        match self {
            Dataset::Tree(tree) => tree.files()[index].display().to_string(),
            Dataset::Shards(shards) => shards.name(index),
            Dataset::Tensors(tensors) => tensors.name(index),
            Dataset::Scenes(_) => format!("scenes:{index}"),
        }
    }
}
