//! Where do a run's batches come from? From the loader, or, step for step, from a replay file.
//!
//! A replay file is a `.safetensors` with `step{i}.images` (b, 3, h, w) f32, already normalised, `step{i}.context{k}` (b, c) i64
//! and `step{i}.target{j}` (b, t) i64, i from 0. It makes a step repeatable to the last bit, here and elsewhere.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ijepa_data::{DataError, Dataset, IndexSet, Masks, Spent, TrainLoader, Unreadable};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::exit::{Exit, Failure};

/// Images and masks of one step, or of a part of it.
pub(crate) struct Batch {
    /// Images of its step, of all ranks and batches together.
    pub(crate) together: usize,
    pub(crate) images: Vec<f32>, // (b, 3, h, w)
    pub(crate) masks: Masks,
    /// Images of the data that were met for the first time and cannot be read.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A source of batches.
pub(crate) enum Batches {
    /// Images of a data set under fresh masks.
    Loader(TrainLoader, Arc<Dataset>),
    /// Given batches, from the last to the next.
    Replay(Vec<Batch>),
}

impl Batches {
    /// Whether [`Batches::next`] would not wait.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Batches::Loader(loader, _) => loader.is_ready(),
            Batches::Replay(_) => true,
        }
    }

    /// The next batch, or nothing after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>, DataError> {
        match self {
            Batches::Loader(loader, _) => {
                let batch = loader.next()?;
                Ok(batch.map(|batch| Batch {
                    together: batch.together,
                    images: batch.images,
                    masks: batch.masks,
                    unreadable: batch.unreadable,
                }))
            }
            Batches::Replay(rest) => Ok(rest.pop()),
        }
    }

    /// Takes the memory of a batch back.
    pub(crate) fn recycle(&self, batch: Batch) {
        if let Batches::Loader(loader, _) = self {
            loader.recycle(batch.images);
        }
    }

    /// Where a loader's time went until now.
    pub(crate) fn spent(&self) -> Option<Spent> {
        match self {
            Batches::Loader(loader, _) => Some(loader.spent()),
            Batches::Replay(_) => None,
        }
    }

    /// Where a loader's images come from.
    pub(crate) fn dataset(&self) -> Option<&Dataset> {
        match self {
            Batches::Loader(_, dataset) => Some(dataset),
            Batches::Replay(_) => None,
        }
    }

    /// A replay without the batches of its first `steps` steps.
    pub(crate) fn after(self, steps: u64) -> Batches {
        match self {
            Batches::Replay(mut rest) => {
                rest.truncate(rest.len().saturating_sub(usize::try_from(steps).unwrap_or(usize::MAX)));
                Batches::Replay(rest)
            }
            loader @ Batches::Loader(..) => loader,
        }
    }

    /// All batches of a replay file, for images of (3, `image.0`, `image.1`) in patches of which an image has `patches`.
    pub(crate) fn replay(path: &Path, image: (usize, usize), patches: usize) -> Result<Batches> {
        let unreadable = |what: String| {
            Failure::new(Exit::Data, format!("{}: {what}", path.display()))
                .remedy("a replay file holds step0.images, step0.context0, step0.target0, …, step1.images, … (see ijepa pretrain --help)")
        };
        let bytes = std::fs::read(path).map_err(|error| unreadable("cannot be read".to_owned()).because(error))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| unreadable("is not a .safetensors file".to_owned()).because(error))?;
        let mut batches = Vec::new();
        while let Ok(images) = file.tensor(&format!("step{}.images", batches.len())) {
            let step = batches.len();
            let batch = match *images.shape() {
                [batch, 3, height, width] if (height, width) == image && batch > 0 && images.dtype() == Dtype::F32 => {
                    batch
                }
                _ => {
                    let got = format!("{:?} of {:?}", images.dtype(), images.shape());
                    return Err(unreadable(format!(
                        "step{step}.images: expected F32 of [b, 3, {}, {}], got {got}",
                        image.0, image.1
                    ))
                    .into());
                }
            };
            let sets = |kind: &str| index_sets(&file, step, kind, batch, patches).map_err(unreadable);
            let masks = Masks { batch, context: sets("context")?, targets: sets("target")? };
            let images = images.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            batches.push(Batch { together: batch, images, masks, unreadable: Vec::new() });
        }
        if batches.is_empty() {
            return Err(unreadable("holds no step0.images".to_owned()).into());
        }
        batches.reverse();
        Ok(Batches::Replay(batches))
    }
}

/// `step{step}.{kind}0`, `…1`, … as far as the file has them, all of one length.
fn index_sets(
    file: &SafeTensors,
    step: usize,
    kind: &str,
    batch: usize,
    patches: usize,
) -> Result<Vec<IndexSet>, String> {
    let mut sets: Vec<IndexSet> = Vec::new();
    while let Ok(tensor) = file.tensor(&format!("step{step}.{kind}{}", sets.len())) {
        let name = format!("step{step}.{kind}{}", sets.len());
        let set = index_set(&tensor, batch, patches).map_err(|problem| format!("{name}: {problem}"))?;
        if let Some(first) = sets.first().filter(|first| first.per_image != set.per_image) {
            return Err(format!(
                "{name}: expected {} patches of each image as in {kind}0, got {}",
                first.per_image, set.per_image
            ));
        }
        sets.push(set);
    }
    if sets.is_empty() {
        return Err(format!("step{step}.{kind}0 is missing"));
    }
    Ok(sets)
}

fn index_set(tensor: &TensorView, batch: usize, patches: usize) -> Result<IndexSet, String> {
    let per_image = match *tensor.shape() {
        [rows, per_image] if rows == batch && per_image > 0 && tensor.dtype() == Dtype::I64 => per_image,
        _ => {
            return Err(format!(
                "expected I64 of [{batch}, patches], got {:?} of {:?}",
                tensor.dtype(),
                tensor.shape()
            ));
        }
    };
    let numbers =
        tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
    let index = |number: i64| u32::try_from(number).ok().filter(|&index| (index as usize) < patches);
    let indices = numbers
        .map(|number| index(number).ok_or_else(|| format!("expected patch numbers below {patches}, got {number}")));
    Ok(IndexSet { per_image, indices: indices.collect::<Result<_, _>>()? })
}
