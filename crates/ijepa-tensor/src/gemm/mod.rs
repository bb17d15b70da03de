//! Matrix products: c (m, n) = [c +] a (m, k) · b (k, n), after Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008): blocks of both operands are packed into panels that stay in cache, and a micro-kernel ([`kernel`])
//! holds a tile of c in registers. An operand that is used but a few times is read where it lies ([`Panels`]).
//!
//! Each value of c is one sum, in an order that depends on its length alone. Threads take rows of c, so that the bits of the
//! result do not depend on their number.

mod fuse;
mod kernel;
mod lanes;
mod pack;
mod precision;

pub(crate) use fuse::Map;
pub(crate) use kernel::multiply_adds;
use kernel::{Kernels, Tile};
pub(crate) use pack::transpose;
pub use precision::Precision;

use crate::threads;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::ptr::null;

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

/// c (m, n) = [c +] a (m, k) · b (k, n), all dense.
///
/// # Panics
/// When a length does not fit the shape.
pub fn gemm(c: &mut [f32], a: &[f32], b: &[f32], shape: Gemm) {
    gemm_in(Precision::F32, c, a, b, shape);
}

/// As [`gemm`], both operands kept in `precision` while they are multiplied.
///
/// # Panics
/// When a length does not fit the shape, or this CPU has no such products.
pub fn gemm_in(precision: Precision, c: &mut [f32], a: &[f32], b: &[f32], shape: Gemm) {
    fused(c, a, b, shape, Fused { precision, ..Fused::default() });
}

/// What a product does besides multiplying.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fused<'a> {
    /// Applied to a while it is packed.
    pub(crate) map_a: Map<'a>,
    /// Applied to b while it is packed.
    pub(crate) map_b: Map<'a>,
    /// Added to every row of c (n).
    pub(crate) bias: Option<&'a [f32]>,
    /// Added to c (m, n).
    pub(crate) residual: Option<&'a [f32]>,
    /// c is multiplied by gelu′ of it (m, n), and it becomes gelu of it.
    pub(crate) gelu: Option<Window>,
    /// How both operands are kept while they are multiplied.
    pub(crate) precision: Precision,
}

/// As [`gemm`], with more done on the way.
///
/// # Panics
/// When a length does not fit the shape.
pub(crate) fn fused(c: &mut [f32], a: &[f32], b: &[f32], shape: Gemm, fused: Fused) {
    let Gemm { m, n, k, accumulate, .. } = shape;
    assert_eq!(c.len(), m * n, "c of a product {shape:?}");
    assert_eq!(a.len(), m * k, "a of a product {shape:?}");
    assert_eq!(b.len(), k * n, "b of a product {shape:?}");
    assert!(fused.bias.is_none_or(|bias| bias.len() == n), "bias of a product {shape:?}");
    assert!(fused.residual.is_none_or(|residual| residual.len() == m * n), "residual of a product {shape:?}");
    let like_c = |hidden: Window| (hidden.rows, hidden.columns, hidden.stride) == (m, n, n);
    assert!(fused.gelu.is_none_or(like_c), "hidden values of a product {shape:?}");
    assert!(!accumulate || fused.residual.is_none(), "c is added to one matrix");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        assert!(fused.bias.is_none() && fused.residual.is_none(), "an empty sum with more to add");
        if !accumulate {
            c.fill(0.0);
        }
        return;
    }
    let product = Product {
        k,
        a: Matrix::new(a, m, k, shape.a),
        b: Matrix::new(b, k, n, shape.b).transposed(),
        accumulate,
        fused,
    };
    let kernels = Kernels::of(fused.precision);
    let threads = if m * n * k <= SERIAL_WORK { 1 } else { threads::count() };
    // An operand that passes through a map is cut between threads, so that no value is mapped twice.
    let across = if let Map::Plain = fused.map_b { 1 } else { threads.min(n.div_ceil(2 * kernels.columns())) };
    let rows = m.div_ceil(threads / across);
    let columns = n.div_ceil(across).next_multiple_of(kernels.lanes);
    let pieces: Vec<_> =
        (0..m).step_by(rows).flat_map(|row| (0..n).step_by(columns).map(move |column| (row, column))).collect();
    let c = Window::of(c, n);
    pieces.into_par_iter().for_each(|(row, column)| {
        let (rows, columns) = (row..(row + rows).min(m), column..(column + columns).min(n));
        SCRATCH.with_borrow_mut(|scratch| product.block(c, rows, columns, scratch));
    });
}

/// Multiply-adds below which one thread does all.
const SERIAL_WORK: usize = 1 << 18;

// Sizes of the blocks, by the caches of today's server cores: a panel of b (KC × 32) stays in a first-level cache of 48 KiB,
// a block of a (MC × KC) in a second-level one of 1 MiB, a block of b (KC × NC) in the third.
const MC: usize = 280;
const KC: usize = 256;
const NC: usize = 3072;
/// An operand whose values are used so many times at most is read where it lies: packing it would cost more than it brings.
const DIRECT: usize = 768;

/// Memory for packed blocks, one for each thread.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends room for `len` values.
fn with_rows(len: usize, work: impl FnOnce(&mut [f32])) {
    ROWS.with_borrow_mut(|rows| work(room(rows, len)));
}

fn room(values: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if values.len() < len {
        values.resize(len, 0.0);
    }
    &mut values[..len]
}

/// Values with two strides, one of which is 1.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
    /// Which of them is 1: said, because both are where there is but one row or column.
    pub(crate) adjacent: Adjacent,
}

/// What lies side by side in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adjacent {
    Rows,
    Columns,
}

impl<'a> Matrix<'a> {
    fn new(values: &'a [f32], rows: usize, columns: usize, layout: Layout) -> Matrix<'a> {
        match layout {
            Layout::Plain => Matrix::rows(values, columns),
            Layout::Transposed => Matrix::rows(values, rows).transposed(),
        }
    }

    /// Rows of adjacent values, `stride` apart.
    pub(crate) fn rows(values: &'a [f32], stride: usize) -> Matrix<'a> {
        Matrix { values, row_stride: stride, column_stride: 1, adjacent: Adjacent::Columns }
    }

    /// The same values with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Matrix<'a> {
        let adjacent = if self.adjacent == Adjacent::Rows { Adjacent::Columns } else { Adjacent::Rows };
        Matrix { values: self.values, row_stride: self.column_stride, column_stride: self.row_stride, adjacent }
    }

    fn assert_holds(&self, name: &str, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
            assert!(last < self.values.len(), "{name}: ({rows}, {columns}) in {} values", self.values.len());
        }
    }
}

/// A part of a matrix that is written by one thread: rows of `columns` values, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    start: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
}

// SAFETY: threads write windows that do not overlap.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// All of a matrix. It must not be used for anything else while the window is.
    pub(crate) fn of(values: &mut [f32], columns: usize) -> Window {
        Window { start: values.as_mut_ptr(), stride: columns, rows: values.len() / columns, columns }
    }

    fn cut(self, rows: Range<usize>, columns: Range<usize>) -> Window {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "{rows:?} × {columns:?}");
        // SAFETY: inside the window, by the assert.
        let start = unsafe { self.start.add(rows.start * self.stride + columns.start) };
        Window { start, rows: rows.len(), columns: columns.len(), ..self }
    }

    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: inside the window, which one thread writes.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
    }
}

/// A product and what happens on its way in and out.
struct Product<'a> {
    k: usize,
    /// (m, k)
    a: Matrix<'a>,
    /// (n, k)
    b: Matrix<'a>,
    accumulate: bool,
    fused: Fused<'a>,
}

impl Product<'_> {
    /// Computes a block of c. The five loops: columns, sums, rows in blocks, then the panels of both operands.
    fn block(&self, c: Window, rows: Range<usize>, columns: Range<usize>, scratch: &mut Scratch) {
        let &Product { k, a, b, fused, .. } = self;
        let precision = fused.precision;
        let kernels = Kernels::of(precision);
        let width = kernels.columns();
        for columns in blocks(columns, NC, width) {
            for sums in blocks(0..k, KC * precision.per_word(), precision.per_word()) {
                let b_how = Packing { map: fused.map_b, precision, width, uses: rows.len() };
                let b = Panels::of(b, b_how, columns.clone(), sums.clone(), &mut scratch.b);
                for rows in blocks(rows.clone(), MC, kernels.rows) {
                    // Tiles of equal height, rather than a thin one at the end.
                    let height = rows.len().div_ceil(rows.len().div_ceil(kernels.rows));
                    let a_how = Packing { map: fused.map_a, precision, width: height, uses: columns.len() };
                    let a = Panels::of(a, a_how, rows.clone(), sums.clone(), &mut scratch.a);
                    for column in columns.clone().step_by(width) {
                        let columns = column..(column + width).min(columns.end);
                        for row in rows.clone().step_by(height) {
                            let place = (row..(row + height).min(rows.end), columns.clone());
                            let tile = c.cut(place.0.clone(), place.1.clone());
                            let args = Tile {
                                k: precision.words(sums.len()),
                                a: a.at(row),
                                a_row: a.outer_step,
                                a_step: a.inner_step,
                                b: b.at(column),
                                b_step: b.inner_step,
                                ..self.tile(tile, row * c.stride + column, column, sums.start == 0)
                            };
                            let hidden =
                                fused.gelu.filter(|_| sums.end == k).map(|hidden| hidden.cut(place.0, place.1));
                            run(kernels, &args, tile, hidden);
                        }
                    }
                }
            }
        }
    }

    /// The part of a call that c decides: `offset` is the tile's place in a matrix like c, `first` whether its sums begin.
    fn tile(&self, tile: Window, offset: usize, column: usize, first: bool) -> Tile {
        let &Product { accumulate, fused, .. } = self;
        Tile {
            k: 0,
            a: null(),
            a_row: 0,
            a_step: 0,
            b: null(),
            b_step: 0,
            c: tile.start,
            c_row: tile.stride,
            columns: tile.columns,
            start: fused.bias.filter(|_| first).map_or(null(), |bias| bias[column..].as_ptr()),
            base: match fused.residual {
                Some(residual) if first => residual[offset..].as_ptr(),
                _ if accumulate || !first => tile.start,
                _ => null(),
            },
        }
    }
}

/// Computes a tile, and what follows when its sums are complete.
fn run(kernels: Kernels, args: &Tile, tile: Window, mut hidden: Option<Window>) {
    if let Some(hidden) = &mut hidden {
        (0..hidden.rows).for_each(|row| pack::prefetch(hidden.row(row)));
    }
    // SAFETY: the panels hold `k` steps of the tile's rows and columns; the window lies in c, and what is added was asserted to
    // be as large as c or its rows.
    unsafe { kernels.run(tile.rows, args) };
    if let Some(hidden) = hidden {
        fuse::gelu_backward(tile, hidden);
    }
}

/// An operand cut into panels, packed or where it lies in memory.
struct Panels<'a> {
    values: &'a [f32],
    /// The outer index that `values` begins with.
    first: usize,
    /// Values from panel to panel, over `width`.
    panel: usize,
    width: usize,
    /// Values from one outer index to the next within a panel.
    outer_step: usize,
    /// Values from one step of the sums to the next.
    inner_step: usize,
}

/// How an operand is cut into panels.
#[derive(Clone, Copy)]
struct Packing<'a> {
    map: Map<'a>,
    precision: Precision,
    /// Outer indices of a panel.
    width: usize,
    /// Values of the other operand that each of them meets.
    uses: usize,
}

impl<'a> Panels<'a> {
    fn of(
        matrix: Matrix<'a>,
        how: Packing,
        outer: Range<usize>,
        inner: Range<usize>,
        scratch: &'a mut Vec<f32>,
    ) -> Panels<'a> {
        let Packing { width, precision, .. } = how;
        let first = outer.start;
        let as_it_lies = matches!(how.map, Map::Plain) && precision == Precision::F32;
        if as_it_lies && how.uses <= DIRECT && matrix.adjacent == Adjacent::Rows {
            let values = &matrix.values[outer.start * matrix.row_stride + inner.start * matrix.column_stride..];
            let (outer_step, inner_step) = (matrix.row_stride, matrix.column_stride);
            return Panels { values, first, panel: width * outer_step, width, outer_step, inner_step };
        }
        let depth = precision.words(inner.len());
        let panels = room(scratch, outer.len().next_multiple_of(width) * depth);
        match precision {
            Precision::F32 => pack::pack(panels, matrix, how.map, outer, inner, width),
            Precision::Bf16 => pack::pack_pairs(panels, matrix, how.map, outer, inner, width),
        }
        Panels { values: panels, first, panel: width * depth, width, outer_step: 1, inner_step: width }
    }

    /// Where the panel of an outer index begins.
    fn at(&self, outer: usize) -> *const f32 {
        self.values[(outer - self.first) / self.width * self.panel..].as_ptr()
    }
}

/// Cuts a range into equal blocks of at most about `most`, their length a multiple of `unit`.
fn blocks(range: Range<usize>, most: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let count = range.len().div_ceil(most).max(1);
    let len = range.len().div_ceil(count).next_multiple_of(unit).max(1);
    range.clone().step_by(len).map(move |start| start..(start + len).min(range.end))
}

/// c (m, n) = [c +] a · b on the calling thread, for operands that lie in cache: nothing is packed. c has rows of `c_row`
/// values, b (k, n) adjacent columns.
pub(crate) fn small(
    c: &mut [f32],
    c_row: usize,
    a: Matrix,
    b: Matrix,
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
) {
    a.assert_holds("a", m, k);
    b.assert_holds("b", k, n);
    assert_eq!(b.column_stride, 1, "b has adjacent columns");
    assert!(a.row_stride == 1 || a.column_stride == 1, "a has adjacent rows or columns");
    assert!(m == 0 || (m - 1) * c_row + n <= c.len(), "c: ({m}, {n}) with rows of {c_row} in {} values", c.len());
    let kernels = Kernels::of(Precision::F32);
    let height = m.div_ceil(m.div_ceil(kernels.rows).max(1)).max(1);
    let width = kernels.columns();
    for column in (0..n).step_by(width) {
        for row in (0..m).step_by(height) {
            // SAFETY: the asserts above.
            unsafe {
                let tile = Tile {
                    k,
                    a: a.values.as_ptr().add(row * a.row_stride),
                    a_row: a.row_stride,
                    a_step: a.column_stride,
                    b: b.values.as_ptr().add(column),
                    b_step: b.row_stride,
                    c: c.as_mut_ptr().add(row * c_row + column),
                    c_row,
                    columns: width.min(n - column),
                    start: null(),
                    base: if accumulate { c.as_ptr().add(row * c_row + column) } else { null() },
                };
                kernels.run(height.min(m - row), &tile);
            }
        }
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
