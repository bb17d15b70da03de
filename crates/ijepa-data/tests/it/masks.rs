//! Masks: the published behaviour to its numbers, the fixed sampler to its promises.

use std::collections::BTreeSet;

use ijepa_data::{IndexSet, MaskConfig, Masks, Sampler, keep_rates};
use proptest::prelude::*;

fn published(rows: usize, cols: usize, sampler: Sampler) -> MaskConfig {
    MaskConfig {
        grid: (rows, cols),
        sampler,
        pred_mask_scale: (0.15, 0.2),
        enc_mask_scale: (0.85, 1.0),
        aspect_ratio: (0.75, 1.5),
        num_pred_masks: 4,
        num_enc_masks: 1,
        min_keep: 10,
        allow_overlap: false,
    }
}

fn row_means(keep: &[f64], cols: usize) -> Vec<f64> {
    keep.chunks_exact(cols).map(|row| row.iter().sum::<f64>() / cols as f64).collect()
}

fn masks_of(set: &IndexSet) -> impl Iterator<Item = &[u32]> {
    set.indices.chunks_exact(set.per_image)
}

#[test]
fn the_reference_sampler_meets_the_known_keep_rates_on_14x14_at_batch_128() {
    let rates = keep_rates(&published(14, 14, Sampler::Reference), 1, 128, 80).expect("valid");
    // The count varies by about 6 from batch to batch: its mean of 80 batches has a standard error of 0.7.
    assert!((rates.context_mean - 50.1).abs() < 2.2, "{}", rates.context_mean);
    assert!((rates.target_mean - 33.0).abs() < 1.3, "{}", rates.target_mean);
    let known = [0.75, 0.60, 0.48, 0.37, 0.27, 0.21, 0.18, 0.18, 0.18, 0.17, 0.13, 0.06, 0.02, 0.0];
    for (row, (got, known)) in row_means(&rates.context_keep, 14).into_iter().zip(known).enumerate() {
        assert!((got - known).abs() < 0.03, "row {row}: {got} against {known}");
    }
}

#[test]
fn the_reference_sampler_meets_the_known_counts_on_16x16_at_batch_128() {
    let rates = keep_rates(&published(16, 16, Sampler::Reference), 2, 128, 80).expect("valid");
    assert!((rates.context_mean - 69.5).abs() < 3.0, "{}", rates.context_mean);
    assert!((rates.target_mean - 44.6).abs() < 1.5, "{}", rates.target_mean);
    let rows = row_means(&rates.context_keep, 16);
    assert!((rows[0] - 0.78).abs() < 0.03, "{rows:?}");
    for (got, known) in rows[12..].iter().zip([0.12, 0.06, 0.02, 0.0]) {
        assert!((got - known).abs() < 0.03, "{rows:?}");
    }
}

#[test]
fn the_reference_sampler_keeps_more_context_in_smaller_batches() {
    // A batch of 16 has a standard deviation of 8.5, and the known figures are averages of a simulation themselves.
    let config = published(14, 14, Sampler::Reference);
    for (batch, batches, known) in [(1, 4000, 81.6), (16, 300, 58.4), (64, 100, 52.5)] {
        let rates = keep_rates(&config, 3, batch, batches).expect("valid");
        assert!((rates.context_mean - known).abs() < 3.0, "batch {batch}: {}", rates.context_mean);
    }
}

#[test]
fn the_reference_sampler_never_uses_the_last_row_and_column() {
    let rates = keep_rates(&published(14, 14, Sampler::Reference), 4, 16, 40).expect("valid");
    for cell in 0..14 * 14 {
        if cell / 14 == 13 || cell % 14 == 13 {
            assert_eq!((rates.context_keep[cell], rates.target_keep[cell]), (0.0, 0.0), "cell {cell}");
        }
    }
}

#[test]
fn truncation_of_the_reference_sampler_drops_the_bottom_rows() {
    let rates = keep_rates(&published(14, 14, Sampler::Reference), 5, 128, 20).expect("valid");
    let rows = row_means(&rates.context_keep, 14);
    assert!(rows[0] > 10.0 * rows[12], "{rows:?}");
    let alone = keep_rates(&published(14, 14, Sampler::Reference), 5, 1, 2560).expect("valid");
    let rows = row_means(&alone.context_keep, 14);
    assert!((rows[0] - rows[12]).abs() < 0.06, "{rows:?}");
}

#[test]
fn the_reference_sampler_draws_scale_and_aspect_ratio_together_and_fixed_apart() {
    // Rows and columns of the blocks of many steps; patches 29..=39 at aspect ratio 0.75..1.5.
    let sizes = |sampler| -> BTreeSet<(usize, usize)> {
        (0..400)
            .map(|step| {
                let masks = published(14, 14, sampler).sample(0, step, 1).expect("valid");
                let first = masks.targets[0].indices.as_slice();
                let rows = (first[first.len() - 1] / 14 - first[0] / 14 + 1) as usize;
                (rows, first.len() / rows)
            })
            .collect()
    };
    let together = sizes(Sampler::Reference);
    assert!(together.contains(&(5, 6)) && together.contains(&(8, 5)) && !together.contains(&(5, 7)), "{together:?}");
    let apart = sizes(Sampler::Fixed);
    assert!(apart.contains(&(5, 7)) && apart.contains(&(7, 4)), "{apart:?}");
}

#[test]
fn a_crowded_image_of_the_reference_sampler_gets_targets_into_its_context() {
    // Targets of 6×6 on a grid of 8×8 cover so much that no context has more than 30 patches beside two of them.
    let config = MaskConfig {
        pred_mask_scale: (0.57, 0.57),
        aspect_ratio: (1.0, 1.0),
        min_keep: 30,
        ..published(8, 8, Sampler::Reference)
    };
    config.validate().expect("the context block alone has 49 patches");
    let masks = config.sample(0, 0, 4).expect("valid");
    assert!(overlap(&masks) > 0);
    assert!(masks.context[0].per_image > 30);
    let fixed = MaskConfig { sampler: Sampler::Fixed, min_keep: 20, ..config };
    let masks = fixed.sample(0, 0, 4).expect("valid");
    assert_eq!(overlap(&masks), 0);
    assert!(masks.context[0].per_image >= 20);
}

fn overlap(masks: &Masks) -> usize {
    (0..masks.batch)
        .map(|row| {
            let of = |sets: &[IndexSet]| -> BTreeSet<u32> {
                sets.iter().flat_map(|set| masks_of(set).nth(row).expect("a row").iter().copied()).collect()
            };
            of(&masks.context).intersection(&of(&masks.targets)).count()
        })
        .sum()
}

#[test]
fn fixed_reaches_every_cell_and_has_no_bias_to_the_top() {
    for (rows, cols) in [(14, 14), (8, 8), (7, 12)] {
        let rates = keep_rates(&published(rows, cols, Sampler::Fixed), 6, 64, 120).expect("valid");
        let means = row_means(&rates.context_keep, cols);
        for row in 0..rows {
            let (got, mirrored) = (means[row], means[rows - 1 - row]);
            assert!((got - mirrored).abs() < 0.05, "{rows}×{cols} row {row}: {means:?}");
        }
        assert!(rates.context_keep.iter().all(|&rate| rate > 0.05), "{:?}", rates.context_keep);
        assert!(rates.target_keep.iter().all(|&rate| rate > 0.005), "{:?}", rates.target_keep);
    }
}

#[test]
fn fixed_spans_the_whole_grid_when_the_scale_says_so() {
    let config = MaskConfig { enc_mask_scale: (1.0, 1.0), allow_overlap: true, ..published(14, 14, Sampler::Fixed) };
    assert_eq!(config.sample(0, 0, 2).expect("valid").context[0].per_image, 196);
    let config = MaskConfig { sampler: Sampler::Reference, ..config };
    assert_eq!(config.sample(0, 0, 2).expect("valid").context[0].per_image, 169);
}

#[test]
fn one_crowded_image_does_not_cut_down_the_context_of_a_fixed_batch() {
    // Large targets: where the median image keeps 31 patches, the least of 512 would keep 5.
    let config = MaskConfig { pred_mask_scale: (0.3, 0.3), min_keep: 1, ..published(10, 10, Sampler::Fixed) };
    let mut alone: Vec<usize> =
        (0..400).map(|step| config.sample(9, step, 1).expect("valid").context[0].per_image).collect();
    alone.sort_unstable();
    let rates = keep_rates(&config, 9, 512, 8).expect("valid");
    let median = alone[200] as f64;
    assert!(rates.context_mean >= 0.38 * median, "{} against a median of {median}", rates.context_mean);
}

#[test]
fn masks_that_would_hang_the_published_code_are_refused_with_the_numbers() {
    for (grid, size) in [((8, 8), "3×3 = 9"), ((6, 6), "2×2 = 4")] {
        let error = published(grid.0, grid.1, Sampler::Reference).validate().expect_err("hangs");
        assert!(error.to_string().contains(size), "{error}");
        assert!(error.to_string().contains("min_keep 10"), "{error}");
    }
    assert!(published(2, 2, Sampler::Reference).validate().is_err());
    assert!(published(2, 2, Sampler::Fixed).validate().is_err());
    assert!(published(1, 14, Sampler::Reference).validate().is_err());
    published(8, 8, Sampler::Fixed).validate().expect("9 patches a target are no trouble");
    published(9, 9, Sampler::Reference).validate().expect("3×4 patches and more");
}

#[test]
fn settings_without_sense_are_refused() {
    let good = published(14, 14, Sampler::Reference);
    good.validate().expect("the published setting");
    let bad = [
        MaskConfig { grid: (0, 14), ..good.clone() },
        MaskConfig { grid: (14, 100_000), ..good.clone() },
        MaskConfig { pred_mask_scale: (0.2, 0.15), ..good.clone() },
        MaskConfig { pred_mask_scale: (0.0, 0.2), ..good.clone() },
        MaskConfig { enc_mask_scale: (0.85, 1.2), ..good.clone() },
        MaskConfig { enc_mask_scale: (f64::NAN, 1.0), ..good.clone() },
        MaskConfig { aspect_ratio: (0.75, f64::INFINITY), ..good.clone() },
        MaskConfig { aspect_ratio: (-1.0, 1.5), ..good.clone() },
        MaskConfig { num_pred_masks: 0, ..good.clone() },
        MaskConfig { num_enc_masks: 1000, ..good.clone() },
        MaskConfig { min_keep: 400, ..good.clone() },
        MaskConfig { min_keep: 150, sampler: Sampler::Fixed, ..good.clone() },
    ];
    for config in bad {
        assert!(config.validate().is_err(), "{config:?}");
        assert!(config.sample(0, 0, 2).is_err() || config.min_keep == 150, "{config:?}");
    }
    assert!(good.sample(0, 0, 0).is_err());
}

fn configs() -> impl Strategy<Value = MaskConfig> {
    let sampler = prop_oneof![Just(Sampler::Reference), Just(Sampler::Fixed)];
    let range = |low: f64, high: f64| (low..high, low..high).prop_map(|(a, b)| if a <= b { (a, b) } else { (b, a) });
    let counts = (1usize..5, 1usize..4, 0usize..14);
    (sampler, 2usize..18, 2usize..18, range(0.03, 0.5), range(0.3, 1.0), range(0.3, 3.0), counts, any::<bool>())
        .prop_map(|(sampler, rows, cols, pred, enc, aspect, (num_pred, num_enc, min_keep), allow_overlap)| MaskConfig {
            grid: (rows, cols),
            sampler,
            pred_mask_scale: pred,
            enc_mask_scale: enc,
            aspect_ratio: aspect,
            num_pred_masks: num_pred,
            num_enc_masks: num_enc,
            min_keep,
            allow_overlap,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_validates_can_always_be_drawn_and_keeps_its_promises(
        config in configs(), seed in any::<u64>(), step in 0u64..1000, batch in 1usize..9
    ) {
        prop_assume!(config.validate().is_ok());
        let masks = config.sample(seed, step, batch).expect("validated");
        prop_assert_eq!(masks.batch, batch);
        prop_assert_eq!(masks.context.len(), config.num_enc_masks);
        prop_assert_eq!(masks.targets.len(), config.num_pred_masks);
        let (rows, cols) = config.grid;
        for set in masks.context.iter().chain(&masks.targets) {
            prop_assert!(set.per_image > 0);
            prop_assert_eq!(set.indices.len(), batch * set.per_image);
            for mask in masks_of(set) {
                prop_assert!(mask.windows(2).all(|pair| pair[0] < pair[1]), "ascending, so unique: {:?}", mask);
                prop_assert!((mask[mask.len() - 1] as usize) < rows * cols);
            }
        }
        for mask in masks.targets.iter().flat_map(masks_of) {
            let cols = cols as u32;
            let last = mask[mask.len() - 1];
            let (height, width) = (last / cols - mask[0] / cols + 1, last % cols - mask[0] % cols + 1);
            let block: Vec<u32> =
                (0..height).flat_map(|row| (0..width).map(move |col| mask[0] + row * cols + col)).collect();
            prop_assert_eq!(mask, block.as_slice(), "a target is a rectangle");
        }
        let kept = masks.context.iter().map(|set| set.per_image).min().expect("a context");
        match config.sampler {
            Sampler::Reference => prop_assert!(kept > config.min_keep),
            Sampler::Fixed => {
                prop_assert!(kept >= config.min_keep);
                prop_assert!(config.allow_overlap || overlap(&masks) == 0);
            }
        }
    }

    #[test]
    fn masks_are_a_function_of_seed_and_step(config in configs(), seed in any::<u64>(), step in any::<u64>()) {
        prop_assume!(config.validate().is_ok());
        let masks = config.sample(seed, step, 4).expect("validated");
        prop_assert_eq!(&masks, &config.sample(seed, step, 4).expect("validated"));
        prop_assert!(config.grid.0 < 8 || masks != config.sample(seed, step ^ 1, 4).expect("validated")
            || masks != config.sample(seed, step ^ 2, 4).expect("validated"));
    }

    #[test]
    fn targets_of_an_image_do_not_depend_on_the_images_after_it(seed in any::<u64>(), step in any::<u64>()) {
        let config = published(14, 14, Sampler::Reference);
        let (few, many) = (config.sample(seed, step, 2).expect("valid"), config.sample(seed, step, 9).expect("valid"));
        for (few, many) in few.targets.iter().zip(&many.targets) {
            prop_assert_eq!(&few.indices[..], &many.indices[..few.indices.len()]);
        }
        // Context rows differ in length only: the shorter is the head of the longer.
        for (few, many) in masks_of(&few.context[0]).zip(masks_of(&many.context[0])) {
            prop_assert_eq!(&few[..many.len()], many);
        }
    }

    #[test]
    fn no_draw_has_a_size_that_validation_has_not_seen(config in configs(), seed in any::<u64>()) {
        // Validation looks at every reachable size, so drawing can never be refused after it.
        prop_assume!(config.validate().is_ok());
        for step in 0..40 {
            prop_assert!(config.sample(seed, step, 1).is_ok());
        }
    }
}
