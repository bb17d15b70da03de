//! Half precision: operands rounded to bfloat16, sums in f32.
//!
//! Two neighbours of a sum share a word: the micro-kernel multiplies pairs as it multiplies single values, at up to twice the rate.

use crate::vector::{Isa, isa, vectorised};

/// How operands of matrix products are kept while they are multiplied. Sums are f32, and so is everything in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16 (8 bits of mantissa), to the nearest and even. Values below 1.2e-38 count as 0.
    Bf16,
}

impl Precision {
    /// Whether this CPU has instructions for it, and `IJEPA_CPU` lets them be used.
    pub fn available(self) -> bool {
        match self {
            Precision::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 => isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16 => false,
        }
    }

    /// Values of a sum that share a word.
    pub(super) fn per_word(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
        }
    }

    /// Words that hold so many values of a sum.
    pub(super) fn words(self, values: usize) -> usize {
        values.div_ceil(self.per_word())
    }
}

/// The upper half of the f32 that is nearest to `value` among those whose lower half is 0.
#[inline(always)]
fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    (if value.is_nan() { bits | 0x0040_0000 } else { nearest }) >> 16
}

vectorised! {
    /// Neighbours in `from` become words, the last one filled up with 0.
    pub(super) fn pair_along(words: &mut [f32], from: &[f32]) {
        assert!(words.len() == from.len().div_ceil(2));
        // SAFETY: any bits are a u16, and words are aligned for it.
        let (_, halves, _) = unsafe { words.align_to_mut::<u16>() };
        for (half, &value) in halves.iter_mut().zip(from) {
            *half = round(value) as u16;
        }
        halves[from.len()..].fill(0);
    }
}

vectorised! {
    /// Each value of `first` and the one below it become a word.
    pub(super) fn pair_across(words: &mut [f32], first: &[f32], second: &[f32]) {
        for ((word, &first), &second) in words.iter_mut().zip(first).zip(second) {
            *word = f32::from_bits(round(first) | (round(second) << 16));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(value: f32) -> f32 {
        f32::from_bits(round(value) << 16)
    }

    #[test]
    fn rounding_is_to_the_nearest_and_even() {
        let step = 2f32.powi(-7); // between neighbours in [1, 2)
        assert_eq!(nearest(1.0 + 0.49 * step), 1.0);
        assert_eq!(nearest(1.0 + 0.51 * step), 1.0 + step);
        assert_eq!(nearest(1.0 + 0.5 * step), 1.0, "the even one of two that are as near");
        assert_eq!(nearest(1.0 + 1.5 * step), 1.0 + 2.0 * step);
        assert_eq!(nearest(-1.0 - 0.51 * step), -1.0 - step);
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_infinity_stays_infinite() {
        for bits in [0x7f80_0001, 0xffff_ffff, 0x7fc0_0000] {
            assert!(nearest(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
        assert_eq!(nearest(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!(nearest(f32::MAX), f32::INFINITY);
    }

    #[test]
    fn pairs_lie_in_the_order_of_memory_whether_along_or_across() {
        let mut along = [0.0; 2];
        pair_along(&mut along, &[1.0, 2.0, 3.0]);
        let mut across = [0.0; 2];
        pair_across(&mut across, &[1.0, 3.0], &[2.0, 0.0]);
        assert_eq!(along.map(f32::to_bits), [0x4000_3f80, 0x0000_4040]);
        assert_eq!(along.map(f32::to_bits), across.map(f32::to_bits));
    }
}
