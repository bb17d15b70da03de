//! Streams of a few chosen samples: what they see, and on what that does not depend.

use std::sync::Arc;

use ijepa_data::transform::{RandAugment, RandomErasing};
use ijepa_data::{Dataset, Filter, Normalisation, Split, StreamBatch, StreamConfig, StreamLoader, TuneTransform};

const SAMPLES: [u32; 5] = [1, 4, 7, 8, 11];

fn weak() -> TuneTransform {
    TuneTransform {
        size: (16, 16),
        crop_scale: (0.3, 1.0),
        filter: Filter::Bicubic,
        horizontal_flip: true,
        rand_augment: None,
        erasing: None,
        normalisation: Normalisation::default(),
    }
}

fn strong() -> TuneTransform {
    let augment = RandAugment::parse("rand-m9-mstd0.5-inc1", &Normalisation::default()).expect("it is right");
    TuneTransform { rand_augment: Some(augment), erasing: Some(RandomErasing::default()), ..weak() }
}

fn config(batch_size: usize, steps: std::ops::Range<u64>, threads: usize) -> StreamConfig {
    StreamConfig {
        seed: 3,
        samples: SAMPLES.to_vec(),
        batch_size,
        threads,
        queue: 3,
        start_step: steps.start,
        stop_step: steps.end,
        views: vec![weak(), strong()],
    }
}

fn batches(config: StreamConfig) -> Vec<StreamBatch> {
    let dataset = Arc::new(Dataset::open("scenes:12", Split::Train, 0).expect("scenes"));
    let mut loader = StreamLoader::start(dataset, config).expect("it starts");
    std::iter::from_fn(|| loader.next().expect("all can be read")).collect()
}

#[test]
fn every_chosen_sample_is_seen_equally_often_in_batches_of_one_size() {
    for batch_size in [2, 3, 12] {
        // Whole epochs, whose ends lie within batches.
        let all = batches(config(batch_size, 0..10, 2));
        assert!(all.iter().all(|batch| batch.indices.len() == batch_size && batch.views.len() == 2));
        let seen: Vec<usize> = all.into_iter().flat_map(|batch| batch.indices).collect();
        for sample in SAMPLES {
            let times = seen.iter().filter(|&&index| index == sample as usize).count();
            assert_eq!(times, 10 * batch_size / SAMPLES.len());
        }
        assert!(seen[..5] != seen[5..10] || seen[..5] != seen[10..15], "each epoch has an order of its own");
    }
}

#[test]
fn neither_threads_nor_the_first_step_change_a_batch() {
    let all = batches(config(3, 0..9, 1));
    assert_eq!(all, batches(config(3, 0..9, 4)));
    assert_eq!(all[4..], batches(config(3, 4..9, 2)));
}

#[test]
fn an_image_is_cut_anew_in_each_view_and_each_epoch() {
    let all = batches(config(5, 0..2, 2));
    let len = 3 * 16 * 16;
    let image = |epoch: usize, view: usize, sample: u32| {
        let at = all[epoch].indices.iter().position(|&index| index == sample as usize).expect("an epoch has it");
        all[epoch].views[view][at * len..][..len].to_vec()
    };
    assert_ne!(image(0, 0, 4), image(0, 1, 4));
    assert_ne!(image(0, 0, 4), image(1, 0, 4));
}

#[test]
fn nothing_to_choose_from_is_refused() {
    let dataset = Arc::new(Dataset::open("scenes:12", Split::Train, 0).expect("scenes"));
    let none = StreamConfig { samples: Vec::new(), ..config(3, 0..2, 1) };
    assert!(StreamLoader::start(Arc::clone(&dataset), none).is_err());
    let upside_down = TuneTransform { crop_scale: (0.5, 0.2), ..weak() };
    let wrong = StreamConfig { views: vec![upside_down], ..config(3, 0..2, 1) };
    assert!(StreamLoader::start(dataset, wrong).is_err());
}
