//! The step against simpler ways to the same numbers, on a grid that is not square and with two context masks.

use ijepa_data::{IndexSet, Masks};
use ijepa_model::jepa::Batch;
use ijepa_model::vit::{Patches, all_patches};
use ijepa_model::{Jepa, PredictorConfig, VitConfig};
use ijepa_tensor::{Buf, Index, Pool, Tape, View};

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
    model.loss_and_gradients(&pool, &state.params, &mut grads, batch, &targets);

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
        f64::from(model.loss_and_gradients(&pool, &state.params, &mut unused, batch, &targets))
    };
    let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    assert!((slope / square - 1.0).abs() < 1e-2, "slope {slope}, squared norm of the gradient {square}");
}

#[test]
fn after_three_steps_of_a_shape_no_buffer_is_allocated() {
    let (model, masks, images, pool) = (model(), masks(), images(), Pool::new());
    let state = model.init(3, 0.2);
    let mut grads = Buf::zeros(model.layout.len);
    let mut step = || {
        let batch = Batch { images: View::Cpu(&images), masks: &masks };
        let targets = model.targets(&pool, state.target.view(), batch);
        model.loss_and_gradients(&pool, &state.params, &mut grads, batch, &targets);
        drop(targets);
        pool.allocations()
    };
    let third = (0..3).map(|_| step()).last().expect("three steps");
    assert!(third > 0);
    for _ in 0..5 {
        assert_eq!(step(), third);
    }
}
