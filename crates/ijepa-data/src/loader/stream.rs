//! How do batches of a few chosen samples go on for ever? One epoch's order after the other, without a rest at their ends: of
//! 95 labelled images, batches of 64 all have 64, and each image is seen as often as any other, give or take one.
//!
//! What is in batch k is a pure function of the data, the configuration and k, as with the loader of pretraining.

use std::collections::HashSet;
use std::sync::Arc;

use super::make::REPLACEMENTS_MAX;
use super::order::Orders;
use super::ordered::Ordered;
use super::{Unreadable, batch_size_setting, check_size};
use crate::dataset::{Dataset, Sample};
use crate::error::DataError;
use crate::key::{Key, Purpose, below};
use crate::transform::TuneTransform;

/// What a stream delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamConfig {
    /// The run's seed.
    pub seed: u64,
    /// The samples of the data set that are seen.
    pub samples: Vec<u32>,
    /// Images of a batch.
    pub batch_size: usize,
    /// Threads that decode and cut; 0 counts as 1.
    pub threads: usize,
    /// Batches that may be in the making or ready ahead of the one that is asked for; 0 counts as 1.
    pub queue: usize,
    /// The first step to deliver.
    pub start_step: u64,
    /// The step before which the stream ends.
    pub stop_step: u64,
    /// Each sample is seen through each of these.
    pub views: Vec<TuneTransform>,
}

/// What one step sees.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamBatch {
    /// The step that this batch is for.
    pub step: u64,
    /// Normalised pixels, for each view.
    pub views: Vec<Vec<f32>>, // (b, 3, h, w)
    /// Which sample each image is.
    pub indices: Vec<usize>, // (b)
    /// The unreadable images that were met for the first time.
    pub unreadable: Vec<Unreadable>,
}

/// Batches in the order of their steps.
#[derive(Debug)]
pub struct StreamLoader {
    batches: Ordered<Result<StreamBatch, DataError>>,
    met: HashSet<usize>,
}

impl StreamLoader {
    /// Starts the threads. Refuses settings that cannot be met, and no samples at all.
    ///
    /// # Panics
    /// When a sample is not in the data set.
    pub fn start(dataset: Arc<Dataset>, config: StreamConfig) -> Result<StreamLoader, DataError> {
        batch_size_setting(config.batch_size)?;
        for view in &config.views {
            view.validate()?;
            check_size(&dataset, view.size)?;
        }
        assert!(config.samples.iter().all(|&sample| (sample as usize) < dataset.len()), "samples of the data set");
        if config.samples.is_empty() {
            return Err(DataError::Setting {
                what: "the list of samples",
                got: "empty".into(),
                wanted: "at least one image is expected".into(),
            });
        }
        let orders = Orders::new(config.seed, config.samples.len(), Vec::new(), 0);
        let (steps, threads, queue) = (config.start_step..config.stop_step, config.threads, config.queue);
        let batches = Ordered::start(steps, threads, queue, move |step| batch(&dataset, &config, &orders, step));
        Ok(StreamLoader { batches, met: HashSet::new() })
    }

    /// The batch of the next step, or nothing after the last one. Waits for it.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end the run on an error")]
    pub fn next(&mut self) -> Result<Option<StreamBatch>, DataError> {
        let Some(batch) = self.batches.next()? else { return Ok(None) };
        let mut batch = batch?;
        batch.unreadable.retain(|unreadable| self.met.insert(unreadable.index));
        Ok(Some(batch))
    }
}

/// The batch of a step.
fn batch(dataset: &Dataset, config: &StreamConfig, orders: &Orders, step: u64) -> Result<StreamBatch, DataError> {
    let (count, samples) = (config.batch_size as u64, config.samples.len() as u64);
    let lens: Vec<usize> = config.views.iter().map(|view| 3 * view.size.0 * view.size.1).collect();
    let mut views: Vec<Vec<f32>> = lens.iter().map(|len| vec![0.0; len * config.batch_size]).collect();
    let mut indices = Vec::with_capacity(config.batch_size);
    let mut unreadable = Vec::new();
    for (place, position) in (step * count..(step + 1) * count).enumerate() {
        let epoch = position / samples;
        let wanted = config.samples[orders.of(epoch)[(position % samples) as usize] as usize];
        let mut replacements = Key::new(config.seed, Purpose::Replacement, epoch, u64::from(wanted)).rng();
        let mut index = wanted as usize;
        for tries in 0.. {
            let out = views.iter_mut().zip(&lens).map(|(view, len)| &mut view[place * len..][..*len]);
            let Err(error) = image(out, dataset, config, epoch, index) else { break };
            if matches!(error, DataError::Shard { .. }) {
                return Err(error);
            }
            unreadable.push(Unreadable { index, error: error.to_string() });
            if tries == REPLACEMENTS_MAX {
                return Err(DataError::NothingReadable { tries: tries + 1, last: error.to_string(), unreadable });
            }
            index = config.samples[below(&mut replacements, samples) as usize] as usize;
        }
        indices.push(index);
    }
    Ok(StreamBatch { step, views, indices, unreadable })
}

/// All views of one sample as this epoch has them.
fn image<'a>(
    out: impl Iterator<Item = &'a mut [f32]>,
    dataset: &Dataset,
    config: &StreamConfig,
    epoch: u64,
    index: usize,
) -> Result<(), DataError> {
    let sample = dataset.sample(index)?;
    let mut rng = Key::new(config.seed, Purpose::Augment, epoch, index as u64).rng();
    for (out, view) in out.zip(&config.views) {
        match &sample {
            Sample::Picture(picture) => view.apply(out, picture, &mut rng),
            Sample::Normalised { values, .. } => out.copy_from_slice(values),
        }
    }
    Ok(())
}
