//! Products of operands that are rounded to bfloat16.

use crate::parity::agree_and_write_nothing_else;
use crate::{error, inputs, run, run_in, values};
use half::bf16;
use ijepa_tensor::Precision;
use ijepa_tensor::cases::{Case, cases, products};
use ijepa_tensor::gemm::{Gemm, Layout, gemm_in};

/// Two operands, each off by at most 2⁻⁹ of its size; sums of hundreds of terms lose little more.
const ROUNDING: f64 = 8e-3;

fn absent() -> bool {
    let absent = !Precision::Bf16.available();
    if absent {
        eprintln!("skipped: this CPU has no AVX512-BF16, or IJEPA_CPU leaves it out");
    }
    absent
}

fn shapes() -> Vec<Gemm> {
    let mut all = products();
    for k in [511, 1025] {
        for (a, b) in [(Layout::Plain, Layout::Transposed), (Layout::Transposed, Layout::Plain)] {
            all.push(Gemm { m: 300, n: 70, k, a, b, accumulate: true });
        }
    }
    all
}

#[test]
fn every_product_is_that_of_the_rounded_operands_and_writes_nothing_else() {
    if !absent() {
        agree_and_write_nothing_else(Precision::Bf16, &shapes(), |x| bf16::from_f32(x).to_f64());
    }
}

#[test]
fn every_product_gives_the_same_bits_with_1_2_and_5_threads() {
    if absent() {
        return;
    }
    for shape in shapes() {
        let (a, b) = (values(shape.m * shape.k, 1), values(shape.k * shape.n, 2));
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
            pool.install(|| {
                let mut c = values(shape.m * shape.n, 3);
                gemm_in(Precision::Bf16, &mut c, &a, &b, shape);
                c.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            })
        };
        let one = bits(1);
        assert!(one == bits(2) && one == bits(5), "{shape:?}");
    }
}

#[test]
fn linear_layers_and_their_gradients_are_off_by_rounding_and_no_more() {
    if absent() {
        return;
    }
    let linear = |case: &Case| matches!(case, Case::Linear(..) | Case::NormLinear(_) | Case::GeluLinear(..));
    for case in cases().iter().filter(|case| linear(case)) {
        let inputs = inputs(case);
        let direction = values(run(case, &inputs, None, 1).output.len(), 99);
        let [exact, half] =
            [Precision::F32, Precision::Bf16].map(|precision| run_in(precision, case, &inputs, Some(&direction), 1));
        assert_ne!(exact.output, half.output, "{case:?}: nothing was rounded");
        let pairs = exact.gradients.iter().flatten().zip(half.gradients.iter().flatten());
        for (exact, half) in pairs.chain([(&exact.output, &half.output)]) {
            let exact: Vec<f64> = exact.iter().map(|&x| f64::from(x)).collect();
            let error = error(half, &exact);
            assert!(error < ROUNDING, "{case:?}: error {error:e}");
        }
    }
}
