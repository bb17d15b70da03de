//! Layer norm, with or without an affine part.
//!
//! y[r,i] = (x[r,i] − mean_r)·rstd_r·w[i] + b[i],  rstd_r = 1/√(var_r + eps), var without Bessel's correction.
//! Backward, with x̂ = (x − mean)·rstd and g = dy·w:
//! dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), dw = Σ_r dy·x̂, db = Σ_r dy.

use crate::buf::{View, ViewMut};
use crate::tape::{Slot, Tape, Var};
use crate::threads;
use crate::vector::{sum, vectorised};
use rayon::prelude::*;

/// Rows and their width, and what is added to the variance.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// The learnt scale and shift.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// Scale (width).
    pub weight: Slot,
    /// Shift (width).
    pub bias: Slot,
}

impl<'p> Tape<'p> {
    /// Layer norm of each row of x (rows, width).
    pub fn layer_norm(&mut self, x: &Var, affine: Option<Affine>, eps: f32) -> Var {
        let shape = Shape { rows: x.rows(), width: x.width(), eps };
        let mut y = self.take(x.len());
        let mut stats = self.take(2 * shape.rows);
        let weight = affine.map(|a| self.param(a.weight));
        let bias = affine.map(|a| self.param(a.bias));
        forward(y.view_mut(), stats.view_mut(), x.view(), weight, bias, shape);
        let tracked = self.recording() && (x.tracked() || affine.is_some());
        let y = self.var(y, shape.rows, shape.width, tracked);
        if !tracked {
            self.put(stats);
            return y;
        }
        let (x, key) = (x.clone(), y.key());
        self.record(move |tape| {
            let Some(dy) = tape.take_gradient(key) else { return };
            if let Some(affine) = affine {
                backward_weight(tape.param_grad(affine.weight), dy.view(), x.view(), stats.view(), shape);
                backward_bias(tape.param_grad(affine.bias), dy.view(), shape);
            }
            if x.tracked() {
                let (mut dx, accumulate) = tape.open_gradient(x.key());
                backward_input(dx.view_mut(), accumulate, dy.view(), x.view(), stats.view(), weight, shape);
                tape.close_gradient(x.key(), dx);
            }
            tape.put(dy);
            tape.put(stats);
        });
        y
    }
}

/// y (rows, width) =, stats (rows, 2) = mean and rstd; x (rows, width), weight and bias (width).
pub fn forward(y: ViewMut, stats: ViewMut, x: View, weight: Option<View>, bias: Option<View>, shape: Shape) {
    let (ViewMut::Cpu(y), ViewMut::Cpu(stats), View::Cpu(x)) = (y, stats, x);
    let Shape { rows, width, eps } = shape;
    assert_eq!((y.len(), stats.len(), x.len()), (rows * width, 2 * rows, rows * width), "{shape:?}");
    let weight = weight.map(|View::Cpu(weight)| weight);
    let bias = bias.map(|View::Cpu(bias)| bias);
    threads::for_rows2(y, width, stats, 2, |first, y, stats| {
        let x = &x[first * width..][..y.len()];
        forward_rows(y, stats, x, weight, bias, width, eps);
    });
}

vectorised! {
    fn forward_rows(y: &mut [f32], stats: &mut [f32], x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, width: usize, eps: f32) {
        for ((y, x), stats) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(stats.chunks_exact_mut(2)) {
            let mean = sum(width, |i| x[i]) / width as f32;
            let variance = sum(width, |i| (x[i] - mean) * (x[i] - mean)) / width as f32;
            let rstd = 1.0 / (variance + eps).sqrt();
            stats.copy_from_slice(&[mean, rstd]);
            match (weight, bias) {
                (Some(weight), Some(bias)) => {
                    let (weight, bias) = (&weight[..width], &bias[..width]);
                    for i in 0..width {
                        y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
                    }
                }
                _ => {
                    for i in 0..width {
                        y[i] = (x[i] - mean) * rstd;
                    }
                }
            }
        }
    }
}

/// dx (rows, width) = or +=.
pub fn backward_input(
    dx: ViewMut,
    accumulate: bool,
    dy: View,
    x: View,
    stats: View,
    weight: Option<View>,
    shape: Shape,
) {
    let (ViewMut::Cpu(dx), View::Cpu(dy), View::Cpu(x), View::Cpu(stats)) = (dx, dy, x, stats);
    let Shape { rows, width, .. } = shape;
    assert_eq!(
        (dx.len(), dy.len(), x.len(), stats.len()),
        (rows * width, rows * width, rows * width, 2 * rows),
        "{shape:?}"
    );
    let weight = weight.map(|View::Cpu(weight)| weight);
    threads::for_rows(dx, width, |first, dx| {
        let part = first * width..first * width + dx.len();
        let stats = &stats[2 * first..][..2 * dx.len() / width];
        backward_rows(dx, accumulate, &dy[part.clone()], &x[part], stats, weight, width);
    });
}

vectorised! {
    fn backward_rows(dx: &mut [f32], accumulate: bool, dy: &[f32], x: &[f32], stats: &[f32], weight: Option<&[f32]>, width: usize) {
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)).zip(stats.chunks_exact(2));
        for (((dx, dy), x), stats) in rows {
            let (mean, rstd) = (stats[0], stats[1]);
            match weight {
                Some(weight) => {
                    let weight = &weight[..width];
                    let g_mean = sum(width, |i| dy[i] * weight[i]) / width as f32;
                    let gx_mean = sum(width, |i| dy[i] * weight[i] * (x[i] - mean)) * rstd / width as f32;
                    for i in 0..width {
                        let old = if accumulate { dx[i] } else { 0.0 };
                        dx[i] = old + rstd * (dy[i] * weight[i] - g_mean - (x[i] - mean) * rstd * gx_mean);
                    }
                }
                None => {
                    let g_mean = sum(width, |i| dy[i]) / width as f32;
                    let gx_mean = sum(width, |i| dy[i] * (x[i] - mean)) * rstd / width as f32;
                    for i in 0..width {
                        let old = if accumulate { dx[i] } else { 0.0 };
                        dx[i] = old + rstd * (dy[i] - g_mean - (x[i] - mean) * rstd * gx_mean);
                    }
                }
            }
        }
    }
}

/// Parts into which a sum over rows is cut: each is summed by one thread, then the parts are added in order.
const PARTS: usize = 16;
/// Rows below which one part is enough.
const ROWS: usize = 64;

/// dw (width) += Σ_r dy·x̂.
pub fn backward_weight(dw: ViewMut, dy: View, x: View, stats: View, shape: Shape) {
    let (ViewMut::Cpu(dw), View::Cpu(dy), View::Cpu(x), View::Cpu(stats)) = (dw, dy, x, stats);
    let width = shape.width;
    sum_rows(dw, shape, |sum, first, rows| {
        let values = first * width..(first + rows) * width;
        weight_rows(sum, &dy[values.clone()], &x[values], &stats[2 * first..2 * (first + rows)], width);
    });
}

/// db (width) += Σ_r dy.
pub fn backward_bias(db: ViewMut, dy: View, shape: Shape) {
    let (ViewMut::Cpu(db), View::Cpu(dy)) = (db, dy);
    let width = shape.width;
    sum_rows(db, shape, |sum, first, rows| bias_rows(sum, &dy[first * width..(first + rows) * width], width));
}

/// Adds what `add_rows(sum, first, rows)` sums up over all rows, in parts whose borders depend on the shape alone.
fn sum_rows(total: &mut [f32], shape: Shape, add_rows: impl Fn(&mut [f32], usize, usize) + Sync) {
    let Shape { rows, width, .. } = shape;
    if rows <= ROWS {
        return add_rows(total, 0, rows);
    }
    let part_rows = rows.div_ceil(PARTS).max(ROWS);
    let mut parts = vec![0.0; rows.div_ceil(part_rows) * width];
    parts.par_chunks_exact_mut(width).enumerate().for_each(|(part, sum)| {
        let first = part * part_rows;
        add_rows(sum, first, part_rows.min(rows - first));
    });
    for part in parts.chunks_exact(width) {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
}

vectorised! {
    fn weight_rows(sum: &mut [f32], dy: &[f32], x: &[f32], stats: &[f32], width: usize) {
        let sum = &mut sum[..width];
        for ((dy, x), stats) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(stats.chunks_exact(2)) {
            for i in 0..width {
                sum[i] += dy[i] * (x[i] - stats[0]) * stats[1];
            }
        }
    }
}

vectorised! {
    fn bias_rows(sum: &mut [f32], dy: &[f32], width: usize) {
        let sum = &mut sum[..width];
        let mut fours = dy.chunks_exact(4 * width);
        for dy in &mut fours {
            let (a, rest) = dy.split_at(width);
            let (b, rest) = rest.split_at(width);
            let (c, d) = rest.split_at(width);
            let d = &d[..width];
            for i in 0..width {
                sum[i] += (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
        for dy in fours.remainder().chunks_exact(width) {
            for i in 0..width {
                sum[i] += dy[i];
            }
        }
    }
}

/// The plain statement.
pub mod reference {
    use super::Shape;
    use crate::scalar::Scalar;

    /// y (rows, width) = layer norm of x; weight and bias (width).
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T], affine: Option<(&[T], &[T])>, shape: Shape) {
        let width = T::constant(shape.width as f64);
        for (y, x) in y.chunks_exact_mut(shape.width).zip(x.chunks_exact(shape.width)) {
            let mean = x.iter().fold(T::zero(), |sum, &x| sum + x) / width;
            let variance = x.iter().fold(T::zero(), |sum, &x| sum + (x - mean) * (x - mean)) / width;
            let std = (variance + T::constant(f64::from(shape.eps))).sqrt();
            for i in 0..shape.width {
                let normal = (x[i] - mean) / std;
                y[i] = match affine {
                    Some((weight, bias)) => normal * weight[i] + bias[i],
                    None => normal,
                };
            }
        }
    }
}
