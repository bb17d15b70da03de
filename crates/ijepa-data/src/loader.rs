//! How do batches reach the step? From a few threads, in order, never more than a bounded number ahead.
//!
//! What is in batch k is a pure function of the data, the configuration and k: epoch = k / batches of an epoch, the order of an
//! epoch is a keyed permutation, every sample's draws are keyed by (seed, epoch, sample). So neither the number of threads nor
//! the step at which a run starts changes anything, and there is nothing to save for a resumed run. Of several ranks, each
//! takes its share of every step, in one batch or in several. What has to be fetched for the steps to come is fetched meanwhile.

mod ahead;
mod make;
mod order;
mod ordered;
mod spent;
mod stream;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahead::Ahead;
use make::{Spare, eval_batch, train_batch};
use order::Orders;
use ordered::Ordered;
use spent::Clock;
pub use spent::Spent;
pub use stream::{StreamBatch, StreamConfig, StreamLoader};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::masks::{MaskConfig, Masks};
use crate::transform::{EvalTransform, TrainTransform};

/// What a training loader delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderConfig {
    /// The run's seed.
    pub seed: u64,
    /// Images of a step, of all processes together.
    pub batch_size: usize,
    /// Which of `world` processes this is, from 0.
    pub rank: usize,
    /// Processes that share the images of a step.
    pub world: usize,
    /// Batches in which a process gets its share of a step, one after the other.
    pub accumulate: usize,
    /// Over which images of a step masks are cut to equal length.
    pub truncate_over: TruncateOver,
    /// Whether what remains of an epoch after the last whole batch is left out.
    pub drop_last: bool,
    /// Samples that are shuffled together where the data lies in chunks: see [`Dataset::chunks`].
    pub shuffle_window: usize,
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

/// Over which images of a step masks are cut to equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TruncateOver {
    /// Those of one batch of one process, as the reference does: the more processes, the longer the masks.
    #[default]
    Rank,
    /// All: masks do not depend on how the images are shared out. Every process draws the masks of all images.
    Global,
}

/// What one training step sees, or a part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The step that this batch is for.
    pub step: u64,
    /// Which of the batches of its step this is, from 0.
    pub part: u64,
    /// Images of the step, of all processes together.
    pub together: usize,
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
    /// In front: it is dropped first, so that nobody waits for what is fetched ahead.
    ahead: Option<Ahead>,
    batches: Ordered<Result<Batch, DataError>>,
    accumulate: u64,
    spare: Arc<Spare>,
    clock: Arc<Clock>,
    wait: Duration,
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

/// Some images of a data set.
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

/// Images of a data set, each once, in order.
#[derive(Debug)]
pub struct EvalLoader {
    batches: Ordered<Result<EvalBatch, DataError>>,
    clock: Arc<Clock>,
    wait: Duration,
}

impl TrainLoader {
    /// Starts the threads. Refuses settings and masks that cannot be met, and data of fewer images than a batch.
    pub fn start(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<TrainLoader, DataError> {
        config.transform.validate()?;
        config.masks.validate()?;
        batch_size_setting(config.batch_size)?;
        check_shares(dataset.len(), &config)?;
        let side = config.transform.crop_size;
        check_size(&dataset, (side, side))?;
        let (threads, queue, skip_limit) = (config.threads, config.queue, config.skip_limit);
        let accumulate = config.accumulate as u64;
        let parts = config.start_step * accumulate..config.stop_step.saturating_mul(accumulate);
        let orders = Arc::new(Orders::new(config.seed, dataset.len(), dataset.chunks(), config.shuffle_window));
        let ahead = Ahead::start(&dataset, &config, &orders);
        let clock = Arc::new(Clock::default());
        let threads_clock = Arc::clone(&clock);
        let spare = Arc::new(Spare::default());
        let threads_spare = Arc::clone(&spare);
        let make = move |part: u64| {
            let images = threads_spare.take();
            train_batch(&dataset, &config, &orders, &threads_clock, part, images)
        };
        let batches = Ordered::start(parts, threads, queue, make);
        let (wait, met) = (Duration::ZERO, HashSet::new());
        Ok(TrainLoader { ahead, batches, accumulate, spare, clock, wait, met, skip_limit })
    }

    /// Takes the memory of a batch's images back for the batches to come: fresh memory costs as much as resizing.
    pub fn recycle(&self, images: Vec<f32>) {
        self.spare.put(images);
    }

    /// Where the time went until now.
    pub fn spent(&self) -> Spent {
        self.clock.spent(self.wait)
    }

    /// Whether [`TrainLoader::next`] would not wait.
    pub fn is_ready(&self) -> bool {
        self.batches.is_ready()
    }

    /// The next batch, or nothing after the last one. Waits for it.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end the run on an error")]
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        let asked = Instant::now();
        let batch = self.batches.next()?;
        self.wait += asked.elapsed();
        let Some(batch) = batch else {
            return Ok(None);
        };
        if let (Some(ahead), Ok(batch)) = (&self.ahead, &batch) {
            ahead.delivered(batch.step * self.accumulate + batch.part);
        }
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
    /// Starts the threads, for all images.
    pub fn start(dataset: Arc<Dataset>, config: EvalConfig) -> Result<EvalLoader, DataError> {
        let all = (0..dataset.len() as u32).collect();
        EvalLoader::start_for(dataset, all, config)
    }

    /// Starts the threads, for some images in the order of their numbers in `images`.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn start_for(dataset: Arc<Dataset>, images: Arc<[u32]>, config: EvalConfig) -> Result<EvalLoader, DataError> {
        config.transform.validate()?;
        batch_size_setting(config.batch_size)?;
        check_size(&dataset, config.transform.crop)?;
        assert!(images.iter().all(|&image| (image as usize) < dataset.len()), "images of a set of {}", dataset.len());
        let batches = images.len().div_ceil(config.batch_size) as u64;
        let clock = Arc::new(Clock::default());
        let threads_clock = Arc::clone(&clock);
        let make = move |batch: u64| {
            let first = batch as usize * config.batch_size;
            let wanted = &images[first..images.len().min(first + config.batch_size)];
            eval_batch(&dataset, &config, &threads_clock, wanted)
        };
        let batches = Ordered::start(0..batches, config.threads, config.queue, make);
        Ok(EvalLoader { batches, clock, wait: Duration::ZERO })
    }

    /// Where the time went until now.
    pub fn spent(&self) -> Spent {
        self.clock.spent(self.wait)
    }

    /// The next images, or nothing after the last. Waits for them.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end the run on an error")]
    pub fn next(&mut self) -> Result<Option<EvalBatch>, DataError> {
        let asked = Instant::now();
        let batch = self.batches.next();
        self.wait += asked.elapsed();
        batch?.transpose()
    }
}

/// Steps of an epoch, when a step takes `batch_size` samples.
pub fn batches_per_epoch(samples: usize, batch_size: usize, drop_last: bool) -> u64 {
    (if drop_last { samples / batch_size } else { samples.div_ceil(batch_size) }) as u64
}

/// The samples in the order of an epoch, shuffled as a training loader does it: see [`LoaderConfig::shuffle_window`].
pub fn order(dataset: &Dataset, seed: u64, epoch: u64, shuffle_window: usize) -> Arc<[u32]> {
    Orders::new(seed, dataset.len(), dataset.chunks(), shuffle_window).of(epoch)
}

/// Every process gets as many batches as the others, and none of them is empty.
fn check_shares(samples: usize, config: &LoaderConfig) -> Result<(), DataError> {
    let LoaderConfig { batch_size, rank, world, accumulate, drop_last, .. } = *config;
    assert!(rank < world && accumulate > 0, "rank {rank} of {world}, {accumulate} batches a step");
    let parts = world * accumulate;
    if samples < batch_size {
        return Err(DataError::Setting {
            what: "data.batch_size",
            got: if parts == 1 { batch_size.to_string() } else { format!("{batch_size} of {parts} batches together") },
            wanted: format!("the data has only {samples} images, give more or take smaller batches"),
        });
    }
    if batch_size < parts {
        return Err(DataError::Setting {
            what: "data.batch_size",
            got: format!("{batch_size} images of a step for {parts} batches"),
            wanted: "at least one image for each is expected; take fewer processes".into(),
        });
    }
    let rest = samples % batch_size;
    if !drop_last && (1..parts).contains(&rest) {
        return Err(DataError::Setting {
            what: "data.drop_last",
            got: "false".into(),
            wanted: format!(
                "the last step of an epoch has {rest} images for {parts} batches; leave it out (true), or take another data.batch_size"
            ),
        });
    }
    Ok(())
}

fn batch_size_setting(batch_size: usize) -> Result<(), DataError> {
    if batch_size > 0 {
        return Ok(());
    }
    Err(DataError::Setting { what: "data.batch_size", got: "0".into(), wanted: "1 or more is expected".into() })
}

/// Ready-made tensors cannot be cut to size.
fn check_size(dataset: &Dataset, expected: (usize, usize)) -> Result<(), DataError> {
    match dataset.normalised_size() {
        Some(got) if got != expected => Err(DataError::Size { name: dataset.name(0), expected, got }),
        _ => Ok(()),
    }
}
