//! What this machine can do at most: the ceilings that ops are measured against.

use crate::gemm::{Precision, multiply_adds};
use crate::vector::vectorised;
use rayon::prelude::*;
use std::hint::black_box;
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

fn best(mut measure: impl FnMut() -> f64) -> f64 {
    (0..REPETITIONS).map(|_| measure()).fold(0.0, f64::max)
}
