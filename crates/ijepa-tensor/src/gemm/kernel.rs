//! The micro-kernel: a small tile of c, held in registers over the whole sum. One text for all instruction sets.

use super::Precision;
use super::lanes::{Lanes, Portable};
use crate::vector::{Isa, isa};

/// Vectors of c that lie side by side in a whole tile.
const VECTORS: usize = 2;

/// One call: c (rows, columns) = [base +] [start +] a · b.
pub(super) struct Tile {
    /// Length of the sums, in words.
    pub(super) k: usize,
    /// a[row, i] at `a + row·a_row + i·a_step`; one of the strides is 1.
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    /// b[i, column] at `b + i·b_step + column`.
    pub(super) b: *const f32,
    pub(super) b_step: usize,
    /// c[row, column] at `c + row·c_row + column`.
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    pub(super) columns: usize,
    /// Added to every row: `columns` values, or null.
    pub(super) start: *const f32,
    /// Added to c: a matrix laid out as c, c itself among them, or null.
    pub(super) base: *const f32,
}

type Kernel = unsafe fn(&Tile);
type Multiply = unsafe fn(u64) -> u64;

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// Rows of the largest tile.
    pub(super) rows: usize,
    /// Values of a vector.
    pub(super) lanes: usize,
    /// By rows − 1, then (last vector whole, in part) × (rows of a adjacent, steps of a adjacent) × (one vector, two).
    table: &'static [[Kernel; 8]],
    multiply: Multiply,
}

impl Kernels {
    /// Those of the widest instruction set.
    ///
    /// # Panics
    /// When this CPU has none for the precision.
    pub(super) fn of(precision: Precision) -> Kernels {
        assert!(precision.available(), "{precision:?} products on a CPU without them");
        match isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if precision == Precision::Bf16 => {
                Kernels { rows: 14, lanes: 16, table: &avx512_bf16::TABLE, multiply: avx512_bf16::multiply }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Kernels { rows: 14, lanes: 16, table: &avx512::TABLE, multiply: avx512::multiply },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Kernels { rows: 6, lanes: 8, table: &avx2::TABLE, multiply: avx2::multiply },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Kernels { rows: 12, lanes: 4, table: &neon::TABLE, multiply: neon::multiply },
            Isa::Portable => Kernels { rows: 4, lanes: 4, table: &portable::TABLE, multiply: portable::multiply },
        }
    }

    /// Columns of a whole tile.
    pub(super) fn columns(self) -> usize {
        VECTORS * self.lanes
    }

    /// # Safety
    /// Every address that the tile names must be valid.
    #[inline]
    pub(super) unsafe fn run(self, rows: usize, tile: &Tile) {
        let wide = usize::from(tile.columns > self.lanes);
        let strided = usize::from(tile.a_row != 1);
        let part = usize::from(!tile.columns.is_multiple_of(self.lanes));
        // SAFETY: `of` found the instruction set; the rest is the caller's promise.
        unsafe { self.table[rows - 1][wide + 2 * strided + 4 * part](tile) }
    }
}

#[inline(always)]
unsafe fn tile<V: Lanes, const ROWS: usize, const VECTORS: usize, const STRIDED: bool, const PART: bool>(tile: &Tile) {
    let &Tile { k, mut a, a_row, a_step, mut b, b_step, c, c_row, columns, start, base } = tile;
    let (a_row, a_step) = if STRIDED { (a_row, 1) } else { (1, a_step) };
    let last = columns - (VECTORS - 1) * V::LEN; // values in the last vector
    // SAFETY: the caller vouches for all of a, b and c that the tile names.
    unsafe {
        let mut first = [V::zero(); VECTORS];
        if !start.is_null() {
            for (vector, first) in first.iter_mut().enumerate() {
                let at = start.add(vector * V::LEN);
                *first = if PART && vector + 1 == VECTORS { V::load_first(at, last) } else { V::load(at) };
            }
        }
        // What the sums will meet when they are complete comes from memory while they grow.
        let met = if base.is_null() { c.cast_const() } else { base };
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                V::prefetch(met.wrapping_add(row * c_row + vector * V::LEN));
            }
        }
        let mut sums = [first; ROWS];
        for _ in 0..k {
            let mut right = [V::zero(); VECTORS];
            for (vector, right) in right.iter_mut().enumerate() {
                let at = b.add(vector * V::LEN);
                *right = if PART && vector + 1 == VECTORS { V::load_first(at, last) } else { V::load(at) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = V::splat(*a.add(row * a_row));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = left.mul_add(right, *sum);
                }
            }
            a = a.wrapping_add(a_step);
            b = b.wrapping_add(b_step);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                let offset = row * c_row + vector * V::LEN;
                let (from, to) = (base.wrapping_add(offset), c.add(offset));
                if PART && vector + 1 == VECTORS {
                    (if base.is_null() { sum } else { V::load_first(from, last).add(sum) }).store_first(to, last);
                } else {
                    (if base.is_null() { sum } else { V::load(from).add(sum) }).store(to);
                }
            }
        }
    }
}

/// Multiply-adds on registers alone: `rounds` times as many as hide their latency; returns their number.
pub(crate) fn multiply_adds(precision: Precision, rounds: u64) -> u64 {
    // SAFETY: `of` found the instruction set.
    precision.per_word() as u64 * unsafe { (Kernels::of(precision).multiply)(rounds) }
}

#[inline(always)]
unsafe fn multiply<V: Lanes>(rounds: u64) -> u64 {
    /// Enough for a latency of 5 cycles at 2 a cycle, few enough for 16 registers.
    const CHAINS: usize = 12;
    // SAFETY: no memory is touched but the value of the sum.
    unsafe {
        let (factor, term) = (V::splat(std::hint::black_box(0.5)), V::splat(std::hint::black_box(1.0)));
        let mut sums = [V::zero(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = factor.mul_add(*sum, term);
            }
        }
        let total = sums.into_iter().fold(V::zero(), |total, sum| total.add(sum));
        let mut values = [0.0; 16];
        total.store(values.as_mut_ptr());
        std::hint::black_box(values);
    }
    rounds * (CHAINS * V::LEN) as u64
}

macro_rules! kernels {
    ($name:ident, $(#[$feature:meta])? $lanes:ty, [$($rows:literal)*]) => {
        mod $name {
            use super::*;

            $(#[$feature])?
            unsafe fn on<const ROWS: usize, const WIDTH: usize, const STRIDED: bool, const PART: bool>(args: &Tile) {
                // SAFETY: the caller's promise.
                unsafe { tile::<$lanes, ROWS, WIDTH, STRIDED, PART>(args) }
            }

            $(#[$feature])?
            pub(super) unsafe fn multiply(rounds: u64) -> u64 {
                // SAFETY: the caller's promise.
                unsafe { super::multiply::<$lanes>(rounds) }
            }

            pub(super) static TABLE: [[Kernel; 8]; [$($rows),*].len()] = [$([
                on::<$rows, 1, false, false>,
                on::<$rows, { VECTORS }, false, false>,
                on::<$rows, 1, true, false>,
                on::<$rows, { VECTORS }, true, false>,
                on::<$rows, 1, false, true>,
                on::<$rows, { VECTORS }, false, true>,
                on::<$rows, 1, true, true>,
                on::<$rows, { VECTORS }, true, true>,
            ]),*];
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx512, #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")] crate::gemm::lanes::x86::Avx512, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512_bf16, #[target_feature(enable = "avx512bf16,avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")] crate::gemm::lanes::x86::Avx512Bf16, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, #[target_feature(enable = "avx2,fma")] crate::gemm::lanes::x86::Avx2, [1 2 3 4 5 6]);
#[cfg(target_arch = "aarch64")]
kernels!(neon, crate::gemm::lanes::arm::Neon, [1 2 3 4 5 6 7 8 9 10 11 12]);
kernels!(portable, Portable, [1 2 3 4]);
