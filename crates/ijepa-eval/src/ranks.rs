//! What do features say of themselves, without labels? Two figures that others use to choose between pretrained encoders.
//!
//! * α-ReQ (Agrawal et al. 2022): the eigenvalues of the covariance fall about as rank^−α; α near 1 goes with good probes.
//! * LiDAR (Thilak et al. 2023): the rank of what tells pictures apart, relative to what tells views of one picture apart.
//!
//! [`crate::metrics`] has RankMe, the effective rank and the spread.

use crate::spectrum::{Centre, dot, entropy_rank, gram, singular_values, singular_values_of};
use crate::{EvalError, Features};
use rayon::prelude::*;
use std::ops::RangeInclusive;

/// Ranks, from 1, over which α is usually fitted: `stringer_get_powerlaw(eigen, np.arange(11, 100))`.
pub const ALPHA_RANKS: RangeInclusive<usize> = 12..=100;
/// Singular values below this share of the largest are rounding of features in single precision.
const ROUNDING: f64 = 1e-7;

/// α-ReQ: minus the slope of log eigenvalue over log rank, at the given ranks (from 1) as far as eigenvalues are more than
/// rounding; each rank weighs 1/rank, as in Stringer et al. (2019), whose fit the authors use.
///
/// # Errors
/// Features that are empty or not finite, or fewer than two ranks with an eigenvalue.
pub fn alpha_req(features: &Features, ranks: RangeInclusive<usize>) -> Result<f64, EvalError> {
    let values = singular_values(features, Centre::Mean)?;
    let known = values.iter().take_while(|&&value| value > ROUNDING * values[0]).count();
    let (first, last) = ((*ranks.start()).max(1), (*ranks.end()).min(known));
    if last <= first {
        let (setting, expected) =
            ("last rank of a power law", "more ranks with an eigenvalue: more rows, or lower ranks");
        return Err(EvalError::Setting { setting, value: last as f64, expected });
    }
    // Weighted least squares of y = log σ² over x = log rank.
    let points = || (first..=last).map(|rank| (1.0 / rank as f64, (rank as f64).ln(), 2.0 * values[rank - 1].ln()));
    let total: f64 = points().map(|(w, _, _)| w).sum();
    let x_mean = points().map(|(w, x, _)| w * x).sum::<f64>() / total;
    let y_mean = points().map(|(w, _, y)| w * y).sum::<f64>() / total;
    let both: f64 = points().map(|(w, x, y)| w * (x - x_mean) * (y - y_mean)).sum();
    let own: f64 = points().map(|(w, x, _)| w * (x - x_mean) * (x - x_mean)).sum();
    Ok(-both / own)
}

/// LiDAR: exp of the entropy of the eigenvalues of S_w^(−1/2)·S_b·S_w^(−1/2), from 1 to min(n − 1, d).
///
/// Row i·views + j is view j of picture i; S_b is the covariance of the pictures' means, S_w that of views around their
/// picture's mean, plus δ on its diagonal. Shares are each raised by 10⁻⁷. The authors take δ = 10⁻⁴, 1,000 pictures and
/// 50 views. Cost: rows · d² in double precision.
///
/// # Errors
/// Features that are empty or not finite, fewer than two views or pictures, rows that are not a multiple of the views, or a δ that
/// is not positive.
pub fn lidar(features: &Features, views: usize, delta: f64) -> Result<f64, EvalError> {
    features.check("features")?;
    let Features { rows, width, ref values, .. } = *features;
    if views < 2 {
        return Err(EvalError::Setting { setting: "views", value: views as f64, expected: "at least two" });
    }
    if rows % views != 0 || rows < 2 * views {
        let expected = "a multiple of the views, for two pictures at least";
        return Err(EvalError::Setting { setting: "rows", value: rows as f64, expected });
    }
    if delta.is_nan() || delta <= 0.0 {
        return Err(EvalError::Setting { setting: "delta", value: delta, expected: "a positive number" });
    }
    let pictures = rows / views;
    let mut means = vec![0.0f64; pictures * width]; // (n, d)
    means.par_chunks_exact_mut(width).zip(values.par_chunks_exact(views * width)).for_each(|(mean, views_of)| {
        for row in views_of.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value) / views as f64);
        }
    });
    let off = |row: usize, column: usize| f64::from(values[row * width + column]) - means[row / views * width + column];
    let mut within = gram(width, rows, |column, row| off(row, column));
    within.iter_mut().for_each(|value| *value /= rows as f64);
    for column in 0..width {
        within[column * width + column] += delta;
    }
    factor(&mut within, width).ok_or(EvalError::Singular { lambda: delta })?;

    let mut centre = vec![0.0f64; width];
    for mean in means.chunks_exact(width) {
        centre.iter_mut().zip(mean).for_each(|(centre, mean)| *centre += mean / pictures as f64);
    }
    // With S_w = L·Lᵀ the eigenvalues are those of L⁻¹·S_b·L⁻ᵀ: squared singular values of the means, whitened.
    means.par_chunks_exact_mut(width).for_each(|mean| {
        mean.iter_mut().zip(&centre).for_each(|(mean, centre)| *mean -= centre);
        for i in 0..width {
            let row = &within[i * width..];
            mean[i] = (mean[i] - dot(&row[..i], &mean[..i])) / row[i];
        }
    });
    let spread = singular_values_of(pictures, width, |picture, column| means[picture * width + column]);
    let mut eigenvalues: Vec<f64> = spread.iter().map(|value| value * value / pictures as f64).collect();
    eigenvalues.resize(width, 0.0); // with few pictures the others are zero
    Ok(entropy_rank(&eigenvalues, 1e-7))
}

/// Cholesky in place: the lower triangle of a symmetric matrix becomes that of L; none when a pivot is not positive.
fn factor(a: &mut [f64], size: usize) -> Option<()> {
    for i in 0..size {
        let (done, rest) = a.split_at_mut(i * size);
        let row = &mut rest[..size];
        for j in 0..i {
            let other = &done[j * size..];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        row[i] = pivot.sqrt();
    }
    Some(())
}
