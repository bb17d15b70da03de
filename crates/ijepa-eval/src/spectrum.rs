//! How many directions do the features use? Their singular values, from the Gram matrix of the smaller side.
//!
//! σᵢ = √eigenvalueᵢ of XᵀX or XXᵀ, in double precision: values below about 10⁻⁸ of the largest are rounding and come out
//! as zero or noise. The Gram matrix is brought to tridiagonal form by Householder reflections and diagonalised by QL steps
//! with implicit shifts (Golub & Van Loan 2013, §8.3); only eigenvalues are computed.

use crate::standard::columns;
use crate::{EvalError, Features};
use rayon::prelude::*;

/// What is taken off every column first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Centre {
    /// Nothing.
    Nothing,
    /// Its mean.
    Mean,
}

/// min(n, d) singular values, largest first.
///
/// # Errors
/// Features that are empty or not finite.
pub fn singular_values(features: &Features, centre: Centre) -> Result<Vec<f64>, EvalError> {
    features.check("features")?;
    let Features { rows, width, .. } = *features;
    let mean = match centre {
        Centre::Nothing => vec![0.0; width],
        Centre::Mean => columns(features).0,
    };
    Ok(singular_values_of(rows, width, |row, column| f64::from(features.values[row * width + column]) - mean[column]))
}

/// As [`singular_values`], of the matrix `at(row, column)`.
pub(crate) fn singular_values_of(rows: usize, width: usize, at: impl Fn(usize, usize) -> f64 + Sync) -> Vec<f64> {
    let gram = if width <= rows { gram(width, rows, |column, row| at(row, column)) } else { gram(rows, width, &at) };
    let mut values: Vec<f64> = eigenvalues(gram, rows.min(width)).iter().map(|value| value.max(0.0).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// Lower triangle of the products (s, s) of s vectors of l numbers, `at(vector, place)`.
pub(crate) fn gram(size: usize, length: usize, at: impl Fn(usize, usize) -> f64 + Sync) -> Vec<f64> {
    const SLAB: usize = 256;
    let mut gram = vec![0.0; size * size];
    for first in (0..length).step_by(SLAB) {
        let count = SLAB.min(length - first);
        let slab: Vec<f64> = (0..size * count).into_par_iter().map(|p| at(p / count, first + p % count)).collect(); // (s, count)
        gram.par_chunks_exact_mut(size).enumerate().for_each(|(i, out)| {
            let own = &slab[i * count..(i + 1) * count];
            for (out, other) in out[..=i].iter_mut().zip(slab.chunks_exact(count)) {
                *out += dot(own, other);
            }
        });
    }
    gram
}

/// exp(−Σ p log p) with p the values as shares of their sum, each plus `smoothing`; 0 when all are 0.
pub fn entropy_rank(values: &[f64], smoothing: f64) -> f64 {
    let sum: f64 = values.iter().sum();
    if sum <= 0.0 {
        return 0.0;
    }
    let entropy: f64 =
        values.iter().map(|value| value / sum + smoothing).filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

/// Eigenvalues of the symmetric matrix (n, n) whose lower triangle is given, in no order.
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let (mut diagonal, mut off) = tridiagonal(&mut a, n);
    implicit_ql(&mut diagonal, &mut off);
    diagonal
}

/// Diagonal (n) and subdiagonal (n, last entry 0) of Qᵀ·A·Q; the lower triangle of `a` is used up from its last row.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut off = vec![0.0; n];
    for last in (1..n).rev() {
        // The reflection that leaves of row `last` only its entry beside the diagonal.
        let mut v: Vec<f64> = a[last * n..last * n + last].to_vec();
        let scale = v.iter().fold(0.0f64, |top, value| top.max(value.abs()));
        let rest: f64 = v[..last - 1].iter().map(|value| value.abs()).sum();
        if rest <= f64::EPSILON * f64::EPSILON * scale || scale == 0.0 {
            off[last - 1] = v[last - 1];
            continue;
        }
        let norm = scale * v.iter().map(|value| (value / scale) * (value / scale)).sum::<f64>().sqrt();
        let beside = if v[last - 1] > 0.0 { -norm } else { norm };
        off[last - 1] = beside;
        v[last - 1] -= beside;
        let half = 0.5 * dot(&v, &v);
        // A ← A − v·wᵀ − w·vᵀ with w = p − (vᵀp / 2h)·v, p = A·v / h, h = vᵀv / 2.
        let mut p = symmetric_product(a, n, &v);
        p.iter_mut().for_each(|value| *value /= half);
        let share = dot(&v, &p) / (2.0 * half);
        p.iter_mut().zip(&v).for_each(|(p, v)| *p -= share * v);
        a[..last * n].par_chunks_exact_mut(n).enumerate().for_each(|(i, row)| {
            let (vi, pi) = (v[i], p[i]);
            for ((value, v), p) in row[..=i].iter_mut().zip(&v).zip(&p) {
                *value -= vi * p + pi * v;
            }
        });
    }
    ((0..n).map(|i| a[i * n + i]).collect(), off)
}

/// A·v for the leading square of a symmetric matrix given by its lower triangle with rows of n.
fn symmetric_product(a: &[f64], n: usize, v: &[f64]) -> Vec<f64> {
    let size = v.len();
    let mut out = vec![0.0; size];
    for i in 0..size {
        let row = &a[i * n..i * n + i];
        out[i] += dot(row, &v[..i]) + a[i * n + i] * v[i];
        let vi = v[i];
        out[..i].iter_mut().zip(row).for_each(|(out, a)| *out += a * vi);
    }
    out
}

/// Turns the diagonal of a symmetric tridiagonal matrix into its eigenvalues.
fn implicit_ql(d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    for low in 0..n {
        // Thirty sweeps an eigenvalue have never been needed; the bound only guards against looping for ever.
        for _ in 0..60 {
            let split =
                (low..n - 1).find(|&m| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs())).unwrap_or(n - 1);
            if split == low {
                break;
            }
            let g = (d[low + 1] - d[low]) / (2.0 * e[low]);
            let root = g.hypot(1.0);
            let mut g = d[split] - d[low] + e[low] / (g + if g >= 0.0 { root } else { -root });
            let (mut sine, mut cosine, mut carried) = (1.0, 1.0, 0.0);
            let mut ended_early = false;
            for i in (low..split).rev() {
                let f = sine * e[i];
                let b = cosine * e[i];
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= carried;
                    e[split] = 0.0;
                    ended_early = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                let g_next = d[i + 1] - carried;
                let r = (d[i] - g_next) * sine + 2.0 * cosine * b;
                carried = sine * r;
                d[i + 1] = g_next + carried;
                g = cosine * r - b;
            }
            if !ended_early {
                d[low] -= carried;
                e[low] = g;
                e[split] = 0.0;
            }
        }
    }
}

/// Sum in eight lanes, which the compiler can keep in vectors.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::signs;

    #[test]
    fn eigenvalues_of_the_second_difference_are_the_known_cosines() {
        let n = 50;
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            a[i * n + i] = 2.0;
            if i > 0 {
                a[i * n + i - 1] = -1.0;
            }
        }
        let mut found = eigenvalues(a, n);
        found.sort_by(f64::total_cmp);
        for (k, found) in found.iter().enumerate() {
            let expected = 2.0 - 2.0 * ((k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
            assert!((found - expected).abs() < 1e-12, "{k}: {found} {expected}");
        }
    }

    #[test]
    fn eigenvalues_keep_trace_and_squares_of_a_dense_matrix() {
        let n = 40;
        let u: Vec<f64> = signs(n, 60, 1).iter().map(|&sign| f64::from(sign)).collect();
        let full: Vec<f64> = (0..n * n).map(|p| dot(&u[p / n * 60..][..60], &u[p % n * 60..][..60])).collect();
        let found = eigenvalues(full.clone(), n);
        let trace: f64 = (0..n).map(|i| full[i * n + i]).sum();
        let squares: f64 = full.iter().map(|value| value * value).sum();
        assert!((found.iter().sum::<f64>() - trace).abs() < 1e-9 * trace);
        assert!((found.iter().map(|value| value * value).sum::<f64>() - squares).abs() < 1e-9 * squares);
    }

    #[test]
    fn singular_values_do_not_depend_on_which_side_is_longer() {
        let values = signs(12, 30, 2);
        let turned: Vec<f32> = (0..360).map(|p| values[p % 12 * 30 + p / 12]).collect();
        let wide = Features { rows: 12, width: 30, values: values.into(), labels: vec![] };
        let tall = Features { rows: 30, width: 12, values: turned.into(), labels: vec![] };
        let wide = singular_values(&wide, Centre::Nothing).expect("valid");
        let tall = singular_values(&tall, Centre::Nothing).expect("valid");
        assert!(wide.iter().zip(&tall).all(|(a, b)| (a - b).abs() < 1e-9), "{wide:?} {tall:?}");
    }
}
