//! Figures without labels: as NumPy states them, and right where the answer is known.

use crate::{Draws, clouds, tiny};
use ijepa_eval::metrics::{effective_rank, rank_me, spread};
use ijepa_eval::ranks::{ALPHA_RANKS, alpha_req, lidar};
use ijepa_eval::{EvalError, Features};

#[test]
fn figures_are_those_of_numpy() {
    // NumPy 2.4, in double precision, with X = clouds(120, 30, 4, 0.7, 21) of tests/it/main.rs written in Python:
    //   s = svd(X); p = s / s.sum() + 1e-7; exp(-(p * log(p)).sum())          and of X - X.mean(0) without the 1e-7
    //   ev = eigvalsh(cov(X)) from the largest; least squares of log(ev) over -log(rank), weighed by 1/rank
    //   E = X.reshape(n, v, d), m = E.mean(1): Sw = mean of (E - m)(E - m)ᵀ + δI, Sb = mean of (m - m.mean(0))(…)ᵀ,
    //   ev = eigvalsh(Sw^-½ Sb Sw^-½) with Sw^-½ from eigh; p = ev / ev.sum() + 1e-7; exp(-(p * log(p)).sum())
    let features = clouds(120, 30, 4, 0.7, 21);
    let close = |got: Result<f64, EvalError>, expected: f64| {
        let got = got.expect("valid");
        assert!((got / expected - 1.0).abs() < 1e-9, "{got} {expected}");
    };
    close(rank_me(&features), 22.045845859247905);
    close(effective_rank(&features), 23.94664513756349);
    close(spread(&features), 3.6747214702416033);
    close(alpha_req(&features, 1..=30), 1.0047867687105507);
    close(alpha_req(&features, 3..=20), 1.2442583569297787);
    close(lidar(&features, 4, 1e-4), 14.808633442674747);
    close(lidar(&features, 4, 1.0), 15.288146142125491);
    close(lidar(&features, 6, 1e-4), 13.165888511308944);
}

#[test]
fn a_spectrum_that_falls_as_a_power_has_that_power() {
    // Column j alone takes ±j^(-0.75) in two rows of its own: eigenvalues fall as j^(-1.5), the mean is zero.
    let width = 40;
    let mut values = vec![0.0f32; 2 * width * width];
    for column in 0..width {
        let size = ((column + 1) as f32).powf(-0.75);
        values[2 * column * width + column] = size;
        values[(2 * column + 1) * width + column] = -size;
    }
    let features = Features { rows: 2 * width, width, values: values.into(), labels: vec![] };
    for ranks in [1..=40, 5..=20, ALPHA_RANKS] {
        let alpha = alpha_req(&features, ranks).expect("valid");
        assert!((alpha - 1.5).abs() < 1e-5, "{alpha}");
    }
}

#[test]
fn directions_without_variance_have_no_say_in_alpha() {
    let narrow = clouds(100, 8, 3, 0.5, 1);
    let values = narrow.values.chunks(8).flat_map(|row| [row, &[2.0; 5]].concat()).collect();
    let padded = Features { width: 13, values, ..narrow.clone() };
    let (narrow, padded) = (alpha_req(&narrow, 1..=100).expect("valid"), alpha_req(&padded, 1..=100).expect("valid"));
    assert!((narrow - padded).abs() < 1e-9, "{narrow} {padded}");
}

#[test]
fn lidar_counts_the_directions_that_tell_pictures_apart() {
    // Pictures differ in three of ten columns; views differ in all of them, in some very much.
    let (pictures, views, width) = (200, 8, 10);
    let mut draws = Draws(4);
    let mut values = Vec::new();
    for _ in 0..pictures {
        let picture: Vec<f64> = (0..3).map(|_| 30.0 * draws.bell()).collect();
        for _ in 0..views {
            values.extend((0..width).map(|column| {
                let noise = draws.bell() * if column > 6 { 100.0 } else { 1.0 };
                (picture.get(column).copied().unwrap_or(0.0) + noise) as f32
            }));
        }
    }
    let features = Features { rows: pictures * views, width, values: values.into(), labels: vec![] };
    let found = lidar(&features, views, 1e-4).expect("valid");
    assert!((found - 3.0).abs() < 0.15, "{found}");
    assert!(effective_rank(&features).expect("valid") > 4.0, "the noisy columns count there");
}

#[test]
fn what_cannot_be_used_is_named() {
    let features = clouds(12, 4, 2, 1.0, 1);
    assert!(matches!(lidar(&features, 1, 1e-4), Err(EvalError::Setting { setting: "views", .. })));
    assert!(matches!(lidar(&features, 5, 1e-4), Err(EvalError::Setting { setting: "rows", .. })));
    assert!(matches!(lidar(&features, 12, 1e-4), Err(EvalError::Setting { setting: "rows", .. })));
    assert!(matches!(lidar(&features, 4, 0.0), Err(EvalError::Setting { setting: "delta", .. })));
    assert!(matches!(alpha_req(&features, ALPHA_RANKS), Err(EvalError::Setting { .. })));
    let constant = tiny(&[1.0, 2.0].repeat(5), 2, &[]);
    assert!(matches!(alpha_req(&constant, 1..=2), Err(EvalError::Setting { .. })));
}
