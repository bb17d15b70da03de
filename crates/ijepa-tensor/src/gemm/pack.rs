//! Operands laid out in panels, in the order in which the micro-kernel reads them.

use super::precision::{pair_across, pair_along};
use super::{Adjacent, Map, Matrix};
use crate::vector::vectorised;
use std::ops::Range;

/// Rows of which the values are asked for before their turn.
const AHEAD: usize = 4;

/// Writes `matrix[outer, inner]` as panels of `width` outer indices: panel[inner][outer − first], the last panel filled
/// with zeros up to `width`. Outer indices are rows of a or columns of b, inner ones run along the sums.
///
/// `matrix` has outer indices as its rows.
pub(super) fn pack(out: &mut [f32], matrix: Matrix, map: Map, outer: Range<usize>, inner: Range<usize>, width: usize) {
    let depth = inner.len();
    if matrix.adjacent == Adjacent::Rows {
        return match map {
            Map::Plain => {
                let from = &matrix.values[inner.start * matrix.column_stride + outer.start..];
                copy_panels(out, from, matrix.column_stride, outer.len(), depth, width);
            }
            map => super::with_rows(outer.len() * depth, |rows| {
                for (row, index) in rows.chunks_exact_mut(outer.len()).zip(inner.clone()) {
                    if index + AHEAD < inner.end {
                        prefetch(&matrix.values[(index + AHEAD) * matrix.column_stride + outer.start..][..outer.len()]);
                    }
                    let from = &matrix.values[index * matrix.column_stride + outer.start..][..outer.len()];
                    map.copy(row, from, index, outer.start);
                }
                copy_panels(out, rows, outer.len(), outer.len(), depth, width);
            }),
        };
    }
    for (panel, first) in out.chunks_exact_mut(depth * width).zip(outer.clone().step_by(width)) {
        let count = width.min(outer.end - first);
        for row in first + width..outer.end.min(first + 2 * width) {
            prefetch(&matrix.values[row * matrix.row_stride + inner.start..][..depth]);
        }
        match map {
            Map::Plain => {
                let from = &matrix.values[first * matrix.row_stride + inner.start..];
                transpose(panel, width, from, matrix.row_stride, count, depth);
            }
            map => super::with_rows(count * depth, |rows| {
                for (row, index) in rows.chunks_exact_mut(depth).zip(first..) {
                    let from = &matrix.values[index * matrix.row_stride + inner.start..][..depth];
                    map.copy(row, from, index, inner.start);
                }
                transpose(panel, width, rows, depth, count, depth);
            }),
        }
    }
}

/// As [`pack`], with two inner indices rounded and side by side in the place of one, the last one filled up with 0.
pub(super) fn pack_pairs(
    out: &mut [f32],
    matrix: Matrix,
    map: Map,
    outer: Range<usize>,
    inner: Range<usize>,
    width: usize,
) {
    let (count, depth) = (outer.len(), inner.len());
    let words = depth.div_ceil(2);
    if matrix.adjacent == Adjacent::Rows {
        return super::with_rows((words + 2) * count, |rows| {
            let (rows, mapped) = rows.split_at_mut(words * count);
            let (first, second) = mapped.split_at_mut(count);
            for (row, index) in rows.chunks_exact_mut(count).zip(inner.clone().step_by(2)) {
                let from = |index: usize| &matrix.values[index * matrix.column_stride + outer.start..][..count];
                (index + AHEAD..inner.end.min(index + AHEAD + 2)).for_each(|ahead| prefetch(from(ahead)));
                map.copy(first, from(index), index, outer.start);
                match index + 1 < inner.end {
                    true => map.copy(second, from(index + 1), index + 1, outer.start),
                    false => second.fill(0.0),
                }
                pair_across(row, first, second);
            }
            copy_panels(out, rows, count, count, words, width);
        });
    }
    for (panel, first) in out.chunks_exact_mut(words * width).zip(outer.clone().step_by(width)) {
        let count = width.min(outer.end - first);
        for row in first + width..outer.end.min(first + 2 * width) {
            prefetch(&matrix.values[row * matrix.row_stride + inner.start..][..depth]);
        }
        super::with_rows(depth + count * words, |rows| {
            let (mapped, rows) = rows.split_at_mut(depth);
            for (row, index) in rows.chunks_exact_mut(words).zip(first..) {
                let from = &matrix.values[index * matrix.row_stride + inner.start..][..depth];
                match map {
                    Map::Plain => pair_along(row, from),
                    map => {
                        map.copy(mapped, from, index, inner.start);
                        pair_along(row, mapped);
                    }
                }
            }
            transpose(panel, width, rows, words, count, words);
        });
    }
}

vectorised! {
    /// Panels of a matrix with `columns` adjacent outer indices in rows `stride` apart.
    fn copy_panels(out: &mut [f32], from: &[f32], stride: usize, columns: usize, depth: usize, width: usize) {
        /// Rows that are cut into panels at a time: few enough to stay in the first-level cache.
        const ROWS: usize = 8;
        for block in (0..depth).step_by(ROWS) {
            let rows = block..depth.min(block + ROWS);
            for row in rows.end..depth.min(rows.end + ROWS) {
                prefetch(&from[row * stride..][..columns]);
            }
            for (panel, first) in out.chunks_exact_mut(depth * width).zip((0..columns).step_by(width)) {
                let count = width.min(columns - first);
                let from = &from[first..];
                match width {
                    _ if count < width => copy_rows::<0>(panel, from, stride, rows.clone(), count, width),
                    ..=16 => copy_rows::<16>(panel, from, stride, rows.clone(), count, width),
                    17..=32 => copy_rows::<32>(panel, from, stride, rows.clone(), count, width),
                    _ => copy_rows::<0>(panel, from, stride, rows.clone(), count, width),
                }
            }
        }
    }
}

/// Asks for values that will soon be read.
#[inline(always)]
pub(super) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(16) {
        // SAFETY: a prefetch reads nothing, and every CPU of this target has it.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Copies `count` values of each row, `RUN` ≥ count at a time where there is room: what is too much is overwritten by the next row.
#[inline(always)]
fn copy_rows<const RUN: usize>(
    panel: &mut [f32],
    from: &[f32],
    stride: usize,
    rows: Range<usize>,
    count: usize,
    width: usize,
) {
    for row in rows {
        let (from, to) = (&from[row * stride..], &mut panel[row * width..]);
        match (from.first_chunk::<RUN>(), to.first_chunk_mut::<RUN>()) {
            (Some(from), Some(to)) if RUN > 0 => *to = *from,
            _ => {
                to[..count].copy_from_slice(&from[..count]);
                to[count..width].fill(0.0);
            }
        }
    }
}

/// to[j·to_stride + i] = from[i·from_stride + j] for i < rows, j < columns; values between `rows` and `to_stride` become 0.
pub(crate) fn transpose(
    to: &mut [f32],
    to_stride: usize,
    from: &[f32],
    from_stride: usize,
    rows: usize,
    columns: usize,
) {
    assert!(rows <= to_stride && (columns == 0 || columns * to_stride <= to.len()));
    assert!(rows == 0 || (rows - 1) * from_stride + columns <= from.len());
    let mut turned = 0; // columns that are done
    #[cfg(target_arch = "x86_64")]
    if crate::vector::isa() != crate::vector::Isa::Portable {
        turned = columns - columns % 8;
        for j in (0..turned).step_by(8) {
            // From the last rows to the first: a store of 8 values may run into the next column, whose turn comes later.
            for i in (0..rows).step_by(8).rev() {
                let whole = (j + 7) * to_stride + i + 8 <= to.len();
                // SAFETY: rows i..min(i + 8, rows) and columns j..j + 8 lie in `from`, and their mirror in `to`, by the asserts;
                // both instruction sets have AVX2.
                unsafe {
                    let (from, to) = (from.as_ptr().add(i * from_stride + j), to.as_mut_ptr().add(j * to_stride + i));
                    transpose_8x8(to, to_stride, from, from_stride, (rows - i).min(8), whole);
                }
            }
        }
    }
    for i in 0..rows {
        for j in turned..columns {
            to[j * to_stride + i] = from[i * from_stride + j];
        }
    }
    if rows < to_stride {
        for to in to[..columns * to_stride].chunks_exact_mut(to_stride) {
            to[rows..].fill(0.0);
        }
    }
}

/// Up to 8 rows of 8 columns; zeros for rows that are missing, where `whole` says that there is room for them. Masked stores take 20
/// times as long as others on some CPUs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8x8(
    to: *mut f32,
    to_stride: usize,
    from: *const f32,
    from_stride: usize,
    rows: usize,
    whole: bool,
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller vouches for `rows` rows of 8 values and 8 rows of `rows` values, or of 8.
    unsafe {
        let row = |i: usize| if i < rows { _mm256_loadu_ps(from.add(i * from_stride)) } else { _mm256_setzero_ps() };
        let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
        let (r4, r5, r6, r7) = (row(4), row(5), row(6), row(7));
        let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
        let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
        const LOW: i32 = 0b01_00_01_00;
        const HIGH: i32 = 0b11_10_11_10;
        let (b0, b1) = (_mm256_shuffle_ps::<LOW>(a0, a2), _mm256_shuffle_ps::<HIGH>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<LOW>(a1, a3), _mm256_shuffle_ps::<HIGH>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<LOW>(a4, a6), _mm256_shuffle_ps::<HIGH>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<LOW>(a5, a7), _mm256_shuffle_ps::<HIGH>(a5, a7));
        let columns = [
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ];
        if rows == 8 || whole {
            for (j, column) in columns.into_iter().enumerate() {
                _mm256_storeu_ps(to.add(j * to_stride), column);
            }
        } else {
            let mask = super::lanes::x86::first_of_8(rows);
            for (j, column) in columns.into_iter().enumerate() {
                _mm256_maskstore_ps(to.add(j * to_stride), mask, column);
            }
        }
    }
}
