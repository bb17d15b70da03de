//! The step against simpler ways to the same numbers, on a grid that is not square and with two context masks.

use ijepa_data::{IndexSet, Masks};
use ijepa_model::jepa::Batch;
use ijepa_model::optimiser;
use ijepa_model::schedule::Schedule;
use ijepa_model::vit::{Patches, all_patches};
use ijepa_model::{Jepa, PredictorConfig, VitConfig};
use ijepa_tensor::{Buf, Index, Pool, Tape, View};
use proptest::prelude::*;

const IMAGES: usize = 3;

fn model() -> Jepa {
    // 2 × 4 patches
    let encoder = VitConfig { image: (8, 16), patch: 4, channels: 3, width: 24, depth: 2, heads: 2, hidden: 96 };
    Jepa::new(encoder, PredictorConfig { width: 16, depth: 2 })
}

fn images() -> Vec<f32> {
    (0..IMAGES * 3 * 8 * 16).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect()
}

fn set(per_image: usize, indices: &[u32]) -> IndexSet {
    assert_eq!(indices.len(), per_image * IMAGES);
    IndexSet { per_image, indices: indices.to_vec() }
}

/// Targets overlap in the first image only, so that the images' unions differ in size.
fn masks() -> Masks {
    Masks {
        batch: IMAGES,
        context: vec![set(3, &[0, 1, 5, 2, 3, 4, 1, 6, 7]), set(3, &[4, 5, 6, 0, 1, 7, 0, 3, 5])],
        targets: vec![set(2, &[2, 3, 5, 6, 2, 4]), set(2, &[2, 3, 0, 7, 3, 5])],
    }
}

#[test]
fn targets_are_rows_of_the_whole_target_encoder() {
    let (model, masks, images, pool) = (model(), masks(), images(), Pool::new());
    let state = model.init(3, 0.2);
    let batch = Batch { images: View::Cpu(&images), masks: &masks };
    let got = model.targets(&pool, state.target.view(), batch);

    let n = model.encoder.config.patches();
    let mut tape = Tape::inference(&pool, state.target.view());
    let index = all_patches(IMAGES, n);
    let patches = Patches { images: View::Cpu(&images), batch: IMAGES, index: &index, kept: n };
    let all = model.encoder.forward(&mut tape, patches);
    let mut rows = Vec::new();
    for target in &masks.targets {
        for _ in &masks.context {
            rows.extend(target.indices.iter().enumerate().map(|(i, patch)| (i / 2 * n) as u32 + patch));
        }
    }
    let picked = tape.gather(&all, Index::from(&rows[..]));
    let expected = tape.layer_norm(&picked, None, 1e-5);
    assert_eq!(got.as_slice(), expected.as_slice());
}

#[test]
fn two_context_masks_predict_what_each_alone_predicts() {
    let (model, masks, images, pool) = (model(), masks(), images(), Pool::new());
    let state = model.init(3, 0.2);
    let predict = |masks: &Masks| {
        let mut tape = Tape::inference(&pool, state.params.view());
        model.predict(&mut tape, Batch { images: View::Cpu(&images), masks }).as_slice().to_vec()
    };
    let both = predict(&masks);
    let alone: Vec<Vec<f32>> = masks
        .context
        .iter()
        .map(|context| predict(&Masks { context: vec![context.clone()], ..masks.clone() }))
        .collect();
    let block = IMAGES * 2 * model.encoder.config.width; // one target block under one context
    for target in 0..masks.targets.len() {
        for (k, alone) in alone.iter().enumerate() {
            let (here, there) = ((target * masks.context.len() + k) * block, target * block);
            assert_eq!(both[here..here + block], alone[there..there + block], "target {target}, context {k}");
        }
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let (model, masks, images, pool) = (model(), masks(), images(), Pool::new());
    let mut state = model.init(3, 0.2);
    let batch = Batch { images: View::Cpu(&images), masks: &masks };
    let targets = model.targets(&pool, state.target.view(), batch);
    let mut grads = Buf::zeros(model.layout.len);
    model.loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, &targets, 1.0, |_, _| {});

    // Along the gradient itself the slope is its squared norm.
    let square: f64 = grads.as_slice().iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    let step = 1e-2 / square.sqrt();
    let start = state.params.clone();
    let mut loss_at = |distance: f64| {
        for ((param, start), grad) in state.params.as_mut_slice().iter_mut().zip(start.as_slice()).zip(grads.as_slice())
        {
            *param = (f64::from(*start) + distance * f64::from(*grad)) as f32;
        }
        let mut unused = Buf::zeros(model.layout.len);
        f64::from(
            model
                .loss_and_gradients(&pool, (&state.params, &mut unused, false), batch, &targets, 1.0, |_, _| {})
                .to_vec()[0],
        )
    };
    let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    assert!((slope / square - 1.0).abs() < 1e-2, "slope {slope}, squared norm of the gradient {square}");
}

#[test]
fn after_three_steps_of_a_shape_no_buffer_is_allocated() {
    settles(&model());
}

#[test]
fn after_three_steps_that_recompute_no_buffer_is_allocated() {
    settles(&Jepa { recompute: true, ..model() });
}

fn settles(model: &Jepa) {
    let (masks, images, pool) = (masks(), images(), Pool::new());
    let state = model.init(3, 0.2);
    let mut grads = Buf::zeros(model.layout.len);
    let mut step = || {
        let batch = Batch { images: View::Cpu(&images), masks: &masks };
        let targets = model.targets(&pool, state.target.view(), batch);
        model.loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, &targets, 1.0, |_, _| {});
        drop(targets);
        pool.allocations()
    };
    let third = (0..3).map(|_| step()).last().expect("three steps");
    assert!(third > 0);
    for _ in 0..5 {
        assert_eq!(step(), third);
    }
}

/// The loss, every gradient, and the bytes that activations and their gradients took.
fn loss_gradients_and_bytes(model: &Jepa, batch: Batch) -> (u32, Vec<u32>, usize) {
    let state = model.init(3, 0.2);
    let mut grads = Buf::zeros(model.layout.len);
    let targets = model.targets(&Pool::new(), state.target.view(), batch);
    let pool = Pool::new();
    let loss = model
        .loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, &targets, 1.0, |_, _| {})
        .to_vec()[0];
    (loss.to_bits(), grads.as_slice().iter().map(|g| g.to_bits()).collect(), pool.allocated_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn recomputing_blocks_changes_no_bit_of_loss_and_gradients(
        images in 1usize..4, context in 1usize..6, target in 1usize..4, contexts in 1usize..3, blocks in 1usize..4,
        depth in 1usize..4, predictor_depth in 1usize..4, heads in 1usize..3, seed in 0u32..1000,
    ) {
        let encoder = VitConfig {
            image: (8, 16), patch: 4, channels: 3, width: 24, depth, heads, hidden: 96,
        };
        let model = Jepa::new(encoder, PredictorConfig { width: 16, depth: predictor_depth });
        let set = |per_image: usize, shift: u32| IndexSet {
            per_image,
            indices: (0..images as u32).flat_map(|image| (0..per_image as u32).map(move |i| (i + image + shift) % 8)).collect(),
        };
        let masks = Masks {
            batch: images,
            context: (0..contexts as u32).map(|k| set(context, k + seed)).collect(),
            targets: (0..blocks as u32).map(|k| set(target, 3 * k + seed)).collect(),
        };
        let pixels: Vec<f32> = (0..images * 3 * 8 * 16).map(|i| ((i as u32 * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect();
        let batch = Batch { images: View::Cpu(&pixels), masks: &masks };
        let (loss, gradients, _) = loss_gradients_and_bytes(&model, batch);
        let (again, gradients_again, _) = loss_gradients_and_bytes(&Jepa { recompute: true, ..model }, batch);
        prop_assert_eq!(loss, again);
        prop_assert!(gradients.iter().any(|g| *g != 0));
        prop_assert_eq!(gradients, gradients_again);
    }
}

#[test]
fn recomputing_blocks_takes_a_third_of_the_memory_of_eight_blocks_or_less() {
    let encoder = VitConfig { image: (32, 32), patch: 4, channels: 3, width: 96, depth: 8, heads: 3, hidden: 384 };
    let model = Jepa::new(encoder, PredictorConfig { width: 48, depth: 8 });
    let set = |first: u32, per_image: u32| IndexSet {
        per_image: per_image as usize,
        indices: (0..8).flat_map(|_| first..first + per_image).collect(),
    };
    let masks = Masks { batch: 8, context: vec![set(0, 32)], targets: vec![set(32, 12), set(50, 12)] };
    let pixels = vec![0.5; 8 * 3 * 32 * 32];
    let batch = Batch { images: View::Cpu(&pixels), masks: &masks };
    let (_, _, kept) = loss_gradients_and_bytes(&model, batch);
    let (_, _, recomputed) = loss_gradients_and_bytes(&Jepa { recompute: true, ..model }, batch);
    assert!(3 * recomputed <= kept, "{recomputed} bytes against {kept}");
}

#[test]
fn parts_of_a_batch_with_their_shares_add_up_to_its_gradient() {
    let (model, masks, images, pool) = (model(), masks(), images(), Pool::new());
    let state = model.init(3, 0.2);
    let gradients = |rows: std::ops::Range<usize>, share: f32, (grads, add): (&mut Buf, bool)| {
        let of = |sets: &[IndexSet]| -> Vec<IndexSet> {
            let part = |set: &IndexSet| set.indices[rows.start * set.per_image..rows.end * set.per_image].to_vec();
            sets.iter().map(|set| IndexSet { per_image: set.per_image, indices: part(set) }).collect()
        };
        let masks = Masks { batch: rows.len(), context: of(&masks.context), targets: of(&masks.targets) };
        let image = images.len() / IMAGES;
        let batch = Batch { images: View::Cpu(&images[rows.start * image..rows.end * image]), masks: &masks };
        let targets = model.targets(&pool, state.target.view(), batch);
        model.loss_and_gradients(&pool, (&state.params, grads, add), batch, &targets, share, |_, _| {}).to_vec()[0]
            * share
    };
    // What is there before the first part does not count, wherever no parameter lies.
    let [mut whole, mut parts] = [(); 2].map(|()| Buf::from_slice(&vec![f32::NAN; model.layout.len]));
    let loss = gradients(0..3, 1.0, (&mut whole, false));
    let sum = gradients(0..2, 2.0 / 3.0, (&mut parts, false)) + gradients(2..3, 1.0 / 3.0, (&mut parts, true));
    assert!((sum / loss - 1.0).abs() < 1e-5, "{sum} {loss}");
    let largest = whole.as_slice().iter().fold(0.0f32, |most, g| most.max(g.abs()));
    for (part, whole) in parts.as_slice().iter().zip(whole.as_slice()) {
        assert!((part - whole).abs() < 1e-5 * largest, "{part} {whole}");
    }
}

#[test]
fn what_is_said_to_be_complete_on_the_way_back_does_not_change_any_more() {
    let (masks, images, pool) = (masks(), images(), Pool::new());
    let batch = Batch { images: View::Cpu(&images), masks: &masks };
    for recompute in [false, true] {
        let model = Jepa { recompute, ..model() };
        let state = model.init(3, 0.2);
        let targets = model.targets(&pool, state.target.view(), batch);
        let mut grads = Buf::zeros(model.layout.len);
        let mut seen: Vec<(usize, Vec<f32>)> = Vec::new();
        let look = |grads: ijepa_tensor::ViewMut, from: usize| seen.push((from, grads.cpu()[from..].to_vec()));
        let _loss = model.loss_and_gradients(&pool, (&state.params, &mut grads, false), batch, &targets, 1.0, look);
        assert!(seen.windows(2).all(|pair| pair[0].0 > pair[1].0), "it goes towards the beginning");
        assert_eq!(seen.last().expect("it was told").0, 0, "in the end all are complete");
        // At least a place for each block, and one within the first tenth of the way.
        assert!(seen.len() > model.encoder.config.depth + model.predictor.config.depth, "{} places", seen.len());
        assert!(seen[0].0 > 9 * model.layout.len / 10, "the first is {} of {}", seen[0].0, model.layout.len);
        for (from, values) in &seen {
            assert!(grads.as_slice()[*from..] == values[..], "gradients from {from} on have changed");
        }
    }
}

#[test]
fn a_step_in_parts_has_the_bits_of_a_step_at_once() {
    let model = model();
    let schedule = Schedule {
        warmup_steps: 2,
        cosine_steps: 9,
        ema_steps: 9.0,
        start_lr: 0.1,
        lr: 0.2,
        final_lr: 0.0,
        weight_decay: 0.1,
        final_weight_decay: 0.4,
        ema: (0.9, 1.0),
    };
    let (mut once, mut moved) = (model.init(3, 0.2), model.init(3, 0.2));
    let len = model.layout.len;
    // Two ranks: each moves some parts, and has their moments alone.
    let cuts = [0, len / 3, len / 2, 3 * len / 4, len];
    let part = |number: usize| cuts[number]..cuts[number + 1];
    let ranks = [[part(0), part(2)], [part(1), part(3)]];
    let zeros = || ranks.each_ref().map(|parts| Buf::zeros(parts.iter().map(std::ops::Range::len).sum()));
    let mut moments = [zeros(), zeros()];
    for step in 0..4 {
        let values: Vec<f32> = (0..len).map(|i| ((i * 31 + step * 7) % 89) as f32 / 44.0 - 1.0).collect();
        let grads = Buf::from_slice(&values);
        optimiser::step(&model, &mut once, &grads, &schedule);
        for (rank, parts) in ranks.iter().enumerate() {
            let [first, second] = &mut moments;
            let mut swap = |state: &mut ijepa_model::jepa::State| {
                std::mem::swap(&mut state.exp_avg, &mut first[rank]);
                std::mem::swap(&mut state.exp_avg_sq, &mut second[rank]);
            };
            swap(&mut moved);
            optimiser::move_parts(&model, &mut moved, &grads, &schedule, parts);
            swap(&mut moved);
        }
        for number in 0..4 {
            optimiser::follow(&model, (&moved.params, &mut moved.target), &schedule, moved.step, part(number));
        }
        moved.step += 1;
    }
    assert_eq!(once.step, moved.step);
    assert_eq!(once.params.as_slice(), moved.params.as_slice());
    assert_eq!(once.target.as_slice(), moved.target.as_slice());
    for (once, moments) in [&once.exp_avg, &once.exp_avg_sq].into_iter().zip(&moments) {
        for (parts, moments) in ranks.iter().zip(moments) {
            let own: Vec<f32> = parts.iter().flat_map(|part| &once.as_slice()[part.clone()]).copied().collect();
            assert_eq!(own, moments.as_slice());
        }
    }
}
