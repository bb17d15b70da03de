//! How does a case of the op table run, and how far is it from what it should give? For tests, and for the look that `ijepa doctor` takes at a GPU.

use crate::cases::{Case, Kind, Operand, cases};
use crate::cuda::{self, Device};
use crate::ops::linear;
use crate::{Buf, Pool, Precision, Slot, Tape};
use std::rc::Rc;

/// Repeatable values of about unit size (a linear congruential generator; quality does not matter here).
pub fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32) * 4.0 - 2.0
        })
        .collect()
}

/// What a case is fed here.
pub fn inputs(case: &Case) -> Vec<Vec<f32>> {
    case.inputs().iter().enumerate().map(|(i, input)| values(input.rows * input.width, i as u64 + 1)).collect()
}

/// What one run of a case gives.
pub struct Outcome {
    /// What it computed.
    pub output: Vec<f32>,
    /// For each input, the gradient of Σ direction·output; `None` where no gradient flows.
    pub gradients: Vec<Option<Vec<f32>>>,
}

/// Runs a case forward `calls` times on the same inputs, and backward from `direction` for each.
pub fn run(case: &Case, inputs: &[Vec<f32>], direction: Option<&[f32]>, calls: usize) -> Outcome {
    run_in(Precision::F32, case, inputs, direction, calls)
}

/// As [`run`], linear layers multiplying in `precision`.
pub fn run_in(
    precision: Precision,
    case: &Case,
    inputs: &[Vec<f32>],
    direction: Option<&[f32]>,
    calls: usize,
) -> Outcome {
    run_on(None, precision, case, inputs, direction, calls)
}

/// As [`run_in`], on a GPU or on the CPU.
pub fn run_on(
    device: Option<&Rc<Device>>,
    precision: Precision,
    case: &Case,
    inputs: &[Vec<f32>],
    direction: Option<&[f32]>,
    calls: usize,
) -> Outcome {
    let pool = Pool::on(device);
    let mut blob = Vec::new();
    let mut slots = Vec::new();
    for (input, values) in case.inputs().iter().zip(inputs) {
        if input.kind == Kind::Parameter {
            slots.push(Slot { offset: blob.len(), len: values.len() });
            blob.extend_from_slice(values);
            // As in a model: each on a cache line of its own.
            blob.resize(blob.len().next_multiple_of(16), 0.0);
        }
    }
    let nothing = vec![f32::NAN; blob.len()];
    let (params, mut grads) = match device {
        Some(device) => (Buf::parameters_on(device, &blob), Buf::on(device, &nothing)),
        None => (Buf::from_slice(&blob), Buf::from_slice(&nothing)),
    };
    let mut tape = Tape::training(&pool, params.view(), grads.view_mut()).in_precision(precision).replacing(true);
    let mut next_slot = slots.iter();
    let operands: Vec<Operand> = case
        .inputs()
        .iter()
        .zip(inputs)
        .map(|(input, values)| match input.kind {
            Kind::Activation => Operand::Var(tape.input(values, input.rows, input.width)),
            Kind::Constant => Operand::Var(tape.constant(values, input.rows, input.width)),
            Kind::Parameter => Operand::Slot(*next_slot.next().expect("a slot for each parameter")),
        })
        .collect();
    let mut output = Vec::new();
    for _ in 0..calls {
        let y = case.call(&mut tape, &operands);
        output = y.to_vec();
        if let Some(direction) = direction {
            tape.backward_from(&y, direction, |_, _| {});
        }
    }
    let activations: Vec<Option<Vec<f32>>> = operands
        .iter()
        .map(|operand| match operand {
            Operand::Var(var) => tape.gradient(var).map(|gradient| gradient.to_vec()),
            Operand::Slot(_) => None,
        })
        .collect();
    drop(tape);
    let grads = grads.to_vec();
    let gradients = operands
        .iter()
        .zip(activations)
        .map(|(operand, activation)| match operand {
            Operand::Var(_) => activation,
            Operand::Slot(slot) => Some(grads[slot.range()].to_vec()),
        })
        .collect();
    Outcome { output, gradients }
}

/// Largest difference over the largest size.
pub fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let size = expected.iter().fold(1e-30_f64, |size, x| size.max(x.abs()));
    got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs()).fold(0.0, f64::max) / size
}

/// Half a step of bfloat16: the error of one rounding, of a value's size at most.
pub const ROUNDING: f64 = 1.0 / 256.0;

/// How far a GPU is from the CPU on a case, of the largest value each.
pub struct Distance {
    /// Of the result.
    pub output: f64,
    /// The largest of all gradients.
    pub gradients: f64,
}

impl Distance {
    /// Whether that is the rounding of what is stored on the way: once for results; gradients are products of what was rounded, and rounded again.
    pub fn is_rounding(&self) -> bool {
        self.output <= ROUNDING && self.gradients <= 2.0 * ROUNDING
    }
}

/// Runs the whole table on a GPU and on the CPU, twice each, so that gradients are added to: how far each case is off, or what the GPU says to it.
///
/// # Panics
/// When an input has a gradient on one device alone.
pub fn distances(device: &Rc<Device>) -> Vec<(Case, Result<Distance, cuda::Error>)> {
    let judged = |case: Case| {
        let distance = cuda::guarded(|| distance(device, &case));
        (case, distance)
    };
    cases().into_iter().map(|case| judged(fitted(case))).collect()
}

/// The case with a linear layer that a GPU computes: widths that are multiples of 8, as cuBLASLt wants them, more than one row.
fn fitted(case: Case) -> Case {
    let fitted = |linear::Shape { rows, inputs, outputs }| linear::Shape {
        rows: rows.max(2),
        inputs: inputs.next_multiple_of(8),
        outputs: outputs.next_multiple_of(8),
    };
    match case {
        Case::Linear(shape, residual) => Case::Linear(fitted(shape), residual),
        Case::NormLinear(shape) => Case::NormLinear(fitted(shape)),
        Case::GeluLinear(shape, residual) => Case::GeluLinear(fitted(shape), residual),
        other => other,
    }
}

fn distance(device: &Rc<Device>, case: &Case) -> Distance {
    let rounded = |values: &[f32]| values.iter().map(|&value| cuda::rounded(value)).collect::<Vec<f32>>();
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let inputs: Vec<Vec<f32>> = inputs(case).iter().map(|values| rounded(values)).collect();
    let direction = rounded(&values(run(case, &inputs, None, 1).output.len(), 99));
    let expected = run(case, &inputs, Some(&direction), 2);
    let got = run_on(Some(device), Precision::F32, case, &inputs, Some(&direction), 2);
    let of_gradients = got.gradients.iter().zip(&expected.gradients).map(|pair| match pair {
        (Some(got), Some(expected)) => error(got, &wide(expected)),
        (None, None) => 0.0,
        _ => panic!("{case:?}: an input has a gradient on one device alone"),
    });
    let gradients = of_gradients.fold(0.0, f64::max);
    Distance { output: error(&got.output, &wide(&expected.output)), gradients }
}
