//! What is in a checkpoint, and how does a run leave one behind?
//!
//! Told apart by content and never by name: checkpoints of ours (one safetensors file), the reference implementation's `.pth.tar`
//! (networks under `encoder`, `predictor`, `target_encoder`, every name prefixed `module.`, AdamW's state under `opt`), state
//! dictionaries of one encoder under timm's names, and folders of Hugging Face's libraries. All values become f32, once, and go from
//! the file to their place tensor by tensor; nothing is read that is not asked for, and nothing in a file is executed.
//!
//! Tensor names are the reference's: `encoder.blocks.0.attn.qkv.weight`; `dialect.rs` knows the others'. In our own files the
//! optimiser's moments stand beside them as `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`.

mod dialect;
mod error;
mod folder;
mod index;
mod legacy;
mod pickle;
mod reference;
mod safetensors;
mod torch;
mod torch_write;
mod unpickle;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use self::dialect::hugging_face;
pub use self::error::{CheckpointError, Mismatch};
pub use self::folder::write_json;
pub use self::reference::CONFIG;
pub(crate) use self::safetensors::write_values;
pub use self::safetensors::{HEADS, IMAGE, View, write_views};
pub use self::torch_write::{Object, write_torch};
pub(crate) use self::write::write_whole;
pub use ::safetensors::Dtype;

use self::dialect::Located;
use self::index::Index;

/// The networks that a checkpoint can hold: first parts of its tensors' names.
pub const NETWORKS: [&str; 3] = ["encoder", "predictor", "target_encoder"];

/// First part of the names of first moments; the parameter's name follows.
pub const EXP_AVG: &str = "optimizer.exp_avg.";
/// First part of the names of second moments.
pub const EXP_AVG_SQ: &str = "optimizer.exp_avg_sq.";

/// The two encoders of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The slowly moving average, whose features are evaluated.
    Target,
    /// The one that learns by gradients.
    Context,
}

impl Network {
    /// What its tensors' names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Network::Target => "target_encoder.",
            Network::Context => "encoder.",
        }
    }

    /// `target` or `context`.
    pub fn name(self) -> &'static str {
        match self {
            Network::Target => "target",
            Network::Context => "context",
        }
    }

    /// The network of that name.
    pub fn named(name: &str) -> Option<Network> {
        [Network::Target, Network::Context].into_iter().find(|network| network.name() == name)
    }
}

/// A dense tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many as the product of `shape`.
    pub values: Vec<f32>,
}

/// AdamW's state, keyed by the names of the parameters it belongs to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// Running mean of the gradient.
    pub exp_avg: BTreeMap<String, Tensor>,
    /// Running mean of its square.
    pub exp_avg_sq: BTreeMap<String, Tensor>,
    /// Optimiser steps done.
    pub step: u64,
}

/// Who wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// This program.
    #[default]
    Ours,
    /// The reference implementation: a PyTorch dictionary with networks in it.
    Reference,
    /// Anyone else: tensors under the names that the file gives them, without `module.`.
    Other,
}

/// What a checkpoint says beside its tensors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meta {
    /// The file it was read from; not written.
    pub path: Option<PathBuf>,
    /// Who wrote it; [`write()`] always writes [`Source::Ours`].
    pub source: Source,
    /// The version of the program that wrote it; not taken from here when writing.
    pub version: Option<String>,
    /// Training steps done.
    pub step: Option<u64>,
    /// Epochs completed.
    pub epoch: Option<u64>,
    /// The training method, `ijepa`.
    pub method: Option<String>,
    /// The seed of the run.
    pub seed: Option<u64>,
    /// The resolved configuration as YAML text.
    pub config: Option<String>,
    /// Whether the file holds one encoder under bare names; `network` then says which, if the file says it.
    pub lone: bool,
    /// Which encoder a file with one encoder holds.
    pub network: Option<Network>,
    /// Attention heads of the encoder, where the file says them without a configuration.
    pub heads: Option<usize>,
    /// Height and width of its images, likewise.
    pub image: Option<(usize, usize)>,
    /// Mean and deviation of its images' channels, likewise; not written.
    pub mean_std: Option<([f32; 3], [f32; 3])>,
    /// All else: `loss`, `batch_size`, `world_size`, `lr`, `scaler.scale` of the reference, or further keys of ours. A key
    /// that is one of the fields above is not written from here.
    pub other: BTreeMap<String, String>,
}

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// By full name, the network first.
    pub tensors: BTreeMap<String, Tensor>,
    /// The optimiser's state, when the file has any.
    pub moments: Option<Moments>,
    /// Everything else.
    pub meta: Meta,
}

/// One line of [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Full name.
    pub name: String,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Bytes of its elements at that type.
    pub bytes: u64,
}

/// Tensors of one network, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// One of [`NETWORKS`], `optimizer` or `other`.
    pub name: &'static str,
    /// How many tensors.
    pub tensors: usize,
    /// How many numbers in them, fixed position tables included.
    pub parameters: u64,
    /// Bytes of them in the file.
    pub bytes: u64,
}

/// What a file holds, found without reading any value.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The container, in words.
    pub format: &'static str,
    /// Length of the file.
    pub file_bytes: u64,
    /// By name.
    pub tensors: Vec<Listed>,
    /// Sums in the order of [`NETWORKS`], then `optimizer` and `other`; parts without tensors are left out.
    pub parts: Vec<Part>,
    /// Optimiser steps done, when the file has the optimiser's state.
    pub optimizer_step: Option<u64>,
    /// Everything else.
    pub meta: Meta,
    /// What the file holds that is not read, and why.
    pub notes: Vec<String>,
}

/// An open checkpoint: what it holds is known, and values are read when they are asked for.
pub struct Reader {
    index: Index,
    /// By our names.
    tensors: BTreeMap<String, Located>,
}

impl Reader {
    /// Opens a file or the folder of a model and reads its lists.
    ///
    /// # Errors
    /// What cannot be read, is of no known format, or contradicts itself.
    pub fn open(path: &Path) -> Result<Reader, CheckpointError> {
        let mut index = Index::open(path)?;
        let tensors = dialect::translate(&mut index)?;
        Ok(Reader { index, tensors })
    }

    /// What it says beside its tensors.
    pub fn meta(&self) -> &Meta {
        &self.index.meta
    }

    /// What it holds that is not read, and why.
    pub fn notes(&self) -> &[String] {
        &self.index.notes
    }

    /// Names and shapes, by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, located)| (name.as_str(), located.shape.as_slice()))
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|located| located.shape.as_slice())
    }

    /// Optimiser steps done; none when the file has no state of the optimiser.
    ///
    /// # Errors
    /// When it has one that does not fit its networks; said once, after that there is none.
    pub fn optimizer_step(&mut self) -> Result<Option<u64>, CheckpointError> {
        match self.index.optimizer_problem.take() {
            Some(problem) => Err(problem),
            None => Ok(self.index.optimizer_step),
        }
    }

    /// Holds the file against the names and shapes that a model expects.
    ///
    /// Only networks that `expected` names are looked at: an evaluation that expects `target_encoder.…` does not mind a predictor.
    ///
    /// # Errors
    /// What is missing, surplus and of another shape.
    pub fn require(&self, expected: &[(String, Vec<usize>)]) -> Result<(), CheckpointError> {
        let parts: BTreeSet<&str> = expected.iter().map(|(name, _)| part_of(name)).collect();
        let names: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let mut mismatch = Mismatch { path: self.index.meta.path.clone(), ..Mismatch::default() };
        for (name, shape) in expected {
            match self.shape(name) {
                None => mismatch.missing.push(name.clone()),
                Some(held) if held != shape => mismatch.differing.push((name.clone(), shape.clone(), held.to_vec())),
                Some(_) => {}
            }
        }
        let surplus =
            self.tensors.keys().filter(|name| parts.contains(part_of(name)) && !names.contains(name.as_str()));
        mismatch.surplus = surplus.cloned().collect();
        let same = mismatch.missing.is_empty() && mismatch.surplus.is_empty() && mismatch.differing.is_empty();
        if same { Ok(()) } else { Err(CheckpointError::Mismatch(Box::new(mismatch))) }
    }

    /// Writes the values of a tensor, row-major, to `out`.
    ///
    /// # Errors
    /// When the file ends early or its element type is none that is read.
    ///
    /// # Panics
    /// When there is no tensor of that name, or `out` has not exactly as much room as it needs.
    pub fn read_into(&mut self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        let located = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(out.len(), located.shape.iter().product::<usize>(), "room for {name} of shape {:?}", located.shape);
        let mut rest = out;
        for &number in &located.entries {
            let entry = &self.index.entries[number];
            let (part, after) = rest.split_at_mut(entry.elements());
            self.index.containers[entry.container].read_into(entry, part)?;
            rest = after;
        }
        Ok(())
    }

    /// A tensor in memory of its own.
    ///
    /// # Errors
    /// As [`Reader::read_into`], and when there is no memory.
    pub fn read(&mut self, name: &str) -> Result<Tensor, CheckpointError> {
        let shape = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).shape.clone();
        let len = shape.iter().product();
        let mut values = self.index.containers[0].room(len, name)?;
        values.resize(len, 0.0);
        self.read_into(name, &mut values)?;
        Ok(Tensor { shape, values })
    }

    /// Everything that is known without reading values.
    pub fn summary(self) -> Summary {
        let Index { format, entries, mut notes, optimizer_problem, optimizer_step, meta, containers } = self.index;
        let mut part_of_entry = vec!["other"; entries.len()];
        for (name, located) in &self.tensors {
            located.entries.iter().for_each(|&number| part_of_entry[number] = part_of(name));
        }
        let mut parts: Vec<Part> = NETWORKS
            .into_iter()
            .chain(["optimizer", "other"])
            .map(|name| Part { name, tensors: 0, parameters: 0, bytes: 0 })
            .collect();
        for (entry, name) in entries.iter().zip(part_of_entry) {
            let part = parts.iter_mut().find(|part| part.name == name).expect("part_of returns one of the names above");
            part.tensors += 1;
            part.parameters += entry.elements() as u64;
            part.bytes += entry.bytes();
        }
        parts.retain(|part| part.tensors > 0);
        let listed = entries.into_iter().map(|entry| {
            let bytes = entry.bytes();
            Listed { name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes }
        });
        let mut tensors: Vec<Listed> = listed.collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(problem) = optimizer_problem {
            notes.push(format!("the optimiser state cannot be used: {problem}"));
        }
        let file_bytes = containers.iter().map(|container| container.len).sum();
        Summary { format, file_bytes, tensors, parts, optimizer_step, meta, notes }
    }
}

/// Reads a whole checkpoint into memory of its own, values converted to f32.
///
/// # Errors
/// A file that cannot be read, is of no known format, contradicts itself, or whose optimiser state does not fit its networks.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut reader = Reader::open(path)?;
    let step = reader.optimizer_step()?;
    let names: Vec<String> = reader.tensors.keys().cloned().collect();
    let mut tensors = BTreeMap::new();
    for name in names {
        tensors.insert(name.clone(), reader.read(&name)?);
    }
    let moments = step.map(|step| Moments {
        exp_avg: split_off(&mut tensors, EXP_AVG),
        exp_avg_sq: split_off(&mut tensors, EXP_AVG_SQ),
        step,
    });
    Ok(Checkpoint { tensors, moments, meta: reader.index.meta })
}

/// Lists a checkpoint's tensors and metadata without reading values; quick on files of any size.
///
/// # Errors
/// As [`Reader::open`].
pub fn list(path: &Path) -> Result<Summary, CheckpointError> {
    Reader::open(path).map(Reader::summary)
}

/// Writes a checkpoint as one safetensors file: under a temporary name in the same folder, synced, renamed, the folder synced.
///
/// On any error the file that was there before is untouched and the temporary one is removed. [`write_views`] does the same for
/// values that lie elsewhere, without a copy of them.
pub fn write(path: &Path, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let mut views: Vec<View<'_>> = Vec::new();
    let empty = BTreeMap::new();
    let (exp_avg, exp_avg_sq) = match &checkpoint.moments {
        Some(moments) => (&moments.exp_avg, &moments.exp_avg_sq),
        None => (&empty, &empty),
    };
    for (prefix, tensors) in [("", &checkpoint.tensors), (EXP_AVG, exp_avg), (EXP_AVG_SQ, exp_avg_sq)] {
        for (name, tensor) in tensors {
            views.push(View { name: format!("{prefix}{name}"), shape: &tensor.shape, values: &tensor.values });
        }
    }
    let optimizer_step = checkpoint.moments.as_ref().map(|moments| moments.step);
    write_views(path, &checkpoint.meta, optimizer_step, &views)
}

/// The network that a tensor belongs to, `optimizer`, or `other`.
fn part_of(name: &str) -> &'static str {
    let first = name.split_once('.').map_or("", |(first, _)| first);
    NETWORKS.into_iter().chain(["optimizer"]).find(|part| *part == first).unwrap_or("other")
}

fn split_off(tensors: &mut BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let names: Vec<String> = tensors
        .range(prefix.to_string()..)
        .map(|(name, _)| name)
        .take_while(|name| name.starts_with(prefix))
        .cloned()
        .collect();
    names
        .into_iter()
        .map(|name| {
            let tensor = tensors.remove(&name).expect("the name was just listed");
            (name[prefix.len()..].to_string(), tensor)
        })
        .collect()
}
