//! Layer norm, with or without an affine part.
//!
//! y[r,i] = (x[r,i] − mean_r)·rstd_r·w[i] + b[i],  rstd_r = 1/√(var_r + eps), var without Bessel's correction.
//! Backward, with x̂ = (x − mean)·rstd and g = dy·w:
//! dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), dw = Σ_r dy·x̂, db = Σ_r dy.

use crate::buf::{Buf, View, ViewMut};
use crate::cuda::calls;
use crate::ops::add;
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
        let mut stats = self.take_f32(2 * shape.rows);
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
            tape.layer_norm_backward(&x, affine, dy, stats, eps);
        });
        y
    }

    /// What every op that contains a layer norm does on its way back: from dy to the gradients of x and of the affine part.
    pub(crate) fn layer_norm_backward(&mut self, x: &Var, affine: Option<Affine>, dy: Buf, stats: Buf, eps: f32) {
        let shape = Shape { rows: x.rows(), width: x.width(), eps };
        let weight = affine.map(|affine| self.param(affine.weight));
        let (mut dx, accumulate) = self.open_gradient(x.key());
        if let Some(device) = dy.view().device() {
            let parts = device.take(calls::layer_norm_parts(shape) * size_of::<f32>());
            let (to, from, read) = (dx.view_mut().bf16(), dy.view().bf16(), x.view().bf16());
            let (stats, weight) = (stats.view().f32(), weight.map(View::f32));
            device.run(calls::layer_norm_backward(to, accumulate, parts.at(), from, read, stats, weight, shape));
            if let Some(affine) = affine {
                let sums = [affine.weight, affine.bias].map(|slot| {
                    let (gradient, add) = self.param_grad(slot);
                    (gradient.f32(), add)
                });
                device.run_all(calls::layer_norm_sums(sums, parts.at(), shape));
            }
        } else {
            let mut sums = self.take(2 * shape.width);
            backward(dx.view_mut(), accumulate, sums.view_mut(), dy.view(), x.view(), stats.view(), weight, shape);
            if let Some(affine) = affine {
                let (weight, bias) = (0..shape.width, shape.width..2 * shape.width);
                for (slot, part) in [(affine.weight, weight), (affine.bias, bias)] {
                    let (gradient, add) = self.param_grad(slot);
                    match add {
                        true => add::forward(gradient, sums.view().range(part)),
                        false => gradient.copy_from(sums.view().range(part)),
                    }
                }
            }
            self.put(sums);
        }
        if x.tracked() {
            self.close_gradient(x.key(), dx);
        } else {
            self.put(dx);
        }
        self.put(dy);
        self.put(stats);
    }
}

/// y (rows, width) =, stats (rows, 2) = mean and rstd; x (rows, width), weight and bias (width).
pub fn forward(y: ViewMut, stats: ViewMut, x: View, weight: Option<View>, bias: Option<View>, shape: Shape) {
    let Shape { rows, width, eps } = shape;
    assert_eq!((y.len(), stats.len(), x.len()), (rows * width, 2 * rows, rows * width), "{shape:?}");
    if let Some(device) = x.device() {
        let affine = weight.map(View::f32).zip(bias.map(View::f32));
        return device.run(calls::layer_norm_forward(y.bf16(), stats.f32(), x.bf16(), affine, shape));
    }
    let (y, stats, x) = (y.cpu(), stats.cpu(), x.cpu());
    let (weight, bias) = (weight.map(View::cpu), bias.map(View::cpu));
    threads::for_rows2(y, width, stats, 2, |first, y, stats| {
        let x = &x[first * width..][..y.len()];
        forward_rows(y, stats, x, weight, bias, width, eps);
    });
}

/// stats (rows, 2) = mean and rstd of each row of x (rows, width), in main memory: the kernel of [`forward`] finds them by itself.
pub fn statistics(stats: ViewMut, x: View, shape: Shape) {
    let (stats, x) = (stats.cpu(), x.cpu());
    let Shape { rows, width, eps } = shape;
    assert_eq!((stats.len(), x.len()), (2 * rows, rows * width), "{shape:?}");
    let part = threads::piece(rows, width);
    stats.par_chunks_mut(2 * part).zip(x.par_chunks(part * width)).for_each(|(stats, x)| {
        statistics_rows(stats, x, width, eps);
    });
}

vectorised! {
    fn statistics_rows(stats: &mut [f32], x: &[f32], width: usize, eps: f32) {
        for (x, stats) in x.chunks_exact(width).zip(stats.chunks_exact_mut(2)) {
            stats.copy_from_slice(&row_statistics(x, eps));
        }
    }
}

/// Mean and rstd of a row.
#[inline(always)]
fn row_statistics(x: &[f32], eps: f32) -> [f32; 2] {
    let width = x.len();
    let mean = sum(width, |i| x[i]) / width as f32;
    let variance = sum(width, |i| (x[i] - mean) * (x[i] - mean)) / width as f32;
    [mean, 1.0 / (variance + eps).sqrt()]
}

vectorised! {
    fn forward_rows(y: &mut [f32], stats: &mut [f32], x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, width: usize, eps: f32) {
        for ((y, x), stats) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(stats.chunks_exact_mut(2)) {
            let [mean, rstd] = row_statistics(x, eps);
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

vectorised! {
    /// y = (x − mean)·rstd·weight + bias, a part of a row.
    pub(crate) fn apply_values(y: &mut [f32], x: &[f32], mean: f32, rstd: f32, weight: &[f32], bias: &[f32]) {
        for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * rstd * weight + bias;
        }
    }
}

/// dx (rows, width) = or +=, and sums (2, width) = Σ_r dy·x̂ and Σ_r dy, in one pass, in main memory.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dx: ViewMut,
    accumulate: bool,
    sums: ViewMut,
    dy: View,
    x: View,
    stats: View,
    weight: Option<View>,
    shape: Shape,
) {
    let (dx, sums) = (dx.cpu(), sums.cpu());
    let (dy, x, stats) = (dy.cpu(), x.cpu(), stats.cpu());
    let Shape { rows, width, .. } = shape;
    assert_eq!((dx.len(), dy.len(), x.len()), (rows * width, rows * width, rows * width), "{shape:?}");
    assert_eq!((stats.len(), sums.len()), (2 * rows, 2 * width), "{shape:?}");
    let weight = weight.map(View::cpu);
    let part = part_rows(rows);
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(part * width)
        .zip(dy.par_chunks(part * width).zip(x.par_chunks(part * width)))
        .zip(stats.par_chunks(2 * part))
        .map(|((dx, (dy, x)), stats)| {
            let mut sums = vec![0.0; 2 * width];
            let (dweight, dbias) = sums.split_at_mut(width);
            match weight {
                Some(weight) => backward_rows(dx, accumulate, dweight, dbias, dy, x, stats, weight),
                None => backward_rows(dx, accumulate, dweight, dbias, dy, x, stats, &vec![1.0; width]),
            }
            sums
        })
        .collect();
    sums.fill(0.0);
    for part in &parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

vectorised! {
    fn backward_rows(dx: &mut [f32], accumulate: bool, dweight: &mut [f32], dbias: &mut [f32], dy: &[f32], x: &[f32], stats: &[f32], weight: &[f32]) {
        let width = weight.len();
        let (dweight, dbias) = (&mut dweight[..width], &mut dbias[..width]);
        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)).zip(stats.chunks_exact(2));
        for (((dx, dy), x), stats) in rows {
            let (mean, rstd) = (stats[0], stats[1]);
            let g_mean = sum(width, |i| dy[i] * weight[i]) / width as f32;
            let gx_mean = sum(width, |i| dy[i] * weight[i] * (x[i] - mean)) * rstd / width as f32;
            for i in 0..width {
                let normal = (x[i] - mean) * rstd;
                let old = if accumulate { dx[i] } else { 0.0 };
                dx[i] = old + rstd * (dy[i] * weight[i] - g_mean - normal * gx_mean);
                dweight[i] += dy[i] * normal;
                dbias[i] += dy[i];
            }
        }
    }
}

/// Rows of a part: sums over rows are cut into parts whose borders depend on the shape alone, each summed by one thread.
fn part_rows(rows: usize) -> usize {
    rows.div_ceil(16).max(64)
}

/// db (width) = or += (`add`) Σ_r dy.
pub fn backward_bias((mut db, add): (ViewMut, bool), dy: View, shape: Shape) {
    let Shape { rows, width, .. } = shape;
    if let Some(device) = dy.device() {
        let all = calls::Summed::all(rows, width);
        let parts = device.take(all.parts() * size_of::<f32>());
        return device.run_all(calls::column_sums((db.f32(), add), parts.at(), dy.bf16(), all));
    }
    if !add {
        db.reborrow().clear();
    }
    let (db, dy) = (db.cpu(), dy.cpu());
    let part = part_rows(rows);
    let parts: Vec<Vec<f32>> = dy
        .par_chunks(part * width)
        .map(|dy| {
            let mut sum = vec![0.0; width];
            bias_rows(&mut sum, dy, width);
            sum
        })
        .collect();
    for part in &parts {
        for (total, part) in db.iter_mut().zip(part) {
            *total += part;
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
