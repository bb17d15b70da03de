//! The logistic probe: right where the answer is known, equal to scikit-learn, honest about noise.

use crate::{clouds, tiny};
use ijepa_eval::linear::{Logistic, evaluate, fit};
use ijepa_eval::metrics::{difference, top_k};
use ijepa_eval::{EvalError, Features};
use proptest::prelude::*;

fn single(lambda: f64) -> Logistic {
    Logistic { lambdas: vec![lambda], tolerance: 1e-10, ..Logistic::standard(0) }
}

#[test]
fn two_symmetric_points_have_the_known_solution() {
    // x̃ = ±1 with classes 1 and 0. By symmetry the weights are ∓w and the score gap at x̃ = 1 is 2w, so that
    // λ w = 1 − σ(2w) for each class. Take w = 1: λ = 1 − σ(2).
    let lambda = 1.0 - 1.0 / (1.0 + (-2.0f64).exp());
    let train = tiny(&[3.0, 5.0, 3.0, 5.0], 1, &[0, 1, 0, 1]);
    let fit = fit(&train, &single(lambda)).expect("valid");
    assert!((fit.model.weights[1] - 1.0).abs() < 1e-4, "{:?}", fit.model.weights);
    assert!((fit.model.weights[0] + 1.0).abs() < 1e-4, "{:?}", fit.model.weights);
    let expected = (1.0 + (-2.0f64).exp()).ln() + lambda;
    assert!((fit.loss - expected).abs() < 1e-6, "{} {expected}", fit.loss);
}

#[test]
fn without_information_the_biases_learn_the_class_frequencies() {
    // A constant column becomes zero: only the biases are left, whatever the penalty.
    let train = tiny(&[4.2; 10], 1, &[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]);
    let fit = fit(&train, &single(10.0)).expect("valid");
    assert_eq!(fit.model.weights, [0.0; 3]);
    let entropy = -(0.5f64 * 0.5f64.ln() + 0.3 * 0.3f64.ln() + 0.2 * 0.2f64.ln());
    assert!((fit.loss - entropy).abs() < 1e-6, "{}", fit.loss);
    assert_eq!(fit.model.predict(&tiny(&[9.0], 1, &[])).expect("valid"), [0]);
}

#[test]
fn losses_and_weights_agree_with_scikit_learn() {
    // From scikit-learn 1.9.1, with Draws and clouds of tests/it/main.rs written in Python:
    //   X, y = clouds(240, 5, 3, 0.6, 11); Z = StandardScaler().fit_transform(X)
    //   m = LogisticRegression(C=1 / (lam * 240), tol=1e-10, max_iter=10000).fit(Z, y)
    //   loss = log_loss(y, m.predict_proba(Z)) + lam / 2 * (m.coef_ ** 2).sum(); print(loss, m.coef_[0])
    let train = clouds(240, 5, 3, 0.6, 11);
    for (lambda, loss, first) in GOLDENS {
        let fit = fit(&train, &single(lambda)).expect("valid");
        assert!(fit.converged);
        assert!((fit.loss - loss).abs() < 1e-6, "{lambda}: {} {loss}", fit.loss);
        for (got, expected) in fit.model.weights.iter().zip(first) {
            assert!((f64::from(*got) - expected).abs() < 2e-3, "{lambda}: {:?} {first:?}", fit.model.weights);
        }
    }
}

/// λ, loss, weights of class 0.
const GOLDENS: [(f64, f64, [f64; 5]); 2] = [
    (0.1, 0.816691904, [-0.186059, 0.294403, 0.388735, -0.839620, 0.254673]),
    (0.001, 0.595259494, [-0.565679, 0.552398, 1.131869, -2.439199, 0.966159]),
];

#[test]
fn losses_and_weights_of_unit_rows_agree_with_scikit_learn() {
    // As above without StandardScaler:
    //   U = X - X.mean(1, keepdims=True); U /= norm(U, axis=1, keepdims=True)
    //   m = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-12, max_iter=100000).fit(U, y), lam = strength / 240
    let train = clouds(240, 5, 3, 0.6, 11);
    for (strength, loss, first) in UNIT_GOLDENS {
        let fit = fit(&train, &Logistic { tolerance: 1e-10, ..Logistic::msn(strength, 240) }).expect("valid");
        assert!(fit.converged);
        assert_eq!(fit.model.bias, [0.0; 3]);
        assert!((fit.loss - loss).abs() < 1e-6, "{strength}: {} {loss}", fit.loss);
        for (got, expected) in fit.model.weights.iter().zip(first) {
            assert!((f64::from(*got) - expected).abs() < 2e-3, "{strength}: {:?} {first:?}", fit.model.weights);
        }
    }
}

/// Strength, loss, weights of class 0.
const UNIT_GOLDENS: [(f64, f64, [f64; 5]); 2] = [
    (0.6, 0.664622266, [-0.875259, 0.587866, 1.710554, -2.211840, 0.788679]),
    (2.4, 0.715556360, [-0.533542, 0.449541, 1.274652, -1.820239, 0.629588]),
];

#[test]
fn unit_rows_do_not_depend_on_scale_or_offset_of_a_row() {
    let (train, queries) = (clouds(300, 8, 3, 0.7, 1), clouds(300, 8, 3, 0.7, 2));
    let moved = |features: &Features| {
        let values = features.values.chunks(8).enumerate().flat_map(|(at, row)| {
            let (scale, offset) = ((1 + at % 7) as f32, (at % 5) as f32);
            row.iter().map(move |value| scale * value + offset).collect::<Vec<f32>>()
        });
        Features { values: values.collect(), ..features.clone() }
    };
    let logistic = Logistic::msn(0.1, 300);
    let plain = evaluate(&train, &queries, &logistic).expect("valid");
    let other = evaluate(&moved(&train), &moved(&queries), &logistic).expect("valid");
    let off = difference(&plain.predictions, &other.predictions, &queries.labels).expect("valid");
    assert!(plain.fit.converged && off.value.abs() < 0.005, "{off:?}");
    assert!((plain.fit.loss - other.fit.loss).abs() < 1e-5, "{} {}", plain.fit.loss, other.fit.loss);
}

#[test]
fn separable_clouds_are_told_apart() {
    let judged =
        evaluate(&clouds(300, 24, 5, 6.0, 1), &clouds(200, 24, 5, 6.0, 2), &Logistic::standard(0)).expect("valid");
    assert_eq!(judged.accuracy.value, 1.0, "{:?}", judged.fit.trials);
}

#[test]
fn noise_stays_at_chance() {
    let queries = clouds(4000, 24, 4, 0.0, 2);
    let judged = evaluate(&clouds(800, 24, 4, 0.0, 1), &queries, &Logistic::standard(0)).expect("valid");
    assert!((judged.accuracy.value - 0.25).abs() < 5.0 * 0.0069, "{:?}", judged.accuracy);
}

#[test]
fn features_wider_than_the_exact_curvature_reach_the_same_minimum() {
    // 1,200 columns of which 1,170 are constant: the sketch is used, and the answer is that of the 30.
    let narrow = clouds(300, 30, 3, 0.3, 5);
    let values = narrow.values.chunks(30).flat_map(|row| [row, &[2.5; 1170]].concat()).collect();
    let wide = Features { width: 1200, values, ..narrow.clone() };
    let (narrow, wide) = (fit(&narrow, &single(1e-2)).expect("valid"), fit(&wide, &single(1e-2)).expect("valid"));
    assert!(wide.converged);
    assert!((narrow.loss - wide.loss).abs() < 1e-6, "{} {}", narrow.loss, wide.loss);
}

#[test]
fn unit_rows_wider_than_the_exact_curvature_converge() {
    let train = clouds(400, 1200, 3, 0.05, 5);
    let fit = fit(&train, &Logistic::msn(0.0025, 400)).expect("valid");
    assert!(fit.converged, "{} iterations, loss {}", fit.iterations, fit.loss);
}

#[test]
fn more_columns_than_rows_are_no_obstacle() {
    let (train, queries) = (clouds(60, 1300, 3, 0.6, 1), clouds(90, 1300, 3, 0.6, 2));
    let judged = evaluate(&train, &queries, &Logistic::standard(0)).expect("valid");
    assert!(judged.fit.converged);
    assert!(judged.accuracy.value > 0.9, "{:?}", judged.accuracy);
}

#[test]
fn the_penalty_is_chosen_by_held_out_rows_and_the_largest_of_equals() {
    let fit = fit(&clouds(400, 12, 3, 5.0, 1), &Logistic::standard(3)).expect("valid");
    let best = fit.trials.iter().map(|trial| trial.accuracy).fold(0.0, f64::max);
    let first = fit.trials.iter().find(|trial| trial.accuracy == best).expect("tried");
    assert_eq!(fit.lambda, first.lambda);
    assert!(fit.trials.windows(2).all(|pair| pair[0].lambda > pair[1].lambda));
}

#[test]
fn units_of_the_columns_do_not_matter() {
    let (train, queries) = (clouds(300, 8, 3, 0.7, 1), clouds(300, 8, 3, 0.7, 2));
    let rescaled = |features: &Features| {
        let values =
            features.values.iter().enumerate().map(|(at, x)| (x - 1.0) * 10f32.powi((at % 8) as i32 - 4)).collect();
        Features { values, ..features.clone() }
    };
    let plain = evaluate(&train, &queries, &Logistic::standard(0)).expect("valid");
    let scaled = evaluate(&rescaled(&train), &rescaled(&queries), &Logistic::standard(0)).expect("valid");
    let off = difference(&plain.predictions, &scaled.predictions, &queries.labels).expect("valid");
    assert!(off.value.abs() < 0.01, "{off:?}");
}

#[test]
fn scores_rank_the_classes() {
    let (train, queries) = (clouds(300, 6, 6, 1.0, 1), clouds(300, 6, 6, 1.0, 2));
    let judged = evaluate(&train, &queries, &Logistic::standard(0)).expect("valid");
    let scores = judged.fit.model.scores(&queries).expect("valid");
    let at = |k| top_k(&scores, 6, &queries.labels, k).expect("valid").value;
    assert_eq!(at(1), judged.accuracy.value);
    assert!(at(3) > at(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn no_small_change_of_the_weights_lowers_the_loss(seed: u64, classes in 2u32..5, width in 1usize..7) {
        let train = clouds(60, width, classes, 0.5, seed);
        let lambda = 0.05;
        let fit = fit(&train, &single(lambda)).expect("valid");
        prop_assert!(fit.converged);
        let loss = |fit: &ijepa_eval::linear::Fit| {
            let scores = fit.model.scores(&train).expect("valid");
            let rows = scores.chunks(classes as usize).zip(&train.labels);
            let losses = rows.map(|(scores, &label)| {
                scores.iter().map(|&score| f64::from(score - scores[label as usize]).exp()).sum::<f64>().ln()
            });
            let squares: f64 = fit.model.weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
            losses.sum::<f64>() / 60.0 + 0.5 * lambda * squares
        };
        let least = loss(&fit);
        prop_assert!((least - fit.loss).abs() < 1e-5);
        let mut draws = crate::Draws(seed);
        for _ in 0..10 {
            let mut moved = fit.clone();
            moved.model.weights.iter_mut().for_each(|weight| *weight += 0.02 * draws.bell() as f32);
            prop_assert!(loss(&moved) > least - 1e-6);
        }
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let (train, queries) = (clouds(40, 3, 2, 1.0, 1), clouds(10, 3, 2, 1.0, 2));
    let logistic = Logistic::standard(0);
    let mut broken = train.clone();
    broken.values.to_mut()[3 * 17 + 2] = f32::NEG_INFINITY;
    let error = evaluate(&broken, &queries, &logistic).expect_err("infinite");
    assert!(matches!(error, EvalError::NotFinite { what: "training features", row: 17, column: 2, .. }), "{error}");
    let one = Features { labels: vec![1; 40], ..train.clone() };
    assert_eq!(evaluate(&one, &queries, &logistic), Err(EvalError::OneClass { rows: 40, class: 1 }));
    let unlabelled = Features { labels: vec![], ..queries.clone() };
    let error = evaluate(&train, &unlabelled, &logistic).expect_err("no labels");
    assert_eq!(error, EvalError::Labels { what: "query features", rows: 10, labels: 0 });
    let wide = clouds(10, 5, 2, 1.0, 2);
    assert_eq!(evaluate(&train, &wide, &logistic), Err(EvalError::Width { train: 3, queries: 5 }));
    for lambdas in [vec![], vec![0.1, 0.0], vec![f64::NAN], vec![-1.0]] {
        let error = evaluate(&train, &queries, &Logistic { lambdas, ..logistic.clone() });
        assert!(matches!(error, Err(EvalError::Setting { .. })), "{error:?}");
    }
    assert_eq!(fit(&clouds(9, 3, 2, 1.0, 1), &logistic), Err(EvalError::TooFewRows { rows: 9, needed: 10 }));
}
