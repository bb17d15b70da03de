//! Many heads at once: each is the plain statement of one, PyTorch's step for step, and alone or in company the same.

mod goldens;
mod plain;

use crate::{Draws, clouds};
use ijepa_eval::heads::{Head, HeadConfig, Optimiser, Recipe, Schedule, Set, Sweep, Trainer, choose, evaluate, train};
use ijepa_eval::{EvalError, Features};
use plain::{Plain, statistics};
use proptest::prelude::*;

const SGD: Optimiser = Optimiser::Sgd { nesterov: true, decay_norm: false };

fn config(set: usize, norm: bool, rate: f64, decay: f64) -> HeadConfig {
    HeadConfig { set, norm, rate, decay }
}

fn sweep(heads: Vec<HeadConfig>, optimiser: Optimiser) -> Sweep {
    Sweep { heads, optimiser, schedule: Schedule::cosine(0.1), epochs: 4, batch: 64, seed: 1 }
}

/// A head far from where heads begin.
fn moved(like: &Head, draws: &mut Draws) -> Head {
    let mut list =
        |values: &[f32], around: f64, by: f64| values.iter().map(|_| (around + by * draws.bell()) as f32).collect();
    Head {
        weights: list(&like.weights, 0.0, 0.3),
        bias: list(&like.bias, 0.0, 0.3),
        scale: list(&like.scale, 1.0, 0.3),
        shift: list(&like.shift, 0.0, 0.3),
    }
}

fn double(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[test]
fn the_plain_gradient_is_the_derivative_of_the_loss() {
    let features = clouds(30, 4, 3, 0.5, 7);
    let batch = double(&features.values);
    for affine in [4, 0] {
        let like =
            Head { weights: vec![0.0; 12], bias: vec![0.0; 3], scale: vec![0.0; affine], shift: vec![0.0; affine] };
        let mut plain = Plain::of(&moved(&like, &mut Draws(3)));
        let mut gradients = plain.loss(&batch, &features.labels).1;
        for which in 0..4 {
            for at in 0..plain.lists()[which].len() {
                let mut at_offset = |offset: f64| {
                    plain.lists()[which][at] += offset;
                    let loss = plain.loss(&batch, &features.labels).0;
                    plain.lists()[which][at] -= offset;
                    loss
                };
                let numeric = (at_offset(1e-5) - at_offset(-1e-5)) / 2e-5;
                let stated = gradients.lists()[which][at];
                assert!((numeric - stated).abs() < 1e-8, "list {which}, place {at}: {numeric} {stated}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn every_head_is_the_plain_head(
        seed: u64, width in 1usize..20, other in 1usize..9, classes in 2u32..12, rows in 2usize..60, which in 0usize..4
    ) {
        let optimiser = [
            Optimiser::Sgd { nesterov: true, decay_norm: true },
            Optimiser::Sgd { nesterov: false, decay_norm: true },
            SGD,
            Optimiser::Lars { trust: 0.01 },
        ][which];
        let configs = [
            config(0, true, 0.5, 0.01), config(1, false, 0.3, 0.0), config(0, false, 0.2, 0.02), config(1, true, 0.9, 0.0),
            config(0, true, 0.1, 0.0), config(0, false, 0.4, 0.0),
        ];
        let sweep = sweep(configs.to_vec(), optimiser);
        let mut trainer = Trainer::new(&sweep, &[width, other], classes as usize, 3).expect("valid");
        let mut draws = Draws(seed);
        let mut plain: Vec<(Plain, Plain)> = (0..configs.len()).map(|head| {
            let start = moved(trainer.head(head), &mut draws);
            trainer.set_head(head, start.clone());
            let start = Plain::of(&start);
            (start.clone(), start.zeros())
        }).collect();
        for step in 0..6 {
            let labels: Vec<u32> = (0..rows).map(|_| (draws.uniform() * f64::from(classes)) as u32).collect();
            // Small enough that plain heads settle at these rates.
            let small = |values: &[f32]| values.iter().map(|value| 0.1 * value).collect::<Vec<f32>>();
            let sets = [width, other].map(|width| small(&clouds(rows, width, 2, 0.3, seed ^ step as u64).values));
            let losses = trainer.step(&[&sets[0], &sets[1]], &labels, step).expect("valid");
            for (head, (plain, momenta)) in plain.iter_mut().enumerate() {
                let HeadConfig { set, rate, decay, .. } = configs[head];
                let rate = rate * 0.25 * sweep.schedule.share(step, 3, sweep.epochs);
                let loss = plain.step(momenta, &double(&sets[set]), &labels, (optimiser, rate, decay));
                prop_assert!((losses[head] - loss).abs() < 1e-4 * (1.0 + loss), "step {}, head {}: {} {}", step, head, losses[head], loss);
            }
        }
        for (head, (plain, _)) in plain.iter_mut().enumerate() {
            let own = Plain::of(trainer.head(head)).lists().map(|list| list.clone());
            for (got, expected) in own.iter().zip(plain.lists()) {
                let largest = expected.iter().fold(0.0f64, |top, value| top.max(value.abs()));
                for (got, expected) in got.iter().zip(expected.iter()) {
                    prop_assert!((got - expected).abs() < 1e-4 * (1.0 + largest), "head {}: {} {}", head, got, expected);
                }
            }
        }
    }
}

#[test]
fn judging_uses_running_statistics_of_the_batches() {
    let sweep = sweep(vec![config(0, true, 0.1, 0.0)], SGD);
    let mut trainer = Trainer::new(&sweep, &[3], 2, 5).expect("valid");
    let (mut mean, mut variance) = (vec![0.0; 3], vec![1.0; 3]);
    for step in 0..5 {
        let batch = clouds(20, 3, 2, 1.0, step as u64);
        trainer.step(&[&batch.values], &batch.labels, step).expect("valid");
        let (own_mean, own_variance) = statistics(&double(&batch.values), 3);
        for j in 0..3 {
            mean[j] += 0.1 * (own_mean[j] - mean[j]);
            variance[j] += 0.1 * (own_variance[j] * 20.0 / 19.0 - variance[j]);
        }
    }
    let (got_mean, got_variance) = trainer.running(0).expect("a head with BatchNorm");
    for j in 0..3 {
        assert!((f64::from(got_mean[j]) - mean[j]).abs() < 1e-5, "{got_mean:?} {mean:?}");
        assert!((f64::from(got_variance[j]) - variance[j]).abs() < 1e-4, "{got_variance:?} {variance:?}");
    }
    let queries = clouds(40, 3, 2, 1.0, 9);
    let Head { weights, bias, scale, shift } = trainer.head(0);
    let scores = trainer.model(0).scores(&queries).expect("valid");
    for (row, scores) in queries.values.chunks(3).zip(scores.chunks(2)) {
        for c in 0..2 {
            let input = |j: usize| {
                let normal = (f64::from(row[j]) - mean[j]) / (variance[j] + 1e-5).sqrt();
                normal * f64::from(scale[j]) + f64::from(shift[j])
            };
            let score = f64::from(bias[c]) + (0..3).map(|j| f64::from(weights[c * 3 + j]) * input(j)).sum::<f64>();
            assert!((f64::from(scores[c]) - score).abs() < 1e-4, "{} {score}", scores[c]);
        }
    }
}

#[test]
fn a_head_in_company_is_the_head_alone_to_the_bit() {
    let (last, four) = (clouds(300, 24, 5, 0.5, 1), clouds(300, 40, 5, 0.5, 2));
    let heads: Vec<HeadConfig> = (0..10)
        .map(|at| config(at % 2, at % 3 == 0, 0.05 * (at + 1) as f64, if at % 4 == 0 { 5e-4 } else { 0.0 }))
        .collect();
    let company = train(&[&last, &four], &sweep(heads.clone(), SGD), |_, _| ()).expect("valid");
    let predictions = company.predict(&[&last, &four]).expect("valid");
    for (at, &head) in heads.iter().enumerate() {
        let alone = train(&[&last, &four], &sweep(vec![head], SGD), |_, _| ()).expect("valid");
        assert_eq!(alone.head(0), company.head(at), "{head:?}");
        assert_eq!(alone.predict(&[&last, &four]).expect("valid")[0], predictions[at], "{head:?}");
    }
}

#[test]
fn separable_clouds_are_told_apart_by_the_standard_recipe() {
    let (train, queries) = (clouds(300, 24, 5, 3.0, 1), clouds(200, 24, 5, 3.0, 2));
    let recipe = Recipe { epochs: 20, ..Recipe::standard() };
    let judged = evaluate(&[&train], &[&queries], &recipe.sweep(1, 0), |_, _| ()).expect("valid");
    assert_eq!(judged.len(), 12);
    let best = judged.iter().map(|judged| judged.accuracy.value).fold(0.0, f64::max);
    assert!(best > 0.99, "{best}");
}

#[test]
fn noise_stays_at_chance() {
    let (train, queries) = (clouds(800, 24, 4, 0.0, 1), clouds(4000, 24, 4, 0.0, 2));
    let heads = vec![config(0, true, 0.1, 0.0), config(0, false, 0.01, 0.0)];
    for judged in evaluate(&[&train], &[&queries], &sweep(heads, SGD), |_, _| ()).expect("valid") {
        assert!((judged.accuracy.value - 0.25).abs() < 5.0 * 0.0069, "{:?}", judged.accuracy);
    }
}

#[test]
fn a_rate_that_is_too_large_ruins_its_own_head_alone() {
    let train = clouds(200, 12, 3, 1.0, 1);
    let good = config(0, false, 0.1, 0.0);
    let both =
        evaluate(&[&train], &[&train], &sweep(vec![config(0, false, 1e30, 0.1), good], SGD), |_, _| ()).expect("valid");
    assert!(!both[0].loss.is_finite(), "{}", both[0].loss);
    let alone = evaluate(&[&train], &[&train], &sweep(vec![good], SGD), |_, _| ()).expect("valid");
    assert_eq!(both[1], alone[0]);
}

#[test]
fn every_row_is_seen_once_an_epoch_and_losses_fall() {
    let train_set = clouds(130, 12, 3, 1.5, 1);
    let mut losses = Vec::new();
    train(&[&train_set], &sweep(vec![config(0, true, 0.2, 0.0)], SGD), |epoch, found| {
        assert_eq!(epoch, losses.len());
        losses.push(found[0]);
    })
    .expect("valid");
    assert_eq!(losses.len(), 4);
    assert!(losses[0] > losses[3] && losses[0] < 3.0, "{losses:?}");
}

#[test]
fn the_recipe_of_imagenet_is_that_of_sixteen_heads() {
    let sweep = Recipe::imagenet().sweep(2, 0);
    assert_eq!(sweep.heads.len(), 16);
    let scaled: Vec<f64> = sweep.heads.iter().map(|head| head.rate * sweep.batch as f64 / 256.0).collect();
    assert!(scaled.iter().all(|rate| (rate - 6.4).abs() < 1e-9 || (rate - 0.64).abs() < 1e-9), "{scaled:?}");
    assert!((sweep.schedule.share(30 * 78, 78, 50) - 0.01).abs() < 1e-12);
    let mut names: Vec<&str> = Recipe::all().iter().map(|recipe| recipe.name).collect();
    names.dedup();
    assert_eq!(names.len(), 7);
}

#[test]
fn what_cannot_be_used_is_named() {
    let (train_set, other) = (clouds(40, 3, 2, 1.0, 1), clouds(30, 5, 2, 1.0, 1));
    let heads = vec![config(0, true, 0.1, 0.0)];
    let run = |sets: &[&Features], sweep: &Sweep| train(sets, sweep, |_, _| ()).err();
    assert!(matches!(run(&[], &sweep(heads.clone(), SGD)), Some(EvalError::Setting { .. })));
    assert_eq!(
        run(&[&train_set, &other], &sweep(heads.clone(), SGD)),
        Some(EvalError::Length { what: "rows of a set of features", expected: 40, got: 30 })
    );
    for head in [config(1, true, 0.1, 0.0), config(0, true, f64::NAN, 0.0), config(0, true, 0.1, -1.0)] {
        assert!(matches!(run(&[&train_set], &sweep(vec![head], SGD)), Some(EvalError::Setting { .. })), "{head:?}");
    }
    let settings = [
        Sweep { epochs: 0, ..sweep(heads.clone(), SGD) },
        Sweep { batch: 1, ..sweep(heads.clone(), SGD) },
        Sweep { schedule: Schedule { warmup: 4.0, ..Schedule::cosine(0.0) }, ..sweep(heads.clone(), SGD) },
        sweep(heads.clone(), Optimiser::Lars { trust: 0.0 }),
        sweep(vec![], SGD),
    ];
    for sweep in settings {
        assert!(matches!(run(&[&train_set], &sweep), Some(EvalError::Setting { .. })), "{sweep:?}");
    }
    let mut trainer = Trainer::new(&sweep(heads, SGD), &[3], 2, 1).expect("valid");
    assert!(matches!(
        trainer.step(&[&[0.0; 6]], &[0, 2], 0),
        Err(EvalError::Setting { setting: "label of a batch", .. })
    ));
    assert!(matches!(trainer.step(&[&[0.0; 3]], &[0], 0), Err(EvalError::Setting { setting: "rows of a batch", .. })));
    assert!(matches!(trainer.step(&[&[0.0; 5]], &[0, 1], 0), Err(EvalError::Values { .. })));
    assert!(matches!(trainer.step(&[&[f32::NAN; 6]], &[0, 1], 0), Err(EvalError::NotFinite { row: 0, .. })));
    assert!(matches!(trainer.step(&[], &[0, 1], 0), Err(EvalError::Length { .. })));
    assert_eq!(trainer.predict(&[&other]).err(), Some(EvalError::Width { train: 3, queries: 5 }));
}

#[test]
fn a_part_of_the_columns_is_a_set_of_its_own() {
    let (train_set, queries) = (clouds(120, 10, 3, 1.0, 1), clouds(50, 10, 3, 1.0, 2));
    let cut = |features: &Features| Features {
        width: 4,
        values: features.values.chunks(10).flat_map(|row| row[6..].to_vec()).collect(),
        ..features.clone()
    };
    let sets = |features| [Set::from(features), Set { features, columns: 6..10 }];
    let (train_cut, queries_cut) = (cut(&train_set), cut(&queries));
    let heads = vec![config(0, true, 0.1, 0.0), config(1, true, 0.1, 0.0), config(1, false, 0.2, 0.0)];
    let sweep = sweep(heads, SGD);
    let parts = evaluate(&sets(&train_set), &sets(&queries), &sweep, |_, _| ()).expect("valid");
    let copies = evaluate(&[&train_set, &train_cut], &[&queries, &queries_cut], &sweep, |_, _| ()).expect("valid");
    assert_eq!(parts, copies);
    let beyond = [Set { features: &train_set, columns: 6..11 }];
    assert!(matches!(train(&beyond, &sweep, |_, _| ()), Err(EvalError::Setting { .. })));
}

#[test]
fn the_head_is_chosen_on_rows_that_were_held_out_and_then_trained_on_all() {
    let (train_set, queries) = (clouds(400, 8, 4, 1.0, 1), clouds(300, 8, 4, 1.0, 2));
    // One that hardly moves, a good one, one that leaves the numbers.
    let heads = vec![config(0, true, 1e-6, 0.0), config(0, true, 0.5, 0.0), config(0, false, 1e30, 0.1)];
    let sweep = sweep(heads.clone(), SGD);
    let mut epochs = Vec::new();
    let chosen =
        choose(&[&train_set], &[&queries], &sweep, |epoch, losses| epochs.push((epoch, losses.len()))).expect("valid");
    assert_eq!(chosen.best, 1);
    assert_eq!(epochs, [(0, 3), (1, 3), (2, 3), (3, 3), (4, 1), (5, 1), (6, 1), (7, 1)]);
    assert!(chosen.trials.iter().all(|trial| trial.predictions.len() == 40));
    let alone = Sweep { heads: vec![heads[1]], ..sweep };
    assert_eq!(chosen.judged, evaluate(&[&train_set], &[&queries], &alone, |_, _| ()).expect("valid")[0]);
    // Labels of the queries decide nothing.
    let other = Features { labels: vec![0; 300], ..queries.clone() };
    assert_eq!(
        choose(&[&train_set], &[&other], &alone, |_, _| ()).expect("valid").judged.predictions,
        chosen.judged.predictions
    );
}
