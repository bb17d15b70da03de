//! The engine on a GPU: the tape over the op table, and memory that goes round.

use super::machine::{device, device_of_ptx};
use crate::{Outcome, inputs, run_on};
use ijepa_tensor::cases::Case;
use ijepa_tensor::cuda::{driver, guarded};
use ijepa_tensor::judge::{Distance, distances};
use ijepa_tensor::ops::linear;
use ijepa_tensor::{Pool, Precision};

#[test]
fn the_tape_gives_on_a_gpu_what_it_gives_on_the_cpu() {
    for device in [device, device_of_ptx] {
        let Some((device, _turn)) = device() else { continue };
        for (case, distance) in distances(&device) {
            let distance = distance.unwrap_or_else(|error| panic!("{case:?}: {error}"));
            let Distance { output, gradients } = &distance;
            assert!(distance.is_rounding(), "{case:?}: off by {output:e}, gradients by {gradients:e}");
        }
    }
}

#[test]
fn a_gpu_gives_the_same_bits_again_in_memory_that_it_has() {
    let Some((device, _turn)) = device() else { return };
    let case = Case::GeluLinear(linear::Shape { rows: 20, inputs: 40, outputs: 24 }, true);
    let (inputs, direction) = (inputs(&case), vec![0.5; 20 * 24]);
    let once = || -> (Outcome, usize) {
        let outcome = run_on(Some(&device), Precision::F32, &case, &inputs, Some(&direction), 1);
        (outcome, Pool::on(Some(&device)).allocations())
    };
    let (first, _) = once();
    let (second, allocated) = once();
    let (third, after) = once();
    assert_eq!((&first.output, &first.gradients), (&second.output, &second.gradients));
    assert_eq!(second.output, third.output);
    assert_eq!(after, allocated, "memory that came back is used again");
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
