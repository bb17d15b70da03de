//! What this machine can do at most: the ceilings that ops are measured against.

use crate::cuda::{self, Device, Out, Product};
use crate::gemm::{Gemm, Layout, Precision, multiply_adds};
use crate::judge;
use crate::vector::vectorised;
use rayon::prelude::*;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

/// Repetitions of which the best counts: a ceiling is what was reached, not what is usual.
const REPETITIONS: usize = 10;

/// GFLOP/s of multiply-adds in registers, all of `threads` at once; a multiply-add is 2 FLOP.
///
/// # Panics
/// When this CPU has none of the precision.
pub fn peak_gflops(precision: Precision, threads: usize) -> f64 {
    best(|| {
        let began = Instant::now();
        let work = |_| multiply_adds(precision, black_box(2_000_000));
        let done: u64 = (0..threads).into_par_iter().with_max_len(1).map(work).sum();
        2.0 * done as f64 / began.elapsed().as_secs_f64() / 1e9
    })
}

/// GB/s of a + s·b → a over arrays that together hold `bytes`, all threads at once; a is counted twice, read and written.
pub fn bandwidth(bytes: usize) -> f64 {
    let len = bytes / 2 / size_of::<f32>();
    let (mut a, b) = (vec![1.0f32; len], vec![2.0f32; len]);
    let piece = len.div_ceil(rayon::current_num_threads()).max(1);
    let rounds = (1 << 28) / bytes + 1;
    best(|| {
        let began = Instant::now();
        a.par_chunks_mut(piece).zip(b.par_chunks(piece)).for_each(|(a, b)| {
            for _ in 0..rounds {
                add_scaled(a, black_box(b));
            }
        });
        (3 * len * size_of::<f32>() * rounds) as f64 / began.elapsed().as_secs_f64() / 1e9
    })
}

vectorised! {
    fn add_scaled(a: &mut [f32], b: &[f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += 0.5 * b;
        }
    }
}

/// Columns of the widest product that is timed.
const WIDEST: usize = 8192;
/// Seconds of a product that is wide enough to be timed.
const LONG: f64 = 5e-3;

/// GFLOP/s of a product of square matrices of bfloat16 on a GPU: of the narrowest that takes 5 ms, at most 8192 wide.
///
/// # Errors
/// What the GPU says.
pub fn product_gflops(device: &Rc<Device>) -> Result<f64, cuda::Error> {
    cuda::guarded(|| {
        let mut side = 256;
        loop {
            let values: Vec<u16> = judge::values(side * side, 1).into_iter().map(cuda::narrow).collect();
            let (a, b, c) = (device.upload(&values), device.upload(&values), device.take(2 * side * side));
            let shape = Gemm { m: side, n: side, k: side, a: Layout::Plain, b: Layout::Transposed, accumulate: false };
            let seconds = |count: u32| {
                device.wait();
                let began = Instant::now();
                for _ in 0..count {
                    let out = Out::Bf16(c.at());
                    device.multiply(Product { out, a: a.at(), b: b.at(), bias: None, added: None, shape });
                }
                device.wait();
                began.elapsed().as_secs_f64() / f64::from(count)
            };
            seconds(1);
            if side == WIDEST || seconds(1) > LONG {
                let count = (0.1 / seconds(1)).clamp(1.0, 50.0) as u32;
                let best = (0..3).map(|_| seconds(count)).fold(f64::INFINITY, f64::min);
                return 2.0 * (side as f64).powi(3) / best / 1e9;
            }
            side *= 2;
        }
    })
}

fn best(mut measure: impl FnMut() -> f64) -> f64 {
    (0..REPETITIONS).map(|_| measure()).fold(0.0, f64::max)
}
