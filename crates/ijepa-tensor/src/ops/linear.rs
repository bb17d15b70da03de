//! Linear layer with bias, and the residual that often follows.
//!
//! y (rows, out) = x (rows, in) · Wᵀ + b [+ residual],  W (out, in) as PyTorch stores it.
//! Backward: dx = dy · W, dW += dyᵀ · x, db += Σ_r dy, d(residual) = dy.

use crate::buf::{View, ViewMut};
use crate::gemm::{Gemm, Layout, gemm};
use crate::ops::layer_norm;
use crate::tape::{Slot, Tape, Var};
use crate::threads;
use crate::vector::vectorised;

/// Rows, and the widths on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
}

/// A layer's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// (out, in)
    pub weight: Slot,
    /// (out)
    pub bias: Slot,
}

impl<'p> Tape<'p> {
    /// x (rows, in) → (rows, out).
    pub fn linear(&mut self, x: &Var, layer: Linear) -> Var {
        self.linear_call(x, layer, None)
    }

    /// x (rows, in) → residual (rows, out) + linear(x).
    pub fn linear_residual(&mut self, x: &Var, layer: Linear, residual: &Var) -> Var {
        self.linear_call(x, layer, Some(residual))
    }

    fn linear_call(&mut self, x: &Var, layer: Linear, residual: Option<&Var>) -> Var {
        let shape = Shape { rows: x.rows(), inputs: x.width(), outputs: layer.bias.len };
        let weight = self.param(layer.weight);
        let mut y = self.take(shape.rows * shape.outputs);
        forward(y.view_mut(), x.view(), weight, self.param(layer.bias), residual.map(Var::view), shape);
        let tracked = self.recording();
        let y = self.var(y, shape.rows, shape.outputs, tracked);
        if !tracked {
            return y;
        }
        let (x, key) = (x.clone(), y.key());
        let residual = residual.map(Var::key);
        self.record(move |tape| {
            let Some(dy) = tape.take_gradient(key) else { return };
            backward_weight(tape.param_grad(layer.weight), dy.view(), x.view(), shape);
            backward_bias(tape.param_grad(layer.bias), dy.view(), shape);
            if x.tracked() {
                let (mut dx, accumulate) = tape.open_gradient(x.key());
                backward_input(dx.view_mut(), accumulate, dy.view(), weight, shape);
                tape.close_gradient(x.key(), dx);
            }
            match residual {
                Some(residual) => tape.pass_gradient(residual, dy),
                None => tape.put(dy),
            }
        });
        y
    }
}

/// y (rows, out) = x (rows, in) · weightᵀ + bias [+ residual].
pub fn forward(y: ViewMut, x: View, weight: View, bias: View, residual: Option<View>, shape: Shape) {
    let (ViewMut::Cpu(y), View::Cpu(x), View::Cpu(weight), View::Cpu(bias)) = (y, x, weight, bias);
    let residual = residual.map(|View::Cpu(residual)| residual);
    let Shape { rows, inputs, outputs } = shape;
    assert_eq!(bias.len(), outputs, "{shape:?}");
    threads::for_rows(y, outputs, |first, y| {
        let residual = residual.map(|residual| &residual[first * outputs..][..y.len()]);
        start_rows(y, bias, residual);
    });
    gemm(
        y,
        x,
        weight,
        Gemm { m: rows, n: outputs, k: inputs, a: Layout::Plain, b: Layout::Transposed, accumulate: true },
    );
}

vectorised! {
    fn start_rows(y: &mut [f32], bias: &[f32], residual: Option<&[f32]>) {
        let width = bias.len();
        match residual {
            Some(residual) => {
                for (y, residual) in y.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
                    for i in 0..width {
                        y[i] = residual[i] + bias[i];
                    }
                }
            }
            None => {
                for y in y.chunks_exact_mut(width) {
                    y.copy_from_slice(bias);
                }
            }
        }
    }
}

/// dx (rows, in) = or += dy · weight.
pub fn backward_input(dx: ViewMut, accumulate: bool, dy: View, weight: View, shape: Shape) {
    let (ViewMut::Cpu(dx), View::Cpu(dy), View::Cpu(weight)) = (dx, dy, weight);
    let Shape { rows, inputs, outputs } = shape;
    gemm(dx, dy, weight, Gemm { m: rows, n: inputs, k: outputs, a: Layout::Plain, b: Layout::Plain, accumulate });
}

/// dweight (out, in) += dyᵀ · x.
pub fn backward_weight(dweight: ViewMut, dy: View, x: View, shape: Shape) {
    let (ViewMut::Cpu(dweight), View::Cpu(dy), View::Cpu(x)) = (dweight, dy, x);
    let Shape { rows, inputs, outputs } = shape;
    gemm(
        dweight,
        dy,
        x,
        Gemm { m: outputs, n: inputs, k: rows, a: Layout::Transposed, b: Layout::Plain, accumulate: true },
    );
}

/// dbias (out) += Σ_r dy.
pub fn backward_bias(dbias: ViewMut, dy: View, shape: Shape) {
    layer_norm::backward_bias(dbias, dy, layer_norm::Shape { rows: shape.rows, width: shape.outputs, eps: 0.0 });
}

/// The plain statement.
pub mod reference {
    use super::Shape;
    use crate::scalar::Scalar;

    /// y (rows, out) = x (rows, in) · weightᵀ + bias [+ residual].
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T], weight: &[T], bias: &[T], residual: Option<&[T]>, shape: Shape) {
        let Shape { rows, inputs, outputs } = shape;
        for row in 0..rows {
            for out in 0..outputs {
                let mut sum = bias[out];
                for i in 0..inputs {
                    sum = sum + x[row * inputs + i] * weight[out * inputs + i];
                }
                y[row * outputs + out] = residual.map_or(sum, |residual| sum + residual[row * outputs + out]);
            }
        }
    }
}
