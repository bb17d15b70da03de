//! In which order are the samples of an epoch seen? A keyed permutation: a function of the data, the seed and the epoch alone.
//!
//! Where every sample is as near as any other, all permutations are alike. Where samples lie in chunks (shards, groups of rows) that
//! are fetched or unpacked as a whole, the chunks are shuffled, put together to windows of a given number of samples, and
//! shuffled within each window: at most the chunks of two windows are in use at a time, whatever the number of threads.

use std::sync::{Arc, Mutex, PoisonError};

use crate::key::{Key, Purpose, shuffle};

/// The orders of the epochs that are under way.
#[derive(Debug)]
pub(super) struct Orders {
    seed: u64,
    samples: usize,
    /// Samples of each chunk; none where there are no chunks.
    chunks: Vec<usize>,
    window: usize,
    /// That of the newest epoch and of the one before: threads may still be at work on that.
    recent: Mutex<[Option<(u64, Arc<[u32]>)>; 2]>,
}

impl Orders {
    /// # Panics
    /// When there are chunks and they do not hold `samples` together.
    pub(super) fn new(seed: u64, samples: usize, chunks: Vec<usize>, window: usize) -> Orders {
        assert!(chunks.is_empty() || chunks.iter().sum::<usize>() == samples, "chunks of {samples} samples");
        assert!(u32::try_from(samples).is_ok(), "{samples} samples, less than 2³² are expected");
        Orders { seed, samples, chunks, window, recent: Mutex::default() }
    }

    /// The samples of an epoch in their order.
    pub(super) fn of(&self, epoch: u64) -> Arc<[u32]> {
        // A thread that died while drawing left the orders as they were.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().flatten().find(|(of, _)| *of == epoch) {
            return Arc::clone(order);
        }
        let order: Arc<[u32]> = self.draw(epoch).into();
        recent.swap(0, 1);
        recent[0] = Some((epoch, Arc::clone(&order)));
        order
    }

    fn draw(&self, epoch: u64) -> Vec<u32> {
        let mut rng = Key::new(self.seed, Purpose::Order, epoch, 0).rng();
        if self.chunks.is_empty() || self.window >= self.samples {
            let mut order: Vec<u32> = (0..self.samples as u32).collect();
            shuffle(&mut rng, &mut order);
            return order;
        }
        let begins = self.chunks.iter().scan(0, |next, len| Some(std::mem::replace(next, *next + len)));
        let mut chunks: Vec<_> = begins.zip(self.chunks.iter().copied()).collect();
        shuffle(&mut rng, &mut chunks);
        let mut order = Vec::with_capacity(self.samples);
        let mut window = 0; // where it begins
        for (first, len) in chunks {
            order.extend(first as u32..(first + len) as u32);
            if order.len() - window >= self.window {
                shuffle(&mut rng, &mut order[window..]);
                window = order.len();
            }
        }
        shuffle(&mut rng, &mut order[window..]);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation_of_its_own(
            chunks in prop::collection::vec(0usize..40, 0..12),
            window in 0usize..200,
            seed: u64,
            epoch in 0u64..1000,
        ) {
            let samples = chunks.iter().sum();
            let orders = Orders::new(seed, samples, chunks, window);
            let order = orders.of(epoch);
            let mut sorted = order.to_vec();
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..samples as u32));
            prop_assert_eq!(&order, &orders.of(epoch));
            prop_assert!(samples < 20 || order != orders.of(epoch + 1));
        }

        #[test]
        fn no_more_chunks_than_those_of_two_windows_are_in_use_at_a_time(seed: u64, window in 1usize..300) {
            let (chunks, len) = (40, 25);
            let orders = Orders::new(seed, chunks * len, vec![len; chunks], window);
            // From the first sample of a chunk to its last one.
            let order = orders.of(0);
            let most = window.next_multiple_of(len);
            for chunk in 0..chunks as u32 {
                let places: Vec<_> = (0..order.len()).filter(|&at| order[at] / len as u32 == chunk).collect();
                prop_assert!(places[len - 1] - places[0] < most);
            }
        }
    }

    #[test]
    fn without_chunks_every_sample_reaches_every_place() {
        let mut reached = [[false; 6]; 6];
        let orders = Orders::new(3, 6, Vec::new(), 1);
        for epoch in 0..600 {
            for (place, &sample) in orders.of(epoch).iter().enumerate() {
                reached[place][sample as usize] = true;
            }
        }
        assert!(reached.iter().flatten().all(|&yes| yes));
    }
}
