//! The op table on kernels: every case forward and backward as the tape would start it, plain products in between.
//!
//! Expected are the references in f64 forward, and backward the CPU's ops, which are held to dual numbers elsewhere; both on inputs
//! that are bf16 already, so that what remains is the rounding of what kernels store.

use super::machine::{Half, Machine, Memory, machines, rounded};
use crate::{inputs, run, values};
use ijepa_tensor::cases::{Case, cases};
use ijepa_tensor::cuda::calls::{self, Attended, Summed};
use ijepa_tensor::cuda::launch::{Bf16, Launch, Pointer};
use ijepa_tensor::ops::{attention, layer_norm, linear};

/// Half a step of bf16, which has 8 binary digits: the error of one rounding, of a value's size at most.
const ROUNDING: f64 = 1.0 / 256.0;

/// What gradients of parameters are before a kernel adds to them.
const START: f32 = 0.25;

/// A gradient, and what it was added to.
struct Gradient {
    values: Vec<f32>,
    start: f32,
}

struct Outcome {
    output: Vec<f32>,
    gradients: Vec<Option<Gradient>>,
}

fn written(values: Vec<f32>) -> Option<Gradient> {
    Some(Gradient { values, start: 0.0 })
}

/// Rows and products of f32 values that hold bf16.
fn product(len: usize, terms: usize, term: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..len).map(|at| (0..terms).map(|k| f64::from(term(at, k))).sum::<f64>() as f32).collect()
}

/// One run of a case on the machine.
struct Run<'a> {
    machine: &'a Machine,
    inputs: &'a [Vec<f32>],
    /// Gradient of the output.
    u: &'a [f32],
    /// Whether kernels that can do both add to what gradients of activations hold, or write them.
    accumulate: bool,
}

impl Run<'_> {
    fn input(&self, i: usize) -> Memory<Half> {
        self.machine.bf16(&self.inputs[i])
    }

    fn parameter(&self, i: usize) -> Memory<f32> {
        self.machine.buffer(&self.inputs[i])
    }

    fn direction(&self) -> Memory<Half> {
        self.machine.bf16(self.u)
    }

    /// A gradient that is written or added to.
    fn open(&self, len: usize) -> Memory<Half> {
        if self.accumulate { self.machine.bf16(&vec![0.5; len]) } else { self.machine.empty_bf16(len) }
    }

    fn close(&self, gradient: &Memory<Half>) -> Option<Gradient> {
        Some(Gradient { values: gradient.floats(), start: if self.accumulate { 0.5 } else { 0.0 } })
    }

    /// What gradients of parameters start from, and hold before: nothing of value where they are written.
    fn held(&self) -> (f32, f32) {
        if self.accumulate { (START, START) } else { (0.0, f32::NAN) }
    }

    /// A gradient of a parameter, which is written or added to.
    fn sums(&self, len: usize, launches: impl FnOnce((Pointer<f32>, bool)) -> Vec<Launch>) -> Option<Gradient> {
        let (start, held) = self.held();
        let gradient = self.machine.buffer(&vec![held; len]);
        self.machine.run(launches((gradient.at(), self.accumulate)));
        Some(Gradient { values: gradient.read(), start })
    }

    fn column_sums(&self, x: &Memory<Half>, rows: Summed) -> Option<Gradient> {
        let parts = self.machine.empty_f32(rows.parts());
        self.sums(rows.width, |out| calls::column_sums(out, parts.at(), x.at(), rows).to_vec())
    }

    /// A linear layer of x, which kernels have made: output, dx rounded, dweight and dbias; input `first` is the weight.
    fn products(&self, x: &[f32], first: usize, residual: Option<usize>, shape: linear::Shape) -> Products {
        let linear::Shape { rows, inputs, outputs } = shape;
        let (weight, bias, u) = (&self.inputs[first], &self.inputs[first + 1], self.u);
        let mut output =
            product(rows * outputs, inputs, |at, k| x[at / outputs * inputs + k] * weight[at % outputs * inputs + k]);
        for (at, y) in output.iter_mut().enumerate() {
            *y += bias[at % outputs] + residual.map_or(0.0, |residual| self.inputs[residual][at]);
        }
        let dx =
            product(rows * inputs, outputs, |at, k| u[at / inputs * outputs + k] * weight[k * inputs + at % inputs]);
        let dweight =
            product(outputs * inputs, rows, |at, k| u[k * outputs + at / inputs] * x[k * inputs + at % inputs]);
        let dbias = self.column_sums(&self.direction(), Summed::all(rows, outputs));
        Products { output: rounded(&output), dx: rounded(&dx), dweight: written(dweight), dbias }
    }

    fn layer_norm(&self, affine: bool, shape: layer_norm::Shape) -> (Vec<f32>, Memory<f32>) {
        let (y, stats) = (self.machine.empty_bf16(self.inputs[0].len()), self.machine.empty_f32(2 * shape.rows));
        let (x, parameters) = (self.input(0), affine.then(|| (self.parameter(1), self.parameter(2))));
        let pointers = parameters.as_ref().map(|(weight, bias)| (weight.at(), bias.at()));
        self.machine.run([calls::layer_norm_forward(y.at(), stats.at(), x.at(), pointers, shape)]);
        (y.floats(), stats)
    }

    fn layer_norm_backward(
        &self,
        dy: &[f32],
        stats: &Memory<f32>,
        affine: bool,
        shape: layer_norm::Shape,
    ) -> Vec<Option<Gradient>> {
        let (dy, x, dx) = (self.machine.bf16(dy), self.input(0), self.open(self.inputs[0].len()));
        let weight = affine.then(|| self.parameter(1));
        let parts = self.machine.empty_f32(calls::layer_norm_parts(shape));
        let weight_at = weight.as_ref().map(Memory::at);
        let (to, from) = (dx.at(), stats.at());
        self.machine.run([calls::layer_norm_backward(
            to,
            self.accumulate,
            parts.at(),
            dy.at(),
            x.at(),
            from,
            weight_at,
            shape,
        )]);
        let mut gradients = vec![self.close(&dx)];
        if affine {
            let (start, held) = self.held();
            let sums = [(); 2].map(|()| self.machine.buffer(&vec![held; shape.width]));
            let [weight, bias] = [0, 1].map(|i| (sums[i].at(), self.accumulate));
            self.machine.run(calls::layer_norm_sums([weight, bias], parts.at(), shape));
            gradients.extend(sums.map(|sum| Some(Gradient { values: sum.read(), start })));
        }
        gradients
    }

    fn linear(&self, residual: bool, shape: linear::Shape) -> Outcome {
        let Products { output, dx, dweight, dbias } = self.products(&self.inputs[0], 1, residual.then_some(3), shape);
        let mut gradients = vec![written(dx), dweight, dbias];
        gradients.extend(residual.then(|| written(self.u.to_vec())));
        Outcome { output, gradients }
    }

    fn norm_linear(&self, shape: linear::Shape) -> Outcome {
        let norm = layer_norm::Shape { rows: shape.rows, width: shape.inputs, eps: 1e-6 };
        let (normal, stats) = self.layer_norm(true, norm);
        let Products { output, dx, dweight, dbias } = self.products(&normal, 3, None, shape);
        let mut gradients = self.layer_norm_backward(&dx, &stats, true, norm);
        gradients.extend([dweight, dbias]);
        Outcome { output, gradients }
    }

    fn gelu_linear(&self, residual: bool, shape: linear::Shape) -> Outcome {
        let size = (shape.rows, shape.inputs);
        let (hidden, y) = (self.input(0), self.machine.empty_bf16(self.inputs[0].len()));
        self.machine.run([calls::gelu_forward(y.at(), hidden.at(), size)]);
        let Products { output, dx, dweight, dbias } = self.products(&y.floats(), 1, residual.then_some(3), shape);
        // In place, as the tape has it: the gradient becomes dx, and the hidden values their GELU.
        let dx = self.machine.bf16(&dx);
        let launch = calls::gelu_backward(dx.at(), hidden.at(), dx.at(), hidden.at(), size);
        self.machine.run([launch]);
        assert_eq!(hidden.read(), y.read(), "GELU forward, and again on the way back");
        let mut gradients = vec![written(dx.floats()), dweight, dbias];
        gradients.extend(residual.then(|| written(self.u.to_vec())));
        Outcome { output, gradients }
    }

    fn attention(&self, joint: bool, shape: attention::Shape) -> Outcome {
        let width = shape.width;
        let inputs: Vec<Memory<Half>> = (0..self.inputs.len()).map(|i| self.input(i)).collect();
        let gradients: Vec<Memory<Half>> =
            self.inputs.iter().map(|input| self.machine.empty_bf16(input.len())).collect();
        let parts = |all: &[Memory<Half>]| match joint {
            true => calls::joint(all[0].at(), width),
            false => calls::apart(all[0].at(), all[1].at(), width),
        };
        let rows = shape.batch * shape.queries;
        let (out, dout) = (self.machine.empty_bf16(rows * width), self.direction());
        let [sums, means] = [(); 2].map(|()| self.machine.empty_f32(rows * shape.heads));
        self.machine.run([calls::attention_forward(out.at(), sums.at(), parts(&inputs), shape)]);
        let attended = Attended { dout: dout.at(), out: out.at(), sums: sums.at(), means: means.at() };
        self.machine.run(calls::attention_backward(parts(&gradients), attended, parts(&inputs), shape));
        Outcome { output: out.floats(), gradients: gradients.iter().map(|it| written(it.floats())).collect() }
    }

    fn gather(&self, width: usize, rows: usize, index: &[u32]) -> Outcome {
        let (y, x, dy) = (self.machine.empty_bf16(index.len() * width), self.input(0), self.direction());
        let (starts, order) = calls::inverse(index, rows);
        let [at, starts, order] = [index, &starts, &order].map(|list| self.machine.buffer(list));
        let dx = self.open(rows * width);
        self.machine.run([
            calls::gather_forward(y.at(), x.at(), at.at(), (index.len(), width)),
            calls::gather_backward(dx.at(), self.accumulate, dy.at(), (starts.at(), order.at()), (rows, width)),
        ]);
        Outcome { output: y.floats(), gradients: vec![self.close(&dx)] }
    }

    fn position(&self, width: usize, index: &[u32]) -> Outcome {
        let (y, x, table) = (self.machine.empty_bf16(self.inputs[0].len()), self.input(0), self.parameter(1));
        let at = self.machine.buffer(index);
        self.machine.run([calls::position_forward(y.at(), x.at(), table.at(), at.at(), (index.len(), width))]);
        Outcome { output: y.floats(), gradients: vec![written(self.u.to_vec()), None] }
    }

    fn assemble(&self, shape: ijepa_tensor::ops::assemble::Shape, targets: &[u32]) -> Outcome {
        let (y, z, dy) = (self.machine.empty_bf16(self.u.len()), self.input(0), self.direction());
        let (mask, table, targets) = (self.parameter(1), self.parameter(2), self.machine.buffer(targets));
        let dz = self.open(self.inputs[0].len());
        self.machine.run([
            calls::assemble_forward(y.at(), z.at(), (mask.at(), table.at()), targets.at(), shape),
            calls::assemble_backward_context(dz.at(), self.accumulate, dy.at(), shape),
        ]);
        let dmask = self.column_sums(&dy, calls::assembled_masks(shape));
        Outcome { output: y.floats(), gradients: vec![self.close(&dz), dmask, None] }
    }

    fn mean_tokens(&self, batch: usize, tokens: usize, width: usize) -> Outcome {
        let (y, x, dy) = (self.machine.empty_bf16(batch * width), self.input(0), self.direction());
        let dx = self.open(self.inputs[0].len());
        self.machine.run([
            calls::mean_tokens_forward(y.at(), x.at(), batch, (tokens, width)),
            calls::mean_tokens_backward(dx.at(), self.accumulate, dy.at(), batch, (tokens, width)),
        ]);
        Outcome { output: y.floats(), gradients: vec![self.close(&dx)] }
    }

    /// A loss from the losses of rows, and the gradient that a kernel makes of its own.
    fn loss(
        &self,
        rows: usize,
        factor: f64,
        forward: impl FnOnce(Pointer<f32>) -> Launch,
        backward: impl FnOnce(Pointer<Bf16>, Pointer<f32>) -> Launch,
    ) -> Outcome {
        let (losses, loss, dloss) =
            (self.machine.empty_f32(rows), self.machine.empty_f32(1), self.machine.buffer(self.u));
        let dx = self.machine.empty_bf16(self.inputs[0].len());
        self.machine.run([
            forward(losses.at()),
            calls::sum_values(loss.at(), losses.at(), rows, factor),
            backward(dx.at(), dloss.at()),
        ]);
        Outcome { output: loss.read(), gradients: vec![written(dx.floats()), None] }
    }

    fn smooth_l1(&self, size: (usize, usize)) -> Outcome {
        let (prediction, target) = (self.input(0), self.input(1));
        self.loss(
            size.0,
            1.0 / (size.0 * size.1) as f64,
            |losses| calls::smooth_l1_forward(losses, prediction.at(), target.at(), size),
            |dx, dloss| calls::smooth_l1_backward(dx, dloss, prediction.at(), target.at(), size),
        )
    }

    fn cross_entropy(&self, size: (usize, usize)) -> Outcome {
        let (scores, targets) = (self.input(0), self.parameter(1));
        self.loss(
            size.0,
            1.0,
            |losses| calls::cross_entropy_forward(losses, scores.at(), targets.at(), size),
            |dx, dloss| calls::cross_entropy_backward(dx, dloss, scores.at(), targets.at(), size),
        )
    }

    fn drop_path(&self, tokens: usize, width: usize, scales: &[f32]) -> Outcome {
        let size = (scales.len() * tokens, width);
        let (x, branch, dy, scales) = (self.input(0), self.input(1), self.direction(), self.machine.buffer(scales));
        let [y, dbranch] = [(); 2].map(|()| self.machine.empty_bf16(size.0 * width));
        self.machine.run([
            calls::drop_path(y.at(), Some(x.at()), branch.at(), scales.at(), tokens, size),
            calls::drop_path(dbranch.at(), None, dy.at(), scales.at(), tokens, size),
        ]);
        Outcome { output: y.floats(), gradients: vec![written(self.u.to_vec()), written(dbranch.floats())] }
    }

    fn case(&self, case: &Case) -> Outcome {
        match *case {
            Case::Linear(shape, residual) => self.linear(residual, shape),
            Case::NormLinear(shape) => self.norm_linear(shape),
            Case::GeluLinear(shape, residual) => self.gelu_linear(residual, shape),
            Case::LayerNorm(shape, affine) => {
                let (output, stats) = self.layer_norm(affine, shape);
                Outcome { output, gradients: self.layer_norm_backward(self.u, &stats, affine, shape) }
            }
            Case::Attention(shape) => self.attention(true, shape),
            Case::AttentionOf(shape) => self.attention(false, shape),
            Case::Position(width, _, ref index) => self.position(width, index),
            Case::Gather(width, rows, ref index) => self.gather(width, rows, index),
            Case::Assemble(shape, _, ref targets) => self.assemble(shape, targets),
            Case::MeanTokens(batch, tokens, width) => self.mean_tokens(batch, tokens, width),
            Case::SmoothL1(rows, width) => self.smooth_l1((rows, width)),
            Case::CrossEntropy(rows, classes) => self.cross_entropy((rows, classes)),
            Case::DropPath(tokens, width, ref scales) => self.drop_path(tokens, width, scales),
        }
    }
}

struct Products {
    output: Vec<f32>,
    dx: Vec<f32>,
    dweight: Option<Gradient>,
    dbias: Option<Gradient>,
}

/// The table, and shapes at the borders of a kernel's own tiles, stripes and lanes.
fn all_cases() -> Vec<Case> {
    let joint = |batch, tokens, heads, width| {
        Case::Attention(attention::Shape { batch, queries: tokens, tokens, heads, width })
    };
    let apart = |batch, queries, tokens, heads, width| {
        Case::AttentionOf(attention::Shape { batch, queries, tokens, heads, width })
    };
    let norm = |rows, width| Case::LayerNorm(layer_norm::Shape { rows, width, eps: 1e-6 }, true);
    let mut all = cases();
    all.extend([
        joint(1, 70, 2, 160),
        joint(1, 113, 1, 24),
        joint(2, 65, 1, 96),
        joint(1, 129, 2, 128),
        apart(1, 7, 200, 1, 80),
        apart(2, 90, 33, 2, 96),
        apart(1, 3, 4, 1, 5),
        joint(1, 1024, 1, 24),
        norm(2300, 16),
        norm(3, 1280),
        Case::LayerNorm(layer_norm::Shape { rows: 2, width: 1000, eps: 1e-5 }, false),
        Case::Linear(linear::Shape { rows: 5000, inputs: 1, outputs: 264 }, false),
        Case::Linear(linear::Shape { rows: 70, inputs: 2, outputs: 37 }, false),
        Case::MeanTokens(2, 50, 520),
        Case::CrossEntropy(9, 16),
        Case::Gather(48, 5, vec![4, 4, 4, 1]),
    ]);
    all
}

/// Whether a kernel of the case's way back can add to a gradient of an activation.
fn accumulates(case: &Case) -> bool {
    use Case::{Assemble, Gather, LayerNorm, MeanTokens, NormLinear};
    matches!(case, LayerNorm(..) | NormLinear(_) | Gather(..) | Assemble(..) | MeanTokens(..))
}

/// Allowed errors in roundings: of each value's size, and of the largest value's.
struct Allowed {
    own: f64,
    largest: f64,
}

/// Values that are stored once, those that go through one product of rounded values or through several, and f32.
const STORED: Allowed = Allowed { own: 1.01, largest: 0.005 };
const THROUGH_ONE: Allowed = Allowed { own: 1.0, largest: 1.0 };
const THROUGH_SEVERAL: Allowed = Allowed { own: 1.0, largest: 2.0 };
const F32: Allowed = Allowed { own: 0.0, largest: 0.01 };

fn allowed(case: &Case, gradient: Option<usize>) -> Allowed {
    match (case, gradient) {
        (Case::Attention(_) | Case::AttentionOf(_) | Case::NormLinear(_) | Case::GeluLinear(..), None) => THROUGH_ONE,
        (Case::Attention(_) | Case::AttentionOf(_) | Case::NormLinear(_) | Case::GeluLinear(..), _) => THROUGH_SEVERAL,
        (Case::SmoothL1(..) | Case::CrossEntropy(..), None)
        | (Case::LayerNorm(..), Some(1 | 2))
        | (Case::Linear(..), Some(1 | 2))
        | (Case::Assemble(..), Some(1)) => F32,
        _ => STORED,
    }
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: impl Iterator<Item = f64> + Clone, allowed: &Allowed) {
    let largest = expected.clone().fold(1e-30_f64, |largest, value| largest.max(value.abs()));
    assert_eq!(got.len(), expected.clone().count(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        let limit = ROUNDING * (allowed.own * expected.abs() + allowed.largest * largest);
        assert!(error <= limit, "{what}, value {at}: {got} against {expected}, error {error:e} beyond {limit:e}");
    }
}

fn bits(outcome: &Outcome) -> Vec<u32> {
    let gradients = outcome.gradients.iter().flatten().flat_map(|gradient| &gradient.values);
    outcome.output.iter().chain(gradients).map(|value| value.to_bits()).collect()
}

#[test]
fn every_op_on_kernels_agrees_with_its_reference_forward_and_backward_in_any_order_of_threads() {
    machines().for_each(agrees);
}

fn agrees(mut machine: Machine) {
    // Instructions know of one order.
    let orders = if machine.of_ptx { 1 } else { 3 };
    for case in all_cases() {
        let inputs: Vec<Vec<f32>> = inputs(&case).iter().map(|input| rounded(input)).collect();
        let exact: Vec<Vec<f64>> = inputs.iter().map(|x| x.iter().map(|&x| f64::from(x)).collect()).collect();
        let expected = case.reference(&exact);
        let u = rounded(&values(expected.len(), 99));
        let cpu = run(&case, &inputs, Some(&u), 1);
        for &accumulate in if accumulates(&case) { &[false, true][..] } else { &[false] } {
            machine.seed = 0;
            let outcome = Run { machine: &machine, inputs: &inputs, u: &u, accumulate }.case(&case);
            assert_close(&format!("{case:?}"), &outcome.output, expected.iter().copied(), &allowed(&case, None));
            for (i, gradient) in outcome.gradients.iter().enumerate() {
                let Some(Gradient { values, start }) = gradient else {
                    assert!(!case.has_gradient(i), "{case:?}: input {i} got no gradient");
                    continue;
                };
                let expected = cpu.gradients[i].as_ref().expect("the CPU has it").iter();
                let expected = expected.map(|value| f64::from(*value) + f64::from(*start));
                assert_close(&format!("{case:?}, gradient of input {i}"), values, expected, &allowed(&case, Some(i)));
            }
            for seed in 1..orders {
                machine.seed = seed;
                let other = Run { machine: &machine, inputs: &inputs, u: &u, accumulate }.case(&case);
                assert!(bits(&outcome) == bits(&other), "{case:?}: other bits in another order of threads");
            }
        }
    }
}
