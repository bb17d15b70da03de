//! Matrix products: c (m, n) = [c +] a (m, k) · b (k, n).
//!
//! The product is cut into pieces by shape alone and each piece is computed by one thread, so that the
//! bits of the result do not depend on the number of threads.

use rayon::prelude::*;

/// How an operand lies in memory, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it stands in the formula.
    Plain,
    /// As its transpose.
    Transposed,
}

/// The shape of a product.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// How a (m, k) is stored.
    pub a: Layout,
    /// How b (k, n) is stored.
    pub b: Layout,
    /// Whether the product is added to c.
    pub accumulate: bool,
}

/// An operand with its strides, in values.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl Operand<'_> {
    fn assert_holds(&self, name: &str, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
            assert!(
                last < self.values.len(),
                "{name}: ({rows}, {columns}) needs {} values, got {}",
                last + 1,
                self.values.len()
            );
        }
    }
}

fn operand(values: &[f32], rows: usize, columns: usize, layout: Layout) -> Operand<'_> {
    match layout {
        Layout::Plain => Operand { values, row_stride: columns, column_stride: 1 },
        Layout::Transposed => Operand { values, row_stride: 1, column_stride: rows },
    }
}

/// Multiply-adds below which one thread does all.
const SERIAL_WORK: usize = 1 << 18;

/// c (m, n) = [c +] a (m, k) · b (k, n), all dense.
///
/// # Panics
/// When a length does not fit the shape.
pub fn gemm(c: &mut [f32], a: &[f32], b: &[f32], shape: Gemm) {
    let Gemm { m, n, k, accumulate, .. } = shape;
    assert_eq!(c.len(), m * n, "c of a product {shape:?}");
    assert_eq!(a.len(), m * k, "a of a product {shape:?}");
    assert_eq!(b.len(), k * n, "b of a product {shape:?}");
    if m == 0 || n == 0 {
        return;
    }
    let a = operand(a, m, k, shape.a);
    let b = operand(b, k, n, shape.b);
    if m * n * k <= SERIAL_WORK {
        return serial(c, n, a, b, (m, n, k), accumulate, 1.0);
    }
    // Long sums into a small output are cut less finely: every piece reads all of b.
    let pieces = if k > 4 * m { 4 } else { 16 };
    let rows = m.div_ceil(pieces).next_multiple_of(16);
    c.par_chunks_mut(rows * n).enumerate().for_each(|(piece, c)| {
        let a = Operand { values: &a.values[piece * rows * a.row_stride..], ..a };
        serial(c, n, a, b, (c.len() / n, n, k), accumulate, 1.0);
    });
}

/// c = [c +] scale · a · b on the calling thread; c has rows of `stride` values.
pub(crate) fn serial(
    c: &mut [f32],
    stride: usize,
    a: Operand<'_>,
    b: Operand<'_>,
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
    scale: f32,
) {
    a.assert_holds("a", m, k);
    b.assert_holds("b", k, n);
    assert!(m == 0 || (m - 1) * stride + n <= c.len(), "c: ({m}, {n}) with row stride {stride} in {} values", c.len());
    // SAFETY: the asserts above keep every access inside its slice, and c is borrowed uniquely.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The plain statement of [`gemm`], in any number type.
pub mod reference {
    use super::{Gemm, Layout};
    use crate::scalar::Scalar;

    /// c = [c +] a · b, one sum after the other.
    pub fn gemm<T: Scalar>(c: &mut [T], a: &[T], b: &[T], shape: Gemm) {
        let Gemm { m, n, k, .. } = shape;
        for row in 0..m {
            for column in 0..n {
                let mut sum = if shape.accumulate { c[row * n + column] } else { T::zero() };
                for i in 0..k {
                    let left = if shape.a == Layout::Plain { a[row * k + i] } else { a[i * m + row] };
                    let right = if shape.b == Layout::Plain { b[i * n + column] } else { b[column * k + i] };
                    sum = sum + left * right;
                }
                c[row * n + column] = sum;
            }
        }
    }
}
