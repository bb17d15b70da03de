//! Accuracies, their errors, and the width of features.

use crate::{clouds, tiny};
use ijepa_eval::metrics::{accuracy, confusion, difference, effective_rank, largest, rank_me, spread, top_k};
use ijepa_eval::{EvalError, Features};
use proptest::prelude::*;

#[test]
fn an_accuracy_has_the_binomial_standard_error() {
    let got = accuracy(&[1, 0, 1, 1], &[1, 1, 1, 1]).expect("valid");
    assert_eq!(got.value, 0.75);
    assert!((got.standard_error - (0.75f64 * 0.25 / 4.0).sqrt()).abs() < 1e-12);
}

proptest! {
    #[test]
    fn a_paired_difference_is_the_difference_of_the_accuracies(
        rows in proptest::collection::vec((0u32..3, 0u32..3, 0u32..3), 1..80)
    ) {
        let a: Vec<u32> = rows.iter().map(|row| row.0).collect();
        let b: Vec<u32> = rows.iter().map(|row| row.1).collect();
        let labels: Vec<u32> = rows.iter().map(|row| row.2).collect();
        let (first, second) = (accuracy(&a, &labels).expect("valid"), accuracy(&b, &labels).expect("valid"));
        let paired = difference(&a, &b, &labels).expect("valid");
        prop_assert!((paired.value - (first.value - second.value)).abs() < 1e-12);
        // At most what two fully opposed lists would have.
        prop_assert!(paired.standard_error <= first.standard_error + second.standard_error + 1e-12);
        let same = difference(&a, &a, &labels).expect("valid");
        prop_assert_eq!((same.value, same.standard_error), (0.0, 0.0));
    }

    #[test]
    fn top_k_grows_with_k_from_the_accuracy_of_the_largest_to_all(
        scores in proptest::collection::vec(-3i8..3, 20), labels in proptest::collection::vec(0u32..5, 4)
    ) {
        let scores: Vec<f32> = scores.iter().map(|&score| f32::from(score)).collect(); // (4, 5), with ties
        let at = |k| top_k(&scores, 5, &labels, k).expect("valid").value;
        prop_assert_eq!(at(1), accuracy(&largest(&scores, 5), &labels).expect("valid").value);
        prop_assert!((1..5).all(|k| at(k) <= at(k + 1)));
        prop_assert_eq!(at(5), 1.0);
    }
}

#[test]
fn a_class_that_was_never_trained_is_never_right() {
    assert_eq!(top_k(&[0.1, 0.9], 2, &[7], 2).expect("valid").value, 0.0);
}

#[test]
fn confusion_counts_labels_by_row_and_predictions_by_column() {
    assert_eq!(confusion(&[0, 1, 1, 2], &[0, 0, 1, 1]).expect("valid"), [[1, 1, 0], [0, 1, 1], [0, 0, 0]]);
}

#[test]
fn ranks_of_known_spectra() {
    // Orthonormal rows: all singular values equal.
    let identity: Vec<f32> = (0..64).map(|at| f32::from(u8::from(at % 9 == 0))).collect();
    let identity = tiny(&identity, 8, &[]);
    assert!((rank_me(&identity).expect("valid") - 8.0).abs() < 2e-5);

    // Every row the same: one direction, nothing that varies.
    let constant = tiny(&[1.0, 2.0, 3.0].repeat(40), 3, &[]);
    assert!((rank_me(&constant).expect("valid") - 1.0).abs() < 1e-5);
    assert!(effective_rank(&constant).expect("valid") < 1e-9);
    assert_eq!(spread(&constant).expect("valid"), 0.0);

    // Two directions of lengths 3 and 1: p = 3/4, 1/4.
    let two = tiny(&[3.0, 0.0, 0.0, 0.0, 1.0, 0.0], 3, &[]);
    let expected = (-(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln())).exp();
    assert!((rank_me(&two).expect("valid") - expected).abs() < 2e-5);
}

#[test]
fn features_that_fill_two_directions_have_an_effective_rank_of_at_most_two() {
    let plane = clouds(300, 2, 1, 0.0, 1);
    let values =
        plane.values.chunks(2).flat_map(|p| (0..10).map(|i| p[0] * i as f32 + p[1] * (9 - i) as f32 + 5.0)).collect();
    let rank = effective_rank(&Features { rows: 300, width: 10, values, labels: vec![] }).expect("valid");
    assert!(rank > 1.0 && rank < 2.01, "{rank}");
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    assert!(matches!(accuracy(&[], &[]), Err(EvalError::Empty { .. })));
    let error = difference(&[0, 1], &[0], &[0, 1]).expect_err("too short");
    assert_eq!(error, EvalError::Length { what: "predictions of the second method", expected: 2, got: 1 });
    assert!(matches!(top_k(&[0.0; 5], 2, &[0, 1], 1), Err(EvalError::Length { expected: 4, got: 5, .. })));
}
