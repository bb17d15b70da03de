//! Every op's fast code against its plain reference in f64.

use crate::{error, inputs, run, values};
use ijepa_tensor::cases::{cases, products};
use ijepa_tensor::gemm::{Gemm, gemm_in, reference};
use ijepa_tensor::ops::patchify;
use ijepa_tensor::{Buf, Precision, View};

/// f32 sums of a few hundred terms of unit size (products of two bfloat16 values are exact in f32); the exact erf of GELU is good to 5e-7.
const TOLERANCE: f64 = 3e-6;

#[test]
fn every_op_agrees_with_its_reference() {
    for case in cases() {
        let inputs = inputs(&case);
        let exact: Vec<Vec<f64>> = inputs.iter().map(|x| x.iter().map(|&x| f64::from(x)).collect()).collect();
        let error = error(&run(&case, &inputs, None, 1).output, &case.reference(&exact));
        assert!(error < TOLERANCE, "{case:?}: error {error:e}");
    }
}

#[test]
fn every_product_agrees_with_its_reference_and_writes_nothing_else() {
    agree_and_write_nothing_else(Precision::F32, &products(), f64::from);
}

/// `kept` is what a value becomes as an operand.
pub(crate) fn agree_and_write_nothing_else(precision: Precision, shapes: &[Gemm], kept: fn(f32) -> f64) {
    const GUARD: f32 = 1234.5;
    for &shape in shapes {
        let (a, b) = (values(shape.m * shape.k, 1), values(shape.k * shape.n, 2));
        let start = values(shape.m * shape.n, 3);
        let mut guarded = vec![GUARD; start.len() + 64];
        guarded[32..32 + start.len()].copy_from_slice(&start);
        gemm_in(precision, &mut guarded[32..32 + start.len()], &a, &b, shape);
        let operand = |values: &[f32]| values.iter().map(|&x| kept(x)).collect::<Vec<f64>>();
        let mut expected: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
        reference::gemm(&mut expected, &operand(&a), &operand(&b), shape);
        let error = error(&guarded[32..32 + start.len()], &expected);
        assert!(error < TOLERANCE, "{shape:?}: error {error:e}");
        assert!(guarded[..32].iter().chain(&guarded[32 + start.len()..]).all(|&x| x == GUARD), "{shape:?}");
    }
}

#[test]
fn patchify_agrees_with_its_reference() {
    for (size, patch) in [((8, 8), 4), ((6, 9), 3), ((4, 12), 4)] {
        let shape = patchify::Shape { batch: 3, channels: 3, size, patch, kept: 2 };
        let images = values(3 * 3 * size.0 * size.1, 1);
        let index: Vec<u32> = (0..12).map(|i| (i * 5 % shape.patches()) as u32).collect();
        let mut got = Buf::zeros(index.len() * shape.width());
        let mut expected = vec![0.0; got.len()];
        patchify::forward(got.view_mut(), View::Cpu(&images), &index, shape);
        patchify::reference::forward(&mut expected, &images, &index, shape);
        assert_eq!(got.as_slice(), expected, "{shape:?}");
    }
}
