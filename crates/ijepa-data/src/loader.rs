//! How do batches reach the step? From a few threads, in order, never more than a bounded number ahead.
//!
//! What is in batch k is a pure function of the data, the configuration and k: epoch = k / (samples / batch size), the
//! order of an epoch is a keyed permutation, every sample's draws are keyed by (seed, epoch, sample). So neither the number
//! of threads nor the step at which a run starts changes anything, and there is nothing to save for a resumed run.

mod ordered;

use std::collections::HashSet;
use std::sync::Arc;

use ordered::Ordered;

use crate::dataset::{Dataset, Sample};
use crate::error::DataError;
use crate::key::{Key, Purpose, below, shuffle};
use crate::masks::{MaskConfig, Masks};
use crate::transform::{EvalTransform, TrainTransform};

/// What a training loader delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// The run's seed.
    pub seed: u64,
    /// Images of a batch.
    pub batch_size: usize,
    /// Threads that decode and cut; 0 counts as 1.
    pub threads: usize,
    /// Batches that may be in the making or ready ahead of the one that is asked for; 0 counts as 1.
    pub queue: usize,
    /// The first step to deliver.
    pub start_step: u64,
    /// The step before which the loader ends.
    pub stop_step: u64,
    /// Crops and distortions.
    pub transform: TrainTransform,
    /// Masks.
    pub masks: MaskConfig,
    /// Different unreadable images that are passed over before the loader gives up.
    pub skip_limit: u64,
}

/// What one training step sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The step that this batch is for.
    pub step: u64,
    /// Normalised pixels.
    pub images: Vec<f32>, // (b, 3, h, w)
    /// Rows and columns of an image.
    pub size: (usize, usize),
    /// Context and targets of every image.
    pub masks: Masks,
    /// Which sample each image is.
    pub indices: Vec<usize>, // (b)
    /// Different unreadable images met since the loader was started, this batch included.
    pub skipped: u64,
    /// The unreadable images that were met for the first time, to be named in a log.
    pub unreadable: Vec<Unreadable>,
}

/// An image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its number in the data set.
    pub index: usize,
    /// Its path or other name, and what is wrong with it.
    pub error: String,
}

/// Training batches, in the order of their steps.
#[derive(Debug)]
pub struct TrainLoader {
    batches: Ordered<Result<Batch, DataError>>,
    met: HashSet<usize>,
    skip_limit: u64,
}

/// What an evaluation loader delivers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalConfig {
    /// Images of a batch; the last may have fewer.
    pub batch_size: usize,
    /// Threads that decode and cut; 0 counts as 1.
    pub threads: usize,
    /// Batches that may be in the making or ready ahead of the one that is asked for; 0 counts as 1.
    pub queue: usize,
    /// The middle crop.
    pub transform: EvalTransform,
}

/// Some images of a data set, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalBatch {
    /// Normalised pixels; unreadable images are left out.
    pub images: Vec<f32>, // (b, 3, h, w)
    /// Rows and columns of an image.
    pub size: (usize, usize),
    /// Which sample each image is.
    pub indices: Vec<usize>, // (b)
    /// Images that were left out.
    pub unreadable: Vec<Unreadable>,
}

/// Every image of a data set once, in order.
#[derive(Debug)]
pub struct EvalLoader {
    batches: Ordered<Result<EvalBatch, DataError>>,
}

impl TrainLoader {
    /// Starts the threads. Refuses settings and masks that cannot be met, and data of fewer images than a batch.
    pub fn start(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<TrainLoader, DataError> {
        config.transform.validate()?;
        config.masks.validate()?;
        batch_size_setting(config.batch_size)?;
        if dataset.len() < config.batch_size {
            return Err(DataError::Setting {
                what: "data.batch_size",
                got: config.batch_size.to_string(),
                wanted: format!("the data has only {} images, give more or take smaller batches", dataset.len()),
            });
        }
        let side = config.transform.crop_size;
        check_size(&dataset, (side, side))?;
        let (threads, queue, skip_limit) = (config.threads, config.queue, config.skip_limit);
        let steps = config.start_step..config.stop_step;
        let make = move |step: u64, order: &mut EpochOrder| train_batch(&dataset, &config, step, order);
        Ok(TrainLoader { batches: Ordered::start(steps, threads, queue, make), met: HashSet::new(), skip_limit })
    }

    /// The batch of the next step, or nothing after the last one. Waits for it.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end the run on an error")]
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        let Some(batch) = self.batches.next()? else {
            return Ok(None);
        };
        let mut batch = batch.map_err(|mut error| {
            if let DataError::NothingReadable { unreadable, .. } = &mut error {
                unreadable.retain(|unreadable| self.met.insert(unreadable.index));
            }
            error
        })?;
        batch.unreadable.retain(|unreadable| self.met.insert(unreadable.index));
        batch.skipped = self.met.len() as u64;
        if let Some(last) = batch.unreadable.last().filter(|_| batch.skipped > self.skip_limit) {
            return Err(DataError::TooManyUnreadable {
                count: batch.skipped,
                limit: self.skip_limit,
                last: last.error.clone(),
                unreadable: batch.unreadable,
            });
        }
        Ok(Some(batch))
    }
}

impl EvalLoader {
    /// Starts the threads.
    pub fn start(dataset: Arc<Dataset>, config: EvalConfig) -> Result<EvalLoader, DataError> {
        config.transform.validate()?;
        batch_size_setting(config.batch_size)?;
        check_size(&dataset, config.transform.crop)?;
        let batches = dataset.len().div_ceil(config.batch_size) as u64;
        let make = move |batch: u64, (): &mut ()| eval_batch(&dataset, &config, batch as usize);
        Ok(EvalLoader { batches: Ordered::start(0..batches, config.threads, config.queue, make) })
    }

    /// The next images, or nothing after the last. Waits for them.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end the run on an error")]
    pub fn next(&mut self) -> Result<Option<EvalBatch>, DataError> {
        self.batches.next()?.transpose()
    }
}

/// The order of the epoch that a thread is in.
#[derive(Default)]
struct EpochOrder {
    epoch: Option<u64>,
    order: Vec<usize>,
}

/// Failed replacements in a row after which there is no hope of a readable image.
const REPLACEMENTS_MAX: usize = 100;

fn train_batch(
    dataset: &Dataset,
    config: &LoaderConfig,
    step: u64,
    order: &mut EpochOrder,
) -> Result<Batch, DataError> {
    let batches_per_epoch = (dataset.len() / config.batch_size) as u64;
    let epoch = step / batches_per_epoch;
    if order.epoch != Some(epoch) {
        order.order.clear();
        order.order.extend(0..dataset.len());
        shuffle(&mut Key::new(config.seed, Purpose::Order, epoch, 0).rng(), &mut order.order);
        order.epoch = Some(epoch);
    }
    let first = (step % batches_per_epoch) as usize * config.batch_size;

    let side = config.transform.crop_size;
    let image_len = 3 * side * side;
    let mut images = vec![0.0; config.batch_size * image_len]; // (b, 3, s, s)
    let mut indices = Vec::with_capacity(config.batch_size);
    let mut unreadable = Vec::new();
    for (out, &wanted) in images.chunks_exact_mut(image_len).zip(&order.order[first..]) {
        let mut replacements = Key::new(config.seed, Purpose::Replacement, epoch, wanted as u64).rng();
        let mut index = wanted;
        for tries in 0.. {
            let error = match dataset.sample(index) {
                Ok(Sample::Picture(picture)) => {
                    let mut rng = Key::new(config.seed, Purpose::Augment, epoch, index as u64).rng();
                    config.transform.apply(out, &picture, &mut rng);
                    break;
                }
                Ok(Sample::Normalised { values, .. }) => {
                    out.copy_from_slice(&values);
                    break;
                }
                Err(error) => error,
            };
            unreadable.push(Unreadable { index, error: error.to_string() });
            if tries == REPLACEMENTS_MAX {
                return Err(DataError::NothingReadable { tries: tries + 1, last: error.to_string(), unreadable });
            }
            index = below(&mut replacements, dataset.len() as u64) as usize;
        }
        indices.push(index);
    }
    let masks = config.masks.sample(config.seed, step, config.batch_size)?;
    Ok(Batch { step, images, size: (side, side), masks, indices, skipped: 0, unreadable })
}

fn eval_batch(dataset: &Dataset, config: &EvalConfig, batch: usize) -> Result<EvalBatch, DataError> {
    let (height, width) = config.transform.crop;
    let image_len = 3 * height * width;
    let first = batch * config.batch_size;
    let wanted = first..dataset.len().min(first + config.batch_size);
    let mut images = vec![0.0; wanted.len() * image_len]; // (b, 3, h, w)
    let mut indices = Vec::with_capacity(wanted.len());
    let mut unreadable = Vec::new();
    for index in wanted {
        let out = &mut images[indices.len() * image_len..][..image_len];
        match dataset.sample(index) {
            Ok(Sample::Picture(picture)) => config.transform.apply(out, &picture),
            Ok(Sample::Normalised { values, .. }) => out.copy_from_slice(&values),
            Err(error) => {
                unreadable.push(Unreadable { index, error: error.to_string() });
                continue;
            }
        }
        indices.push(index);
    }
    images.truncate(indices.len() * image_len);
    Ok(EvalBatch { images, size: config.transform.crop, indices, unreadable })
}

fn batch_size_setting(batch_size: usize) -> Result<(), DataError> {
    if batch_size > 0 {
        return Ok(());
    }
    Err(DataError::Setting { what: "data.batch_size", got: "0".into(), wanted: "1 or more is expected".into() })
}

/// Ready-made tensors cannot be cut to size.
fn check_size(dataset: &Dataset, expected: (usize, usize)) -> Result<(), DataError> {
    match dataset {
        Dataset::Tensors(tensors) if tensors.size() != expected => {
            Err(DataError::Size { name: dataset.name(0), expected, got: tensors.size() })
        }
        Dataset::Tensors(_) | Dataset::Tree(_) | Dataset::Scenes(_) => Ok(()),
    }
}
