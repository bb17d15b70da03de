//! Which shards are needed soon? They are fetched before the first sample in them is asked for.
//!
//! The steps of as many samples as are shuffled together are looked at ahead of the step that is due, so that the shards of the next
//! window, that of the next epoch included, have the time of a whole window to arrive. A shard is fetched ahead only where it fits
//! beside all that is needed before it: nothing has to go that somebody still reads. What cannot be had is left to the reader, who
//! says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::LoaderConfig;
use super::make::{Share, share};
use super::order::Orders;
use crate::dataset::{Dataset, Space};

/// Shards that are fetched at a time.
const FETCHES: usize = 2;

/// Threads that fetch. Dropping it stops them: at the next bytes that come, or after the silence that a server is granted.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dataset: Arc<Dataset>,
    plan: Mutex<Plan>,
    changed: Condvar,
    stop: AtomicBool,
}

/// What is needed when, as far as it was looked at.
#[derive(Debug)]
struct Plan {
    config: LoaderConfig,
    orders: Arc<Orders>,
    samples: usize,
    chunks: Space,
    /// The number behind the last sample of each chunk.
    ends: Vec<usize>,
    /// Steps that are looked at ahead.
    distance: u64,
    /// The step that is delivered next.
    due: u64,
    /// The first step that was not looked at.
    seen: u64,
    /// The last step seen that needs a chunk.
    last: Vec<Option<u64>>,
    /// Chunks to fetch and the first step that needs each, in the order of these steps.
    queue: VecDeque<(usize, u64)>,
}

impl Ahead {
    /// Starts the threads, if there is anything to fetch.
    pub(super) fn start(dataset: &Arc<Dataset>, config: &LoaderConfig, orders: &Arc<Orders>) -> Option<Ahead> {
        let plan = Plan::new(dataset.space()?, &dataset.chunks(), config.clone(), Arc::clone(orders));
        let shared = Arc::new(Shared {
            dataset: Arc::clone(dataset),
            plan: Mutex::new(plan),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        for _ in 0..FETCHES {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work());
        }
        Some(Ahead { shared })
    }

    /// A step was delivered.
    pub(super) fn delivered(&self, step: u64) {
        self.shared.lock().due = step + 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Under the lock, or a thread that has just looked would wait for ever.
        let _plan = self.shared.lock();
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// A thread that died while it looked left steps that it had not seen to the end, and these are the reader's then.
    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut plan = self.lock();
        while !self.stop.load(Ordering::Relaxed) && !plan.is_done() {
            match plan.next() {
                Some((chunk, beside)) => {
                    drop(plan);
                    self.dataset.prepare(chunk, &beside, &self.stop);
                    plan = self.lock();
                }
                None => plan = self.changed.wait(plan).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Plan {
    fn new(chunks: Space, lengths: &[usize], config: LoaderConfig, orders: Arc<Orders>) -> Plan {
        let ends: Vec<usize> = lengths
            .iter()
            .scan(0, |end, len| {
                *end += len;
                Some(*end)
            })
            .collect();
        let samples = ends.last().copied().unwrap_or(0);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        // No more than an epoch: at most two orders are in use at a time.
        let steps = config.shuffle_window.max(longest).min(samples).div_ceil(config.batch_size);
        let distance = (steps * config.accumulate) as u64;
        let (last, start) = (vec![None; lengths.len()], config.start_step * config.accumulate as u64);
        Plan { samples, chunks, ends, distance, due: start, seen: start, last, queue: VecDeque::new(), config, orders }
    }

    fn is_done(&self) -> bool {
        self.seen >= self.stop() && self.queue.is_empty()
    }

    /// The number behind the last batch.
    fn stop(&self) -> u64 {
        self.config.stop_step.saturating_mul(self.config.accumulate as u64)
    }

    /// The chunk to fetch next, and those that it must leave in their place; nothing while there is no room beside them.
    fn next(&mut self) -> Option<(usize, Vec<usize>)> {
        // What was needed for a step that is over was fetched by its reader.
        let due = self.due;
        self.queue.retain(|&(_, first)| first >= due);
        self.look();
        let &(chunk, _) = self.queue.front()?;
        let needed = (0..self.last.len()).filter(|&other| self.is_needed(other));
        let beside: Vec<usize> = needed.filter(|other| self.queue.iter().all(|(queued, _)| queued != other)).collect();
        let bytes: u64 = beside.iter().chain([&chunk]).map(|&chunk| self.chunks.bytes[chunk]).sum();
        if bytes > self.chunks.limit {
            return None;
        }
        self.queue.pop_front();
        Some((chunk, beside))
    }

    fn is_needed(&self, chunk: usize) -> bool {
        self.last[chunk].is_some_and(|step| step >= self.due)
    }

    /// Looks at the steps that came within the distance.
    fn look(&mut self) {
        self.seen = self.seen.max(self.due);
        let end = self.due.saturating_add(self.distance).min(self.stop());
        while self.seen < end {
            let Share { order, own, .. } = share(self.seen, self.samples, &self.config, &self.orders);
            for &sample in &order[own] {
                let chunk = self.ends.partition_point(|&end| end <= sample as usize);
                // The step that was just delivered read its chunks, and nobody has had a reason to remove them.
                if self.last[chunk].is_none_or(|last| last + 1 < self.due) {
                    self.queue.push_back((chunk, self.seen));
                }
                self.last[chunk] = Some(self.seen);
            }
            self.seen += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::TruncateOver;
    use super::*;
    use crate::masks::{MaskConfig, Sampler};
    use crate::transform::{Normalisation, TrainTransform};

    fn config(seed: u64, batch_size: usize, (rank, world): (usize, usize), shuffle_window: usize) -> LoaderConfig {
        let transform = TrainTransform {
            crop_size: 8,
            crop_scale: (0.3, 1.0),
            horizontal_flip: false,
            color_distortion: false,
            color_jitter_strength: 0.0,
            gaussian_blur: false,
            scaled_decoding: false,
            normalisation: Normalisation::default(),
        };
        let masks = MaskConfig {
            grid: (8, 8),
            sampler: Sampler::Fixed,
            pred_mask_scale: (0.15, 0.2),
            enc_mask_scale: (0.85, 1.0),
            aspect_ratio: (0.75, 1.5),
            num_pred_masks: 4,
            num_enc_masks: 1,
            min_keep: 4,
            allow_overlap: false,
        };
        let (drop_last, threads, queue, start_step, stop_step, skip_limit) = (true, 1, 1, 3, 60, 0);
        LoaderConfig {
            seed,
            batch_size: batch_size * world,
            rank,
            world,
            accumulate: 1,
            truncate_over: TruncateOver::Rank,
            drop_last,
            shuffle_window,
            threads,
            queue,
            start_step,
            stop_step,
            transform,
            masks,
            skip_limit,
        }
    }

    proptest! {
        #[test]
        fn what_the_window_ahead_needs_is_asked_for_in_the_order_of_need_once_and_within_the_limit(
            lengths in prop::collection::vec(1usize..30, 1..12),
            batch_size in 1usize..4,
            (rank, world) in prop::sample::select(vec![(0, 1), (0, 2), (1, 2), (2, 3)]),
            window in 0usize..120,
            limit in prop::option::of(5u64..200),
            seed: u64,
        ) {
            let samples: usize = lengths.iter().sum();
            prop_assume!(samples >= batch_size * world);
            let config = config(seed, batch_size, (rank, world), window);
            let orders = Arc::new(Orders::new(seed, samples, lengths.clone(), window));
            let bytes: Vec<u64> = lengths.iter().map(|&len| len as u64).collect();
            let space = Space { bytes: bytes.clone(), limit: limit.unwrap_or(u64::MAX) };
            let mut plan = Plan::new(space, &lengths, config.clone(), Arc::clone(&orders));
            let distance = plan.distance;
            let needs = |step: u64| -> BTreeSet<usize> {
                let Share { order, own, .. } = share(step, samples, &config, &orders);
                let chunk = |&sample: &u32| (0..).find(|&k| (sample as usize) < lengths[..=k].iter().sum()).expect("in one");
                order[own].iter().map(chunk).collect()
            };
            let mut there = BTreeSet::new();
            for due in config.start_step..config.stop_step {
                plan.due = due;
                let steps = due..config.stop_step.min(due + distance);
                let needed: BTreeSet<usize> = steps.clone().flat_map(needs).collect();
                there.retain(|chunk| needed.contains(chunk));
                let first = |chunk: usize| steps.clone().find(|&step| needs(step).contains(&chunk));
                let mut last = None;
                while let Some((chunk, beside)) = plan.next() {
                    prop_assert!(there.is_subset(&beside.iter().copied().collect()));
                    prop_assert!(there.insert(chunk), "asked for twice");
                    prop_assert!(last <= first(chunk), "in the order of need");
                    last = first(chunk);
                }
                prop_assert!(there.is_subset(&needed));
                prop_assert!(limit.is_some() || there == needed);
                let held: u64 = there.iter().map(|&chunk| bytes[chunk]).sum();
                prop_assert!(limit.is_none_or(|limit| held <= limit));
            }
        }
    }
}
