//! Linear layer with bias, the layer norm or GELU that often stands before it and the residual that often follows.
//!
//! y (rows, out) = x (rows, in) · Wᵀ + b [+ residual],  W (out, in) as PyTorch stores it.
//! Backward: dx = dy · W, dW += dyᵀ · x, db += Σ_r dy, d(residual) = dy.

use crate::buf::{Buf, View, ViewMut};
use crate::cuda::launch::{Bf16, Pointer};
use crate::cuda::{Out, Product, calls};
use crate::gemm::{Fused, Gemm, Layout, Map, Precision, Window, fused};
use crate::ops::layer_norm::{self, Affine};
use crate::tape::{Slot, Tape, Var};

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

impl Linear {
    /// The layer that gives the first `outputs` of y, and the layer that gives the others.
    pub fn split(self, outputs: usize) -> (Linear, Linear) {
        let inputs = self.weight.len / self.bias.len;
        let part = |first: usize, outputs: usize| Linear {
            weight: Slot { offset: self.weight.offset + first * inputs, len: outputs * inputs },
            bias: Slot { offset: self.bias.offset + first, len: outputs },
        };
        (part(0, outputs), part(outputs, self.bias.len - outputs))
    }
}

/// What stands between x and the product. On a CPU it is applied while x is packed for the product, forward and again backward, so that
/// its result is never in memory; on a GPU its result is there for the time of the product.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Norm(Affine, f32),
    Gelu,
}

impl<'p> Tape<'p> {
    /// x (rows, in) → linear(x) (rows, out).
    pub fn linear(&mut self, x: &Var, layer: Linear) -> Var {
        self.linear_call(x, Before::Nothing, layer, None)
    }

    /// x (rows, in) → residual (rows, out) + linear(x).
    pub fn linear_residual(&mut self, x: &Var, layer: Linear, residual: &Var) -> Var {
        self.linear_call(x, Before::Nothing, layer, Some(residual))
    }

    /// x (rows, in) → linear(layer_norm(x)) (rows, out).
    pub fn norm_linear(&mut self, x: &Var, norm: Affine, eps: f32, layer: Linear) -> Var {
        self.linear_call(x, Before::Norm(norm, eps), layer, None)
    }

    /// x (rows, in) → residual (rows, out) + linear(gelu(x)).
    pub fn gelu_linear_residual(&mut self, x: &Var, layer: Linear, residual: &Var) -> Var {
        self.linear_call(x, Before::Gelu, layer, Some(residual))
    }

    /// x (rows, in) → linear(gelu(x)) (rows, out).
    pub fn gelu_linear(&mut self, x: &Var, layer: Linear) -> Var {
        self.linear_call(x, Before::Gelu, layer, None)
    }

    fn linear_call(&mut self, x: &Var, before: Before, layer: Linear, residual: Option<&Var>) -> Var {
        let shape = Shape { rows: x.rows(), inputs: x.width(), outputs: layer.bias.len };
        let mut stats = match before {
            Before::Norm(_, eps) => {
                let mut stats = self.take_f32(2 * shape.rows);
                if !self.on_gpu() {
                    layer_norm::statistics(stats.view_mut(), x.view(), norm_shape(shape, eps));
                }
                Some(stats)
            }
            _ => None,
        };
        let mut y = self.take(shape.rows * shape.outputs);
        let precision = self.precision();
        let mut room = None;
        let input = self.input_of(x, before, &mut stats, &mut room);
        let (weight, bias) = (self.param(layer.weight), self.param(layer.bias));
        forward(y.view_mut(), input, weight, bias, residual.map(Var::view), shape, precision);
        let tracked = self.recording();
        let y = self.var(y, shape.rows, shape.outputs, tracked);
        if !tracked {
            stats.into_iter().for_each(|stats| self.put(stats));
            return y;
        }
        let (x, key) = (x.clone(), y.key());
        let residual = residual.map(Var::key);
        self.record(move |tape| {
            let Some(dy) = tape.take_gradient(key) else { return };
            backward_bias(tape.param_grad(layer.bias), dy.view(), shape);
            if let Before::Gelu = before
                && x.tracked()
            {
                let (key, mut dx, mut hidden) = (x.key(), tape.take(x.len()), tape.own(x));
                backward_input(dx.view_mut(), dy.view(), weight, Some(hidden.view_mut()), shape, precision);
                // By now gelu(hidden).
                let activated = Input::Plain(hidden.view());
                backward_weight(tape.param_grad(layer.weight), dy.view(), activated, shape, precision);
                tape.put(hidden);
                tape.pass_gradient(key, dx);
            } else {
                let (mut stats, mut room) = (stats, None);
                let input = tape.input_of(&x, before, &mut stats, &mut room);
                backward_weight(tape.param_grad(layer.weight), dy.view(), input, shape, precision);
                tape.linear_backward_input(&x, before, dy.view(), weight, stats, shape);
            }
            match residual {
                Some(residual) => tape.pass_gradient(residual, dy),
                None => tape.put(dy),
            }
        });
        y
    }

    fn linear_backward_input(
        &mut self,
        x: &Var,
        before: Before,
        dy: View,
        weight: View,
        stats: Option<Buf>,
        shape: Shape,
    ) {
        match (before, stats) {
            (Before::Norm(affine, eps), Some(stats)) => {
                let mut normal = self.take(x.len());
                backward_input(normal.view_mut(), dy, weight, None, shape, self.precision());
                self.layer_norm_backward(x, Some(affine), normal, stats, eps);
            }
            _ if x.tracked() => {
                let mut dx = self.take(x.len());
                backward_input(dx.view_mut(), dy, weight, None, shape, self.precision());
                self.pass_gradient(x.key(), dx);
            }
            _ => {}
        }
    }

    /// x as the product reads it. A GPU makes room for it and finds the statistics on the way, again when it goes back: the same ones.
    fn input_of<'a>(
        &self,
        x: &'a Var,
        before: Before,
        stats: &'a mut Option<Buf>,
        room: &'a mut Option<Buf>,
    ) -> Input<'a>
    where
        'p: 'a,
    {
        if let (Some(device), false) = (x.view().device(), matches!(before, Before::Nothing)) {
            let room = room.insert(self.take(x.len()));
            match (before, stats) {
                (Before::Norm(affine, eps), Some(stats)) => {
                    let (weight, bias) = (Some(self.param(affine.weight)), Some(self.param(affine.bias)));
                    let shape = layer_norm::Shape { rows: x.rows(), width: x.width(), eps };
                    layer_norm::forward(room.view_mut(), stats.view_mut(), x.view(), weight, bias, shape);
                }
                _ => device.run(calls::gelu_forward(room.view_mut().bf16(), x.view().bf16(), (x.rows(), x.width()))),
            }
            return Input::Plain(room.view());
        }
        match (before, stats) {
            (Before::Norm(affine, _), Some(stats)) => {
                let (weight, bias) = (self.param(affine.weight), self.param(affine.bias));
                Input::Norm { x: x.view(), stats: stats.view(), weight, bias }
            }
            (Before::Gelu, _) => Input::Gelu(x.view()),
            _ => Input::Plain(x.view()),
        }
    }
}

/// What a linear layer reads, each (rows, in).
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// x
    Plain(View<'a>),
    /// gelu(x)
    Gelu(View<'a>),
    /// layer_norm(x)
    Norm {
        /// x
        x: View<'a>,
        /// Mean and rstd of each row (rows, 2).
        stats: View<'a>,
        /// Scale (in).
        weight: View<'a>,
        /// Shift (in).
        bias: View<'a>,
    },
}

impl<'a> Input<'a> {
    fn cpu(self) -> (&'a [f32], Map<'a>) {
        match self {
            Input::Plain(x) => (x.cpu(), Map::Plain),
            Input::Gelu(x) => (x.cpu(), Map::Gelu),
            Input::Norm { x, stats, weight, bias } => {
                (x.cpu(), Map::Norm { stats: stats.cpu(), weight: weight.cpu(), bias: bias.cpu() })
            }
        }
    }

    /// On a GPU, where what stood before the product is done.
    fn bf16(self) -> Pointer<Bf16> {
        match self {
            Input::Plain(x) => x.bf16(),
            Input::Gelu(_) | Input::Norm { .. } => panic!("a product of a GPU packs nothing"),
        }
    }
}

fn norm_shape(shape: Shape, eps: f32) -> layer_norm::Shape {
    layer_norm::Shape { rows: shape.rows, width: shape.inputs, eps }
}

/// y (rows, out) = x (rows, in) · weightᵀ + bias [+ residual].
pub fn forward(
    y: ViewMut,
    x: Input,
    weight: View,
    bias: View,
    residual: Option<View>,
    shape: Shape,
    precision: Precision,
) {
    let Shape { rows, inputs, outputs } = shape;
    let product = Gemm { m: rows, n: outputs, k: inputs, a: Layout::Plain, b: Layout::Transposed, accumulate: false };
    if let Some(device) = weight.device() {
        let (bias, added) = (Some(bias.bf16()), residual.map(View::bf16));
        let (out, a, b) = (Out::Bf16(y.bf16()), x.bf16(), weight.bf16());
        return device.multiply(Product { out, a, b, bias, added, shape: product });
    }
    let (y, weight, bias, residual) = (y.cpu(), weight.cpu(), bias.cpu(), residual.map(View::cpu));
    let (x, map_a) = x.cpu();
    fused(y, x, weight, product, Fused { map_a, bias: Some(bias), residual, precision, ..Fused::default() });
}

/// dx (rows, in) = dy · weight [∘ gelu′(hidden)]; `hidden` becomes gelu(hidden), which the gradient of the weights needs next.
pub fn backward_input(
    dx: ViewMut,
    dy: View,
    weight: View,
    hidden: Option<ViewMut>,
    shape: Shape,
    precision: Precision,
) {
    let Shape { rows, inputs, outputs } = shape;
    let product = Gemm { m: rows, n: inputs, k: outputs, a: Layout::Plain, b: Layout::Plain, accumulate: false };
    if let Some(device) = dy.device() {
        let dx = dx.bf16();
        let (out, a, b) = (Out::Bf16(dx), dy.bf16(), weight.bf16());
        device.multiply(Product { out, a, b, bias: None, added: None, shape: product });
        if let Some(hidden) = hidden {
            let hidden = hidden.bf16();
            device.run(calls::gelu_backward(dx, hidden, dx, hidden, (rows, inputs)));
        }
        return;
    }
    let (dx, dy, weight) = (dx.cpu(), dy.cpu(), weight.cpu());
    let gelu = hidden.map(|hidden| Window::of(hidden.cpu(), inputs));
    fused(dx, dy, weight, product, Fused { gelu, precision, ..Fused::default() });
}

/// dweight (out, in) = or += (`add`) dyᵀ · x.
pub fn backward_weight((dweight, add): (ViewMut, bool), dy: View, x: Input, shape: Shape, precision: Precision) {
    let Shape { rows, inputs, outputs } = shape;
    let product = Gemm { m: outputs, n: inputs, k: rows, a: Layout::Transposed, b: Layout::Plain, accumulate: add };
    if let Some(device) = dy.device() {
        let (out, a, b) = (Out::F32(dweight.f32()), dy.bf16(), x.bf16());
        return device.multiply(Product { out, a, b, bias: None, added: None, shape: product });
    }
    let (dweight, dy) = (dweight.cpu(), dy.cpu());
    let (x, map_b) = x.cpu();
    fused(dweight, dy, x, product, Fused { map_b, precision, ..Fused::default() });
}

/// dbias (out) = or += (`add`) Σ_r dy.
pub fn backward_bias(dbias: (ViewMut, bool), dy: View, shape: Shape) {
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
