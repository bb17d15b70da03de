//! What is in a checkpoint file, and how does a run leave one behind?
//!
//! Three kinds of file are read, told apart by their first bytes and never by name: the checkpoints that [`write()`] makes (one
//! safetensors file), any other safetensors file, and the zip archives of `torch.save`, in particular those of the reference
//! implementation (networks under `encoder`, `predictor`, `target_encoder`, every name prefixed `module.`, AdamW state under `opt`).
//! All values become f32, once. Files are read tensor by tensor at their positions; nothing is read that is not asked for, and
//! nothing in a file is executed.
//!
//! Tensor names are the reference's: `encoder.blocks.0.attn.qkv.weight`. In our own files the optimiser's moments stand beside
//! them as `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`.

mod error;
mod index;
mod pickle;
mod reference;
mod safetensors;
mod torch;
mod unpickle;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use self::error::{CheckpointError, Mismatch};
pub use self::safetensors::{View, write_views};
pub(crate) use self::write::write_whole;
pub use ::safetensors::Dtype;

use self::index::Index;

/// The networks that a checkpoint can hold: first parts of its tensors' names.
pub const NETWORKS: [&str; 3] = ["encoder", "predictor", "target_encoder"];

const EXP_AVG: &str = "optimizer.exp_avg.";
const EXP_AVG_SQ: &str = "optimizer.exp_avg_sq.";

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

/// Reads a whole checkpoint, values converted to f32.
///
/// Errors: a file that cannot be read, is of no known format, contradicts itself, or whose optimiser state does not fit its networks.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut index = Index::open(path)?;
    if let Some(problem) = index.optimizer_problem.take() {
        return Err(problem);
    }
    let entries = std::mem::take(&mut index.entries);
    let mut tensors = index.values(entries)?;
    let moments = index.optimizer_step.map(|step| Moments {
        exp_avg: split_off(&mut tensors, EXP_AVG),
        exp_avg_sq: split_off(&mut tensors, EXP_AVG_SQ),
        step,
    });
    Ok(Checkpoint { tensors, moments, meta: index.meta })
}

/// Reads only the networks named, of [`NETWORKS`], without the optimiser's state: a fifth of a training checkpoint for one encoder.
/// A file of [`Source::Other`] names no networks; all its tensors are returned.
pub fn read_networks(path: &Path, networks: &[&str]) -> Result<Checkpoint, CheckpointError> {
    let mut index = Index::open(path)?;
    let mut entries = std::mem::take(&mut index.entries);
    if index.meta.source != Source::Other {
        entries.retain(|entry| networks.contains(&part_of(&entry.name)));
    }
    let tensors = index.values(entries)?;
    Ok(Checkpoint { tensors, moments: None, meta: index.meta })
}

/// Lists a file's tensors and metadata without reading values; quick on files of any size.
pub fn list(path: &Path) -> Result<Summary, CheckpointError> {
    let index = Index::open(path)?;
    let mut parts: Vec<Part> = NETWORKS
        .into_iter()
        .chain(["optimizer", "other"])
        .map(|name| Part { name, tensors: 0, parameters: 0, bytes: 0 })
        .collect();
    let mut tensors = Vec::with_capacity(index.entries.len());
    for entry in &index.entries {
        let part = parts
            .iter_mut()
            .find(|part| part.name == part_of(&entry.name))
            .expect("part_of returns one of the names above");
        part.tensors += 1;
        part.parameters += entry.elements() as u64;
        part.bytes += entry.bytes();
        tensors.push(Listed {
            name: entry.name.clone(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            bytes: entry.bytes(),
        });
    }
    parts.retain(|part| part.tensors > 0);
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut notes = index.notes;
    if let Some(problem) = index.optimizer_problem {
        notes.push(format!("the optimiser state cannot be used: {problem}"));
    }
    Ok(Summary {
        format: index.format,
        file_bytes: index.file_bytes,
        tensors,
        parts,
        optimizer_step: index.optimizer_step,
        meta: index.meta,
        notes,
    })
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

/// Holds a checkpoint against the names and shapes that a model expects.
///
/// Only networks that `expected` names are looked at: an evaluation that expects `target_encoder.…` does not mind a predictor.
/// The error lists what is missing, surplus and of another shape.
pub fn require(checkpoint: &Checkpoint, expected: &[(String, Vec<usize>)]) -> Result<(), CheckpointError> {
    let networks: BTreeSet<&str> = expected.iter().map(|(name, _)| part_of(name)).collect();
    let names: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let mut mismatch = Mismatch {
        path: checkpoint.meta.path.clone(),
        missing: Vec::new(),
        surplus: Vec::new(),
        differing: Vec::new(),
    };
    for (name, shape) in expected {
        match checkpoint.tensors.get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(tensor) if tensor.shape != *shape => {
                mismatch.differing.push((name.clone(), shape.clone(), tensor.shape.clone()));
            }
            Some(_) => {}
        }
    }
    for name in checkpoint.tensors.keys() {
        if networks.contains(part_of(name)) && !names.contains(name.as_str()) {
            mismatch.surplus.push(name.clone());
        }
    }
    let same = mismatch.missing.is_empty() && mismatch.surplus.is_empty() && mismatch.differing.is_empty();
    if same { Ok(()) } else { Err(CheckpointError::Mismatch(Box::new(mismatch))) }
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
