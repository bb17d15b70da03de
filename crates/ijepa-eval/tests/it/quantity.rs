//! Quantities: R² and errors where they are known, and as scikit-learn has them.

use crate::{Draws, clouds, tiny};
use ijepa_eval::quantity::evaluate;
use ijepa_eval::ridge::Ridge;
use ijepa_eval::{EvalError, Features};

fn single(lambda: f64) -> Ridge {
    Ridge { lambdas: vec![lambda], seed: 0 }
}

/// (n, 2): a rule of the columns with noise, and the same in other units.
fn targets(features: &Features, noise: f64, seed: u64) -> Vec<f32> {
    let mut draws = Draws(seed);
    let rule = |row: &[f32]| f64::from(2.0 * row[0] - row[3] + 0.5 * row[5]);
    let rows = features.values.chunks(features.width).map(|row| rule(row) + noise * draws.bell());
    rows.flat_map(|value| [value as f32, (1000.0 * value - 7.0) as f32]).collect()
}

#[test]
fn a_rule_without_noise_is_read_wholly() {
    let (train, queries) = (clouds(400, 6, 2, 1.0, 3), clouds(100, 6, 2, 1.0, 4));
    let judged =
        evaluate(&train, &targets(&train, 0.0, 1), &queries, &targets(&queries, 0.0, 2), 2, &Ridge::standard(1))
            .expect("valid");
    for quality in &judged.outputs {
        assert!(quality.r_squared.value > 0.9999, "{quality:?}");
        assert!(quality.absolute_error.value < 0.01 * quality.baseline.value, "{quality:?}");
    }
}

#[test]
fn units_scale_the_errors_and_leave_r_squared() {
    let (train, queries) = (clouds(300, 8, 2, 1.0, 3), clouds(300, 8, 2, 1.0, 4));
    let judged =
        evaluate(&train, &targets(&train, 9.0, 1), &queries, &targets(&queries, 9.0, 2), 2, &Ridge::standard(1))
            .expect("valid");
    let [first, second] = judged.outputs[..] else { panic!("{:?}", judged.outputs) };
    assert!((first.r_squared.value - second.r_squared.value).abs() < 1e-4, "{first:?} {second:?}");
    assert!((second.absolute_error.value / first.absolute_error.value - 1000.0).abs() < 0.1);
    assert!((second.baseline.value / first.baseline.value - 1000.0).abs() < 0.1);
}

#[test]
fn figures_are_those_of_scikit_learn() {
    // scikit-learn 1.9.1, with clouds, Draws and targets (of this file, first output) written in Python:
    //   Z = StandardScaler().fit(X); m = Ridge(alpha=0.1 * 200).fit(Z.transform(X), y); p = m.predict(Z.transform(Q))
    //   r2_score(t, p), mean_absolute_error(t, p), abs(t - y.mean()).mean()
    let (train, queries) = (clouds(200, 12, 2, 0.5, 31), clouds(150, 12, 2, 0.5, 32));
    let first = |all: Vec<f32>| all.into_iter().step_by(2).collect::<Vec<f32>>();
    let (known, expected) = (first(targets(&train, 4.0, 1)), first(targets(&queries, 4.0, 2)));
    let quality = evaluate(&train, &known, &queries, &expected, 1, &single(0.1)).expect("valid").outputs[0];
    for (got, expected) in [
        (quality.r_squared.value, GOLDENS[0]),
        (quality.absolute_error.value, GOLDENS[1]),
        (quality.baseline.value, GOLDENS[2]),
    ] {
        assert!((got / expected - 1.0).abs() < 1e-5, "{got} {expected}");
    }
}

const GOLDENS: [f64; 3] = [0.5408633704687134, 3.3990900958271193, 5.236168637640773];

#[test]
fn noise_is_not_predicted_and_a_constant_is() {
    let (train, queries) = (clouds(500, 20, 2, 0.5, 1), clouds(500, 20, 2, 0.5, 2));
    let mut draws = Draws(8);
    let mut noise = |count| (0..count).map(|_| draws.bell() as f32).collect::<Vec<f32>>();
    let quality =
        evaluate(&train, &noise(500), &queries, &noise(500), 1, &Ridge::standard(0)).expect("valid").outputs[0];
    assert!(quality.r_squared.value < 0.05, "{quality:?}");
    let same = evaluate(&train, &[3.0; 500], &queries, &[3.0; 500], 1, &single(0.1)).expect("valid").outputs[0];
    assert_eq!((same.r_squared.value, same.absolute_error.value, same.baseline.value), (1.0, 0.0, 0.0));
}

#[test]
fn what_cannot_be_used_is_named() {
    let train = clouds(20, 3, 2, 1.0, 1);
    let error = evaluate(&train, &[0.0; 20], &train, &[0.0; 19], 1, &single(1.0)).expect_err("too few");
    assert_eq!(error, EvalError::Length { what: "targets of the queries", expected: 20, got: 19 });
    let mut broken = [0.0; 20];
    broken[7] = f32::NAN;
    let error = evaluate(&train, &[0.0; 20], &train, &broken, 1, &single(1.0)).expect_err("NaN");
    assert!(matches!(error, EvalError::NotFinite { what: "targets of the queries", row: 7, .. }), "{error}");
    let wide = tiny(&[0.0; 8], 4, &[]);
    assert!(matches!(evaluate(&train, &[0.0; 20], &wide, &[0.0; 2], 1, &single(1.0)), Err(EvalError::Width { .. })));
}
