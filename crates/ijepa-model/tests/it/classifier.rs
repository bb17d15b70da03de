//! The classifier: its gradient, what dropped branches and parts of a batch change, and what its files hold.

use ijepa_model::checkpoint::{Meta, Network, Reader};
use ijepa_model::classifier::{Batch, DropPath, HEAD_STD, Rates, State};
use ijepa_model::saved;
use ijepa_model::{Classifier, VitConfig};
use ijepa_tensor::{Buf, Pool, Tape, View};

const IMAGES: usize = 6;
const CLASSES: usize = 3;

fn model() -> Classifier {
    // 2 × 4 patches
    let config = VitConfig { image: (8, 16), patch: 4, channels: 3, width: 24, depth: 3, heads: 2, hidden: 96 };
    Classifier::new(config, CLASSES)
}

fn images() -> Vec<f32> {
    (0..IMAGES * 3 * 8 * 16).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect()
}

/// Soft targets of uneven weight; the second image has none.
fn targets() -> Vec<f32> {
    (0..IMAGES * CLASSES).map(|i| if i / CLASSES == 1 { 0.0 } else { (i * 7 % 5) as f32 / 30.0 }).collect()
}

fn drop_path(rate: f64) -> DropPath {
    DropPath { rate, seed: 4, step: 9, first: 0 }
}

/// Weights far from zero, so that no part of the network is idle.
fn weights(model: &Classifier) -> Buf {
    model.layout.init(3, 0.2)
}

fn gradient(model: &Classifier, params: &Buf, rate: f64, at_once: usize) -> (f64, Buf) {
    let mut grads = Buf::zeros(model.layout.len);
    let (images, targets) = (images(), targets());
    let batch = Batch { images: View::Cpu(&images), targets: &targets };
    let loss = model.loss_and_gradients(&Pool::new(), (params, &mut grads, false), batch, drop_path(rate), at_once);
    (loss, grads)
}

#[test]
fn the_gradient_is_the_slope_of_the_loss_with_and_without_dropped_branches() {
    let model = model();
    for rate in [0.0, 0.5] {
        let mut params = weights(&model);
        let (_, grads) = gradient(&model, &params, rate, IMAGES);
        let square: f64 = grads.as_slice().iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        let step = 1e-2 / square.sqrt();
        let start = params.clone();
        let mut loss_at = |distance: f64| {
            for ((param, start), grad) in params.as_mut_slice().iter_mut().zip(start.as_slice()).zip(grads.as_slice()) {
                *param = (f64::from(*start) + distance * f64::from(*grad)) as f32;
            }
            gradient(&model, &params, rate, IMAGES).0
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        assert!((slope / square - 1.0).abs() < 1e-2, "drop path {rate}: slope {slope}, squared norm {square}");
    }
}

#[test]
fn a_batch_in_parts_gives_the_gradient_of_the_whole() {
    let model = model();
    let params = weights(&model);
    for rate in [0.0, 0.5] {
        let (loss, whole) = gradient(&model, &params, rate, IMAGES);
        let (same, parts) = gradient(&model, &params, rate, 4);
        assert!((loss - same).abs() < 1e-6 * loss.abs());
        let size = whole.as_slice().iter().fold(0.0f32, |size, g| size.max(g.abs()));
        let worst = whole.as_slice().iter().zip(parts.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5 * size, "drop path {rate}: {worst:e} of {size:e}");
    }
}

#[test]
fn an_image_without_weight_changes_nothing() {
    let model = model();
    let params = weights(&model);
    let (loss, grads) = gradient(&model, &params, 0.0, 1);
    let (mut others, mut kept) = (images(), targets());
    let len = others.len() / IMAGES;
    others.drain(len..2 * len);
    kept.drain(CLASSES..2 * CLASSES);
    let mut without = Buf::zeros(model.layout.len);
    let batch = Batch { images: View::Cpu(&others), targets: &kept };
    let same = model.loss_and_gradients(&Pool::new(), (&params, &mut without, false), batch, drop_path(0.0), 1);
    assert_eq!((loss, grads.as_slice()), (same, without.as_slice()));
}

#[test]
fn scales_of_one_are_the_network_without_them() {
    let model = model();
    let (params, pool, images) = (weights(&model), Pool::new(), images());
    let scores = |rate| {
        let mut tape = Tape::inference(&pool, params.view());
        let scales = drop_path(rate).scales(3, IMAGES);
        model.scores(&mut tape, View::Cpu(&images), IMAGES, Some(&scales)).as_slice().to_vec()
    };
    let mut tape = Tape::inference(&pool, params.view());
    let plain = model.scores(&mut tape, View::Cpu(&images), IMAGES, None).as_slice().to_vec();
    let size = plain.iter().fold(0.0f32, |size, s| size.max(s.abs()));
    assert!(scores(0.0).iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5 * size));
    assert!(scores(0.6).iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-2 * size));
}

fn stepped(model: &Classifier, average: bool) -> State {
    let encoder = Buf::from_slice(&weights(model).as_slice()[..model.encoder_len]);
    let mut state = model.begin(&encoder, 5, average);
    let rates = Rates { learning_rate: 1e-2, weight_decay: 0.05, layer_decay: 0.75, momentum: 0.9 };
    for _ in 0..2 {
        let (_, grads) = gradient(model, &state.params, 0.0, IMAGES);
        model.step(&mut state, &grads, rates);
    }
    state
}

#[test]
fn a_fresh_head_knows_nothing_and_the_encoder_is_as_it_was() {
    let model = model();
    let encoder = Buf::from_slice(&weights(&model).as_slice()[..model.encoder_len]);
    let state = model.begin(&encoder, 5, false);
    assert_eq!(state.params.as_slice()[..model.encoder_len], *encoder.as_slice());
    let head = &state.params.as_slice()[model.encoder_len..];
    assert!(head.iter().any(|&w| w != 0.0) && head.iter().all(|w| w.abs() < 6.0 * HEAD_STD as f32));
    let images = images();
    let probabilities = model.probabilities(&Pool::new(), state.params.view(), View::Cpu(&images), 4);
    assert_eq!(probabilities.len(), IMAGES * CLASSES);
    assert!(probabilities.iter().all(|p| (p - 1.0 / CLASSES as f32).abs() < 1e-3), "{probabilities:?}");
}

#[test]
fn what_is_saved_is_read_again_to_the_bit() {
    let model = model();
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("latest.safetensors");
    for average in [false, true] {
        let state = stepped(&model, average);
        let meta = Meta { heads: Some(2), image: Some((8, 16)), ..Meta::default() };
        model.save(&path, &state, &meta).expect("it can be written");
        let mut file = Reader::open(&path).expect("it reads");
        assert_eq!(saved::classes(&file), Some(CLASSES));
        let again = model.restore(&mut file).expect("it fits");
        assert_eq!((again.step, again.params.as_slice()), (2, state.params.as_slice()));
        assert_eq!(again.average.as_slice(), state.average.as_slice());
        assert_eq!(
            (again.exp_avg.as_slice(), again.exp_avg_sq.as_slice()),
            (state.exp_avg.as_slice(), state.exp_avg_sq.as_slice())
        );
        let judged = model.restore_weights(&mut file).expect("it fits");
        assert_eq!(judged.as_slice(), state.judged().as_slice());

        // Other commands find the encoder that is judged.
        let network = if average { Network::Target } else { Network::Context };
        let sizes = saved::encoder_sizes(&file, network.prefix(), saved::Hints::default(), saved::Hints::default());
        assert_eq!(sizes.expect("they are told"), model.encoder.config);
        let (layout, vit) = saved::encoder(model.encoder.config);
        let encoder = saved::restore_encoder((&layout, &vit), &mut file, network.prefix(), (2, 4)).expect("it fits");
        assert_eq!(*encoder.as_slice(), state.judged().as_slice()[..model.encoder_len]);
    }
}

#[test]
fn after_three_steps_of_a_shape_no_buffer_is_allocated() {
    let model = model();
    let (params, pool) = (weights(&model), Pool::new());
    let mut grads = Buf::zeros(model.layout.len);
    let (images, targets) = (images(), targets());
    let mut step = || {
        let batch = Batch { images: View::Cpu(&images), targets: &targets };
        model.loss_and_gradients(&pool, (&params, &mut grads, false), batch, drop_path(0.5), 4);
        pool.allocations()
    };
    let third = (0..3).map(|_| step()).last().expect("three steps");
    assert!(third > 0);
    assert_eq!((step(), step()), (third, third));
}
