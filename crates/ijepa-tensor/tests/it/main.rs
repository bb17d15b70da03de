//! The op table against its references, its gradients, and the number of threads.

mod bfloat16;
mod cuda;
mod gradients;
mod instruction_sets;
mod optimiser;
mod parity;
mod threads;

use ijepa_tensor::cases::{Case, Kind, Operand};
use ijepa_tensor::cuda::Device;
use ijepa_tensor::{Buf, Pool, Precision, Slot, Tape};
use std::rc::Rc;

/// Repeatable values of about unit size (a linear congruential generator; quality does not matter here).
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32) * 4.0 - 2.0
        })
        .collect()
}

fn inputs(case: &Case) -> Vec<Vec<f32>> {
    case.inputs().iter().enumerate().map(|(i, input)| values(input.rows * input.width, i as u64 + 1)).collect()
}

/// What one run of a case gives.
struct Outcome {
    output: Vec<f32>,
    /// For each input, the gradient of Σ direction·output; `None` where no gradient flows.
    gradients: Vec<Option<Vec<f32>>>,
}

/// Runs a case forward `calls` times on the same inputs, and backward from `direction` for each.
fn run(case: &Case, inputs: &[Vec<f32>], direction: Option<&[f32]>, calls: usize) -> Outcome {
    run_in(Precision::F32, case, inputs, direction, calls)
}

/// As [`run`], linear layers multiplying in `precision`.
fn run_in(precision: Precision, case: &Case, inputs: &[Vec<f32>], direction: Option<&[f32]>, calls: usize) -> Outcome {
    run_on(None, precision, case, inputs, direction, calls)
}

/// As [`run_in`], on a GPU or on the CPU.
fn run_on(
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
    let zeros = vec![0.0; blob.len()];
    let (params, mut grads) = match device {
        Some(device) => (Buf::parameters_on(device, &blob), Buf::on(device, &zeros)),
        None => (Buf::from_slice(&blob), Buf::from_slice(&zeros)),
    };
    let mut tape = Tape::training(&pool, params.view(), grads.view_mut()).in_precision(precision);
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
            tape.backward_from(&y, direction);
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
fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let size = expected.iter().fold(1e-30_f64, |size, x| size.max(x.abs()));
    got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs()).fold(0.0, f64::max) / size
}
