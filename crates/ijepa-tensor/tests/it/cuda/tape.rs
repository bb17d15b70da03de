//! The engine on a GPU: the tape over the op table, and memory that goes round.
//!
//! Expected is the CPU's tape on the same inputs, which are bf16 already; what remains is the rounding of what is stored on the way: once for
//! outputs, up to three times for gradients.

use super::machine::{device, rounded};
use crate::{Outcome, error, inputs, run, run_on, values};
use ijepa_tensor::cases::{Case, cases};
use ijepa_tensor::cuda::{driver, guarded};
use ijepa_tensor::ops::linear;
use ijepa_tensor::{Pool, Precision};

/// Half a step of bf16, of the largest value.
const ROUNDING: f64 = 1.0 / 256.0;

/// Inputs and the direction of the gradient.
fn fed(case: &Case) -> (Vec<Vec<f32>>, Vec<f32>) {
    let inputs: Vec<Vec<f32>> = inputs(case).iter().map(|values| rounded(values)).collect();
    let len = run(case, &inputs, None, 1).output.len();
    (inputs, rounded(&values(len, 99)))
}

#[test]
fn the_tape_gives_on_a_gpu_what_it_gives_on_the_cpu() {
    let Some((device, _turn)) = device() else { return };
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    for case in cases() {
        let (inputs, direction) = fed(&case);
        // Twice, so that gradients are added to.
        let expected = run(&case, &inputs, Some(&direction), 2);
        let got = run_on(Some(&device), Precision::F32, &case, &inputs, Some(&direction), 2);
        let off = error(&got.output, &wide(&expected.output));
        assert!(off <= ROUNDING, "{case:?}: {off:e}");
        for (i, (got, expected)) in got.gradients.iter().zip(&expected.gradients).enumerate() {
            match (got, expected) {
                (Some(got), Some(expected)) => {
                    let off = error(got, &wide(expected));
                    assert!(off <= 1.5 * ROUNDING, "{case:?}: gradient {i}: {off:e}");
                }
                (None, None) => {}
                _ => panic!("{case:?}: input {i} has a gradient on one device alone"),
            }
        }
    }
}

#[test]
fn a_gpu_gives_the_same_bits_again_in_memory_that_it_has() {
    let Some((device, _turn)) = device() else { return };
    let case = Case::GeluLinear(linear::Shape { rows: 20, inputs: 40, outputs: 24 }, true);
    let (inputs, direction) = fed(&case);
    let once = || -> (Outcome, usize) {
        let outcome = run_on(Some(&device), Precision::F32, &case, &inputs, Some(&direction), 1);
        (outcome, Pool::on(Some(&device)).allocations())
    };
    let (first, _) = once();
    let (second, allocated) = once();
    let (third, after) = once();
    assert_eq!((&first.output, &first.gradients), (&second.output, &second.gradients));
    assert_eq!(second.output, third.output);
    // Parameters and their gradients are buffers that stay, three of them with the rounded copy.
    assert_eq!(after - allocated, 3);
}

#[test]
fn what_a_gpu_says_in_the_midst_of_an_op_is_an_error_and_not_a_crash() {
    let Some((device, _turn)) = device() else { return };
    // As many bytes as no card has.
    let taken = guarded(|| Pool::on(Some(&device)).take(1 << 50).len());
    assert!(matches!(taken, Err(ijepa_tensor::cuda::Error::Driver(driver::Error::Call { call: "cuMemAlloc", .. }))));
    assert!(taken.is_err_and(|error| error.is_memory()));
    assert_eq!(guarded(|| Pool::on(Some(&device)).take(7).len()).expect("there is memory"), 7);
}
