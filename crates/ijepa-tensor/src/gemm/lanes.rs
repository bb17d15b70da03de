//! One vector of f32 values on each instruction set.

/// What the micro-kernel needs of a vector register.
///
/// Every method is inlined into a function that was compiled for the instruction set.
pub(in crate::gemm) trait Lanes: Copy {
    /// Values in a vector.
    const LEN: usize;

    /// All lanes 0.
    unsafe fn zero() -> Self;
    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self;
    /// `LEN` values from `at`.
    unsafe fn load(at: *const f32) -> Self;
    /// `count` < `LEN` values from `at`, the other lanes unspecified.
    unsafe fn load_first(at: *const f32, count: usize) -> Self;
    /// Writes `LEN` values to `at`.
    unsafe fn store(self, at: *mut f32);
    /// Writes the first `count` < `LEN` values to `at`.
    unsafe fn store_first(self, at: *mut f32, count: usize);
    /// self + other
    unsafe fn add(self, other: Self) -> Self;
    /// self·factor + sum, where a lane is a factor: one value, or a pair whose two products are added.
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// Asks for a line of memory that will be needed soon; any address will do.
    #[inline(always)]
    fn prefetch(at: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing, and every CPU of this target has it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}

/// Vectors that every target has, through the compiler.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Portable([f32; 4]);

impl Lanes for Portable {
    const LEN: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0.0; 4])
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; 4])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller vouches for `LEN` values.
        Portable(unsafe { at.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(at: *const f32, count: usize) -> Self {
        let mut values = [0.0; 4];
        for (i, value) in values.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` values.
            *value = unsafe { *at.add(i) };
        }
        Portable(values)
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller vouches for `LEN` values.
        unsafe { at.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, at: *mut f32, count: usize) {
        for (i, value) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` values.
            unsafe { *at.add(i) = *value }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let mut sum = self.0;
        for (sum, other) in sum.iter_mut().zip(other.0) {
            *sum += other;
        }
        Portable(sum)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        let mut result = sum.0;
        for ((result, value), factor) in result.iter_mut().zip(self.0).zip(factor.0) {
            *result += value * factor;
        }
        Portable(result)
    }
}

/// Implements [`Lanes`] by an instruction set's own functions.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! lanes {
    ($(#[$meta:meta])* $name:ident($vector:ty), $len:literal, $zero:expr, $splat:ident, $load:ident, $store:ident, $add:ident,
     |$value:ident, $factor:ident, $sum:ident| $mul_add:expr,
     |$from:ident, $load_count:ident| $load_first:expr,
     |$to:ident, $stored:ident, $store_count:ident| $store_first:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(in crate::gemm) struct $name($vector);

        // SAFETY (all of them): the kernels run on a CPU that has the instruction set, and the caller vouches for the values.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Lanes for $name {
            const LEN: usize = $len;

            #[inline(always)]
            unsafe fn zero() -> Self {
                $name(unsafe { $zero })
            }

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                $name(unsafe { $splat(value) })
            }

            #[inline(always)]
            unsafe fn load(at: *const f32) -> Self {
                $name(unsafe { $load(at) })
            }

            #[inline(always)]
            unsafe fn load_first($from: *const f32, $load_count: usize) -> Self {
                $name(unsafe { $load_first })
            }

            #[inline(always)]
            unsafe fn store(self, at: *mut f32) {
                unsafe { $store(at, self.0) }
            }

            #[inline(always)]
            unsafe fn store_first(self, $to: *mut f32, $store_count: usize) {
                let $stored = self.0;
                unsafe { $store_first }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                $name(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
                let ($value, $factor, $sum) = (self.0, factor.0, sum.0);
                $name(unsafe { $mul_add })
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Mask of the first `count` of 8 lanes.
    #[inline(always)]
    pub(in crate::gemm) unsafe fn first_of_8(count: usize) -> __m256i {
        const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: count ≤ 8, so 8 values follow.
        unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - count).cast()) }
    }

    lanes! {
        /// 512 bits.
        Avx512(__m512), 16, _mm512_setzero_ps(), _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps,
        |value, factor, sum| _mm512_fmadd_ps(value, factor, sum),
        |from, count| _mm512_maskz_loadu_ps((1 << count) - 1, from),
        |to, value, count| _mm512_mask_storeu_ps(to, (1 << count) - 1, value)
    }

    lanes! {
        /// 512 bits; a lane of a factor holds two bf16 values.
        Avx512Bf16(__m512), 16, _mm512_setzero_ps(), _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps,
        |value, factor, sum| {
            let pairs = |vector: __m512| std::mem::transmute::<__m512, __m512bh>(vector);
            _mm512_dpbf16_ps(sum, pairs(value), pairs(factor))
        },
        |from, count| _mm512_maskz_loadu_ps((1 << count) - 1, from),
        |to, value, count| _mm512_mask_storeu_ps(to, (1 << count) - 1, value)
    }

    lanes! {
        /// 256 bits.
        Avx2(__m256), 8, _mm256_setzero_ps(), _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps,
        |value, factor, sum| _mm256_fmadd_ps(value, factor, sum),
        |from, count| _mm256_maskload_ps(from, first_of_8(count)),
        |to, value, count| _mm256_maskstore_ps(to, first_of_8(count), value)
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use super::{Lanes, Portable};
    use std::arch::aarch64::*;

    lanes! {
        /// 128 bits.
        Neon(float32x4_t), 4, vdupq_n_f32(0.0), vdupq_n_f32, vld1q_f32, vst1q_f32, vaddq_f32,
        |value, factor, sum| vfmaq_f32(sum, value, factor),
        |from, count| {
            let Portable(values) = Portable::load_first(from, count);
            vld1q_f32(values.as_ptr())
        },
        |to, value, count| {
            let mut values = [0.0; 4];
            vst1q_f32(values.as_mut_ptr(), value);
            Portable(values).store_first(to, count)
        }
    }
}
