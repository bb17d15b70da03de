//! Nearest neighbours: equal to brute force, weighted as stated.

use crate::{clouds, tiny};
use ijepa_eval::knn::{Knn, nearest, predict, sweep, vote};
use ijepa_eval::{EvalError, Features};
use proptest::prelude::*;

/// All cosines in double precision, sorted.
fn brute(train: &Features, query: &[f32]) -> Vec<(usize, f64)> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |row: &[f32]| {
        let norms = (dot(row, row) * dot(query, query)).sqrt();
        if norms == 0.0 { 0.0 } else { dot(row, query) / norms }
    };
    let mut all: Vec<(usize, f64)> = (0..train.rows).map(|row| (row, cosine(train.row(row)))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn neighbours_are_those_of_brute_force(rows in 1usize..60, width in 1usize..9, queries in 1usize..20, k in 1usize..12, seed: u64) {
        let train = clouds(rows, width, 3, 1.0, seed);
        let queries = clouds(queries, width, 3, 1.0, seed ^ 1);
        let found = nearest(&train, &queries, k).expect("valid");
        for (query, found) in found.iter().enumerate() {
            let all = brute(&train, queries.row(query));
            prop_assert_eq!(found.len(), k.min(rows));
            for (found, expected) in found.iter().zip(&all) {
                prop_assert!((f64::from(found.similarity) - expected.1).abs() < 1e-5);
                // The row itself must have that cosine (equal cosines may be swapped).
                let own = all.iter().find(|item| item.0 == found.row).expect("a training row").1;
                prop_assert!((f64::from(found.similarity) - own).abs() < 1e-5);
            }
            let mut rows: Vec<usize> = found.iter().map(|neighbour| neighbour.row).collect();
            rows.sort_unstable();
            rows.dedup();
            prop_assert_eq!(rows.len(), found.len(), "a row is named once");
        }
    }
}

#[test]
fn blocks_of_rows_change_nothing() {
    let train = clouds(2100, 6, 4, 0.5, 1);
    let queries = clouds(2060, 6, 4, 0.5, 2);
    for (query, found) in nearest(&train, &queries, 7).expect("valid").iter().enumerate() {
        for (found, expected) in found.iter().zip(brute(&train, queries.row(query))) {
            assert!((f64::from(found.similarity) - expected.1).abs() < 1e-5, "query {query}");
        }
    }
}

#[test]
fn a_row_is_its_own_nearest_neighbour_and_scale_does_not_matter() {
    let train = clouds(50, 8, 5, 1.0, 3);
    let mut queries = train.clone();
    queries.values.to_mut().iter_mut().for_each(|value| *value *= 7.0);
    for (row, found) in nearest(&train, &queries, 1).expect("valid").iter().enumerate() {
        assert_eq!(found[0].row, row);
        assert!((found[0].similarity - 1.0).abs() < 1e-6);
    }
}

#[test]
fn temperature_decides_between_one_near_and_many_farther_neighbours() {
    // One row of class 0 at cosine 1, three of class 1 at cosine 0.8.
    let train = tiny(&[1.0, 0.0, 0.8, 0.6, 0.8, 0.6, 0.8, 0.6], 2, &[0, 1, 1, 1]);
    let query = tiny(&[1.0, 0.0], 2, &[]);
    // exp(0.2 / T) = 3 at T = 0.182.
    let at = |temperature| predict(&train, &query, Knn { k: 4, temperature }).expect("valid")[0];
    assert_eq!(at(0.18), 0);
    assert_eq!(at(0.19), 1);
    assert_eq!(at(1e-6), 0, "a tiny temperature does not overflow");
}

#[test]
fn an_infinite_temperature_counts_heads() {
    let train = tiny(&[1.0, 0.0, 0.8, 0.6, 0.6, 0.8], 2, &[0, 1, 1]);
    let at = |k, temperature| predict(&train, &tiny(&[1.0, 0.0], 2, &[]), Knn { k, temperature }).expect("valid")[0];
    assert_eq!(at(3, f32::INFINITY), 1);
    assert_eq!(at(2, f32::INFINITY), 0, "of equal votes the lower class");
}

#[test]
fn one_search_serves_every_vote() {
    let (train, queries) = (clouds(300, 8, 4, 0.5, 1), clouds(100, 8, 4, 0.5, 2));
    let votes: Vec<Knn> =
        [1, 5, 20, 200].iter().flat_map(|&k| [0.07, f32::INFINITY].map(|temperature| Knn { k, temperature })).collect();
    let together = sweep(&train, &queries, &votes).expect("valid");
    for (knn, together) in votes.iter().zip(together) {
        assert_eq!(predict(&train, &queries, *knn).expect("valid"), together, "{knn:?}");
    }
    assert!(matches!(sweep(&train, &queries, &[]), Err(EvalError::Setting { .. })));
}

#[test]
fn equally_near_rows_are_named_from_the_lowest() {
    // Every row twice, far apart, and more of them than are held at a time.
    let half = clouds(1200, 5, 3, 0.5, 1);
    let train = Features { rows: 2400, values: half.values.repeat(2).into(), labels: half.labels.repeat(2), ..half };
    for found in nearest(&train, &clouds(50, 5, 3, 0.5, 2), 9).expect("valid") {
        for pair in found.windows(2) {
            assert!((pair[0].similarity, pair[1].row) > (pair[1].similarity, pair[0].row), "{found:?}");
        }
        assert_eq!(found[1].row, found[0].row + 1200);
    }
}

#[test]
fn separable_clouds_are_told_apart_and_noise_is_not() {
    let knn = Knn { k: 20, temperature: 0.07 };
    let far = predict(&clouds(400, 16, 4, 8.0, 1), &clouds(200, 16, 4, 8.0, 2), knn).expect("valid");
    assert!(far.iter().enumerate().all(|(row, &class)| class == row as u32 % 4));
    let noise = predict(&clouds(4000, 16, 4, 0.0, 1), &clouds(4000, 16, 4, 0.0, 2), knn).expect("valid");
    let right = noise.iter().enumerate().filter(|(row, class)| **class == *row as u32 % 4).count() as f64 / 4000.0;
    assert!((right - 0.25).abs() < 5.0 * (0.25f64 * 0.75 / 4000.0).sqrt(), "{right}");
}

#[test]
fn a_zero_row_is_near_nothing() {
    let train = tiny(&[0.0, 0.0, -1.0, 0.0], 2, &[0, 1]);
    let found = nearest(&train, &tiny(&[1.0, 0.0, 0.0, 0.0], 2, &[]), 2).expect("valid");
    assert_eq!(found[0].iter().map(|n| (n.row, n.similarity)).collect::<Vec<_>>(), [(0, 0.0), (1, -1.0)]);
    assert!(found[1].iter().all(|neighbour| neighbour.similarity == 0.0));
}

#[test]
fn features_that_cannot_be_used_are_named() {
    let train = clouds(20, 3, 2, 1.0, 1);
    let queries = clouds(5, 3, 2, 1.0, 2);
    let knn = Knn { k: 3, temperature: 0.07 };
    let mut broken = queries.clone();
    broken.values.to_mut()[7] = f32::NAN;
    let error = predict(&train, &broken, knn).expect_err("NaN");
    assert!(matches!(error, EvalError::NotFinite { what: "query features", row: 2, column: 1, .. }), "{error}");
    assert!(error.to_string().contains("row 2, column 1 is NaN"), "{error}");

    let wide = clouds(5, 4, 2, 1.0, 2);
    assert_eq!(predict(&train, &wide, knn), Err(EvalError::Width { train: 3, queries: 4 }));
    let unlabelled = Features { labels: vec![], ..train.clone() };
    assert_eq!(
        predict(&unlabelled, &queries, knn),
        Err(EvalError::Labels { what: "training features", rows: 20, labels: 0 })
    );
    assert!(nearest(&unlabelled, &queries, 3).is_ok(), "neighbours need no labels");
    let one = Features { labels: vec![4; 20], ..train.clone() };
    assert_eq!(predict(&one, &queries, knn), Err(EvalError::OneClass { rows: 20, class: 4 }));
}

#[test]
fn sizes_and_settings_that_cannot_be_met_are_named() {
    let train = clouds(20, 3, 2, 1.0, 1);
    let queries = clouds(5, 3, 2, 1.0, 2);
    let knn = Knn { k: 3, temperature: 0.07 };
    let empty = Features { rows: 0, width: 3, values: vec![].into(), labels: vec![] };
    assert!(matches!(predict(&empty, &queries, knn), Err(EvalError::Empty { what: "training features", .. })));
    let short = Features { rows: 6, ..queries.clone() };
    assert!(matches!(predict(&train, &short, knn), Err(EvalError::Values { rows: 6, values: 15, .. })));
    assert!(matches!(predict(&train, &queries, Knn { k: 0, ..knn }), Err(EvalError::Setting { setting: "k", .. })));
    let cold = Knn { temperature: 0.0, ..knn };
    assert!(matches!(predict(&train, &queries, cold), Err(EvalError::Setting { setting: "temperature", .. })));
    let neighbours = nearest(&train, &queries, 3).expect("valid");
    assert!(matches!(vote(&neighbours, &[0, 1], knn), Err(EvalError::Length { got: 2, .. })));
}
