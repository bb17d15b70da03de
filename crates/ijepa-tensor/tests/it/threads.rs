//! Results do not depend on the number of threads, and a second step of a shape allocates nothing.

use crate::{inputs, run, values};
use ijepa_tensor::cases::{Case, cases, products};
use ijepa_tensor::gemm::gemm;
use ijepa_tensor::ops::{attention, layer_norm, linear};
use ijepa_tensor::{Buf, Pool, Slot, Tape};

fn with_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a pool of threads").install(work)
}

#[test]
fn every_op_gives_the_same_bits_with_1_2_and_5_threads() {
    let mut all = cases();
    all.push(Case::Linear(linear::Shape { rows: 700, inputs: 96, outputs: 130 }, true));
    all.push(Case::LayerNorm(layer_norm::Shape { rows: 900, width: 200, eps: 1e-6 }, true));
    all.push(Case::Attention(attention::Shape { batch: 7, queries: 50, tokens: 50, heads: 2, width: 32 }));
    all.push(Case::NormLinear(linear::Shape { rows: 900, inputs: 300, outputs: 100 }));
    all.push(Case::GeluLinear(linear::Shape { rows: 900, inputs: 300, outputs: 100 }, true));
    for case in all {
        let inputs = inputs(&case);
        let u = values(run(&case, &inputs, None, 1).output.len(), 99);
        let bits = |threads| {
            let outcome = with_threads(threads, || run(&case, &inputs, Some(&u), 1));
            let gradients = outcome.gradients.into_iter().flatten().flatten();
            outcome.output.into_iter().chain(gradients).map(f32::to_bits).collect::<Vec<u32>>()
        };
        let one = bits(1);
        assert!(one == bits(2) && one == bits(5), "{case:?}");
    }
}

#[test]
fn every_product_gives_the_same_bits_with_1_2_and_5_threads() {
    for shape in products() {
        let (a, b) = (values(shape.m * shape.k, 1), values(shape.k * shape.n, 2));
        let bits = |threads| {
            with_threads(threads, || {
                let mut c = values(shape.m * shape.n, 3);
                gemm(&mut c, &a, &b, shape);
                c.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            })
        };
        let one = bits(1);
        assert!(one == bits(2) && one == bits(5), "{shape:?}");
    }
}

#[test]
fn the_second_step_of_a_shape_allocates_no_buffer() {
    let pool = Pool::new();
    let params = Buf::from_slice(&values(64 * 64 + 64, 1));
    let mut grads = Buf::zeros(params.len());
    let layer = linear::Linear { weight: Slot { offset: 0, len: 64 * 64 }, bias: Slot { offset: 64 * 64, len: 64 } };
    let x = values(100 * 64, 2);
    let mut step = || {
        let mut tape = Tape::training(&pool, params.view(), grads.view_mut());
        let mut y = tape.input(&x, 100, 64);
        for _ in 0..3 {
            y = tape.gelu_linear_residual(&y, layer, &y);
        }
        tape.backward(&y);
        drop((y, tape));
        pool.allocations()
    };
    let first = step();
    assert!(first > 0);
    assert_eq!(step(), first);
}

#[test]
fn without_gradients_memory_does_not_grow_with_depth() {
    let params = Buf::from_slice(&values(64 * 64 + 64, 1));
    let layer = linear::Linear { weight: Slot { offset: 0, len: 64 * 64 }, bias: Slot { offset: 64 * 64, len: 64 } };
    let x = values(100 * 64, 2);
    let bytes = |depth: usize| {
        let pool = Pool::new();
        let mut tape = Tape::inference(&pool, params.view());
        let mut y = tape.constant(&x, 100, 64);
        for _ in 0..depth {
            y = tape.linear(&y, layer);
        }
        drop(y);
        pool.allocated_bytes()
    };
    assert_eq!(bytes(2), bytes(20));
}
