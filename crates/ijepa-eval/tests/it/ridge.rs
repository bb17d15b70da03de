//! Least squares: closed forms, primal and kernel agree, noise stays noise.

use crate::{clouds, tiny};
use ijepa_eval::ridge::{Ridge, classify, regress, squared_error};
use ijepa_eval::{EvalError, Features};

fn single(lambda: f64) -> Ridge {
    Ridge { lambdas: vec![lambda], seed: 0 }
}

#[test]
fn one_column_gives_the_shrunken_slope() {
    // x̃ = ±1, y = 5 ± 2: the slope is 2 n / (n + n λ).
    let train = tiny(&[10.0, 30.0, 10.0, 30.0], 1, &[]);
    let fit = regress(&train, &[3.0, 7.0, 3.0, 7.0], 1, &single(0.25)).expect("valid");
    assert!((fit.model.weights[0] - 2.0 / 1.25).abs() < 1e-6);
    assert!((fit.model.bias[0] - 5.0).abs() < 1e-6);
    assert!((fit.model.scores(&tiny(&[20.0], 1, &[])).expect("valid")[0] - 5.0).abs() < 1e-6);
}

#[test]
fn normal_and_kernel_equations_have_the_same_solution() {
    // A column that repeats another changes nothing but the side that is shorter: both carry half the weight at half the penalty.
    let narrow = clouds(30, 20, 3, 0.5, 1);
    let doubled = |features: &Features| {
        let values = features.values.chunks(20).flat_map(|row| [row, row].concat()).collect();
        Features { width: 40, values, ..features.clone() }
    };
    let queries = clouds(40, 20, 3, 0.5, 2);
    let targets: Vec<f32> = (0..30).map(|row| (row % 7) as f32).collect();
    let primal = regress(&narrow, &targets, 1, &single(0.05)).expect("valid").model.scores(&queries).expect("valid");
    let kernel = regress(&doubled(&narrow), &targets, 1, &single(0.1)).expect("valid");
    let kernel = kernel.model.scores(&doubled(&queries)).expect("valid");
    for (primal, kernel) in primal.iter().zip(&kernel) {
        assert!((primal - kernel).abs() < 1e-3, "{primal} {kernel}");
    }
}

#[test]
fn a_linear_rule_is_found_and_its_small_penalty_chosen() {
    let train = clouds(400, 6, 2, 1.0, 3);
    let rule = |features: &Features| -> Vec<f32> {
        features.values.chunks(6).flat_map(|x| [2.0 * x[0] - x[3] + 1.0, 0.5 * x[5]]).collect() // (n, 2)
    };
    let fit = regress(&train, &rule(&train), 2, &Ridge::standard(1)).expect("valid");
    assert_eq!(fit.lambda, 1e-4);
    let queries = clouds(100, 6, 2, 1.0, 4);
    let error = squared_error(&fit.model.scores(&queries).expect("valid"), &rule(&queries), 2).expect("valid");
    assert!(error.value < 1e-3, "{error:?}");
}

#[test]
fn clouds_are_told_apart_from_few_and_from_many_rows() {
    for (rows, width) in [(300, 20), (60, 90)] {
        let judged = classify(&clouds(rows, width, 4, 4.0, 1), &clouds(200, width, 4, 4.0, 2), &Ridge::standard(0));
        assert_eq!(judged.expect("valid").accuracy.value, 1.0, "{rows} rows");
    }
}

#[test]
fn noise_stays_at_chance() {
    let judged =
        classify(&clouds(1000, 30, 4, 0.0, 1), &clouds(4000, 30, 4, 0.0, 2), &Ridge::standard(0)).expect("valid");
    assert!((judged.accuracy.value - 0.25).abs() < 5.0 * 0.0069, "{:?}", judged.accuracy);
}

#[test]
fn what_cannot_be_used_is_named() {
    let train = clouds(20, 3, 2, 1.0, 1);
    assert!(matches!(
        regress(&train, &[0.0; 19], 1, &single(1.0)),
        Err(EvalError::Length { expected: 20, got: 19, .. })
    ));
    let mut targets = [0.0; 20];
    targets[11] = f32::INFINITY;
    let error = regress(&train, &targets, 1, &single(1.0)).expect_err("infinite");
    assert!(matches!(error, EvalError::NotFinite { what: "targets", row: 11, .. }), "{error}");
    let none = Ridge { lambdas: vec![], seed: 0 };
    assert!(matches!(classify(&train, &train, &none), Err(EvalError::Setting { .. })));
    let few = clouds(6, 3, 2, 1.0, 1);
    assert_eq!(classify(&few, &train, &Ridge::standard(0)), Err(EvalError::TooFewRows { rows: 6, needed: 10 }));
    assert!(classify(&few, &train, &single(1.0)).is_ok(), "a single penalty needs no held-out rows");
}
