//! What goes into a batch? Samples of an epoch's order, each cut and distorted by draws of its own.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::order::Orders;
use super::spent::{Clock, Stage};
use super::{Batch, EvalBatch, EvalConfig, LoaderConfig, TruncateOver, Unreadable, batches_per_epoch};
use crate::dataset::{Dataset, Sample, Stored};
use crate::decode::{Encoded, Limits};
use crate::error::{DataError, DecodeError};
use crate::key::{Key, Purpose, below};

/// Failed replacements in a row after which there is no hope of a readable image.
pub(super) const REPLACEMENTS_MAX: usize = 100;

/// The places in the order of an epoch that all ranks take for a step, `batch` its number in the epoch, and those of one of `parts`.
fn places(
    samples: usize,
    batch: u64,
    batch_size: usize,
    (part, parts): (usize, usize),
) -> (Range<usize>, Range<usize>) {
    let first = batch as usize * batch_size;
    let all = first..samples.min(first + batch_size);
    // Equal shares, or the first parts take one more.
    let (share, more) = (all.len() / parts, all.len() % parts);
    let begin = first + part * share + part.min(more);
    (all, begin..begin + share + usize::from(part < more))
}

/// What a rank sees at once of a step.
pub(super) struct Share {
    pub(super) step: u64,
    /// Which of the rank's batches of this step.
    pub(super) part: u64,
    pub(super) epoch: u64,
    /// Order of the epoch.
    pub(super) order: Arc<[u32]>,
    /// Places in it that all ranks take for the step.
    pub(super) all: Range<usize>,
    /// Those of this batch.
    pub(super) own: Range<usize>,
}

/// What this rank sees in a batch, of which it has `accumulate` for each step.
pub(super) fn share(number: u64, samples: usize, config: &LoaderConfig, orders: &Orders) -> Share {
    let batches_per_epoch = batches_per_epoch(samples, config.batch_size, config.drop_last);
    let accumulate = config.accumulate as u64;
    let (step, part) = (number / accumulate, number % accumulate);
    let (epoch, batch) = (step / batches_per_epoch, step % batches_per_epoch);
    let parts = (config.rank * config.accumulate + part as usize, config.world * config.accumulate);
    let (all, own) = places(samples, batch, config.batch_size, parts);
    Share { step, part, epoch, order: orders.of(epoch), all, own }
}

/// Memory that waits for its next batch.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<f32>>>);

impl Spare {
    pub(super) fn take(&self) -> Vec<f32> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn put(&self, images: Vec<f32>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(images);
    }
}

/// A batch, in the memory of `images`.
pub(super) fn train_batch(
    dataset: &Dataset,
    config: &LoaderConfig,
    orders: &Orders,
    clock: &Clock,
    number: u64,
    mut images: Vec<f32>,
) -> Result<Batch, DataError> {
    let Share { step, part, epoch, order, all, own } = share(number, dataset.len(), config, orders);
    let wanted = &order[own.clone()];

    let side = config.transform.crop_size;
    let image_len = 3 * side * side;
    images.resize(wanted.len() * image_len, 0.0); // (b, 3, s, s)
    let mut indices = Vec::with_capacity(wanted.len());
    let mut unreadable = Vec::new();
    for (out, &wanted) in images.chunks_exact_mut(image_len).zip(wanted) {
        let mut replacements = Key::new(config.seed, Purpose::Replacement, epoch, u64::from(wanted)).rng();
        let mut index = wanted as usize;
        for tries in 0.. {
            let Err(error) = train_image(out, dataset, config, clock, epoch, index) else { break };
            if matches!(error, DataError::Shard { .. }) {
                return Err(error);
            }
            unreadable.push(Unreadable { index, error: error.to_string() });
            if tries == REPLACEMENTS_MAX {
                return Err(DataError::NothingReadable { tries: tries + 1, last: error.to_string(), unreadable });
            }
            index = below(&mut replacements, dataset.len() as u64) as usize;
        }
        indices.push(index);
    }
    let rows = own.start - all.start..own.end - all.start;
    let over = match config.truncate_over {
        TruncateOver::Rank => rows.clone(),
        TruncateOver::Global => 0..all.len(),
    };
    let masks = config.masks.sample_rows(config.seed, step, rows, over)?;
    let together = all.len();
    Ok(Batch { step, part, together, images, size: (side, side), masks, indices, skipped: 0, unreadable })
}

/// One sample, cut and distorted as this epoch has it, into `out` (3, s, s).
fn train_image(
    out: &mut [f32],
    dataset: &Dataset,
    config: &LoaderConfig,
    clock: &Clock,
    epoch: u64,
    index: usize,
) -> Result<(), DataError> {
    let transform = &config.transform;
    let mut rng = Key::new(config.seed, Purpose::Augment, epoch, index as u64).rng();
    match clock.time(Stage::Read, || dataset.read(index))? {
        Stored::Encoded(bytes) => {
            let decoded = clock.time(Stage::Decode, || {
                let encoded = Encoded::open(&bytes, Limits::default())?;
                let part = transform.part(encoded.size(), &mut rng);
                let least = transform.scaled_decoding.then_some(transform.crop_size);
                encoded.region_for(part, least.unwrap_or(usize::MAX))
            });
            let part = decoded.map_err(named(dataset, index))?;
            clock.time(Stage::Transform, || transform.finish(out, part, &mut rng));
        }
        Stored::Ready(Sample::Picture(picture)) => {
            clock.time(Stage::Transform, || transform.apply(out, &picture, &mut rng));
        }
        Stored::Ready(Sample::Normalised { values, .. }) => out.copy_from_slice(&values),
    }
    Ok(())
}

pub(super) fn eval_batch(
    dataset: &Dataset,
    config: &EvalConfig,
    clock: &Clock,
    wanted: &[u32],
) -> Result<EvalBatch, DataError> {
    let (height, width) = config.transform.crop;
    let image_len = 3 * height * width;
    let mut images = vec![0.0; wanted.len() * image_len]; // (b, 3, h, w)
    let mut indices = Vec::with_capacity(wanted.len());
    let mut unreadable = Vec::new();
    for index in wanted.iter().map(|&index| index as usize) {
        let out = &mut images[indices.len() * image_len..][..image_len];
        match eval_image(out, dataset, config, clock, index) {
            Ok(()) => indices.push(index),
            Err(error @ DataError::Shard { .. }) => return Err(error),
            Err(error) => unreadable.push(Unreadable { index, error: error.to_string() }),
        }
    }
    images.truncate(indices.len() * image_len);
    Ok(EvalBatch { images, size: config.transform.crop, indices, unreadable })
}

/// The middle of one sample, into `out` (3, h, w).
fn eval_image(
    out: &mut [f32],
    dataset: &Dataset,
    config: &EvalConfig,
    clock: &Clock,
    index: usize,
) -> Result<(), DataError> {
    let picture = match clock.time(Stage::Read, || dataset.read(index))? {
        Stored::Encoded(bytes) => clock
            .time(Stage::Decode, || Encoded::open(&bytes, Limits::default())?.picture())
            .map_err(named(dataset, index))?,
        Stored::Ready(Sample::Picture(picture)) => picture,
        Stored::Ready(Sample::Normalised { values, .. }) => {
            out.copy_from_slice(&values);
            return Ok(());
        }
    };
    clock.time(Stage::Transform, || config.transform.apply(out, &picture));
    Ok(())
}

fn named(dataset: &Dataset, index: usize) -> impl FnOnce(DecodeError) -> DataError {
    move |source| DataError::Decode { name: dataset.name(index), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_disjoint_and_together_complete(
            samples in 1usize..500,
            batch_size in 1usize..60,
            parts in 1usize..6,
            drop_last: bool,
        ) {
            let batches = batches_per_epoch(samples, batch_size, drop_last);
            let mut seen = vec![0; samples];
            for batch in 0..batches {
                for part in 0..parts {
                    let (all, own) = places(samples, batch, batch_size, (part, parts));
                    prop_assert!(all.len() == batch_size || (!drop_last && batch == batches - 1));
                    prop_assert!(all.start <= own.start && own.end <= all.end);
                    prop_assert!((all.len() / parts..=all.len().div_ceil(parts)).contains(&own.len()));
                    own.for_each(|place| seen[place] += 1);
                }
            }
            let complete = if drop_last { samples / batch_size * batch_size } else { samples };
            prop_assert!(seen[..complete].iter().all(|&times| times == 1));
            prop_assert!(seen[complete..].iter().all(|&times| times == 0));
        }
    }
}
