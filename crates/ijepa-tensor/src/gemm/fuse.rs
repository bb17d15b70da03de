//! What a product does to its operands on the way in and to its sums on the way out, while they are in cache anyway.

use super::Window;
use crate::ops::{gelu, layer_norm};
use crate::vector::vectorised;
use std::ops::Range;

/// What an operand's values pass through while they are packed. Its rows in memory are tokens.
#[derive(Clone, Copy)]
pub(crate) enum Map<'a> {
    /// Nothing.
    Plain,
    /// GELU.
    Gelu,
    /// Layer norm with known mean and rstd (rows, 2), weight and bias (width).
    Norm { stats: &'a [f32], weight: &'a [f32], bias: &'a [f32] },
}

impl Map<'_> {
    /// to = map(from), a part of a row of the matrix that begins at `column`.
    #[inline]
    pub(super) fn copy(self, to: &mut [f32], from: &[f32], row: usize, column: usize) {
        match self {
            Map::Plain => to.copy_from_slice(from),
            Map::Gelu => gelu::forward_values(to, from),
            Map::Norm { stats, weight, bias } => {
                let columns = column..column + to.len();
                let (mean, rstd) = (stats[2 * row], stats[2 * row + 1]);
                layer_norm::apply_values(to, from, mean, rstd, &weight[columns.clone()], &bias[columns]);
            }
        }
    }
}

/// What happens to finished sums. Matrices are laid out as c.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// Nothing.
    Nothing,
    /// + bias (n)
    Bias(&'a [f32]),
    /// + bias (n) + residual (m, n)
    BiasResidual(&'a [f32], &'a [f32]),
    /// · gelu′(hidden (m, n))
    GeluGradient(&'a [f32]),
}

impl Finish<'_> {
    /// Finishes a tile of c, which stands at `rows` and `columns`.
    #[inline]
    pub(super) fn tile(self, c: Window, rows: Range<usize>, columns: Range<usize>) {
        match self {
            Finish::Nothing => {}
            Finish::Bias(bias) => add_bias(c, &bias[columns]),
            Finish::BiasResidual(bias, residual) => {
                add_bias_residual(c, &bias[columns.clone()], residual, rows, columns)
            }
            Finish::GeluGradient(hidden) => gelu_gradient(c, hidden, rows, columns),
        }
    }
}

/// The part of a row of a matrix as wide as c that lies under `columns`.
#[inline(always)]
fn part<'a>(matrix: &'a [f32], c: Window, row: usize, columns: &Range<usize>) -> &'a [f32] {
    &matrix[row * c.stride + columns.start..row * c.stride + columns.end]
}

vectorised! {
    fn add_bias(c: Window, bias: &[f32]) {
        let mut c = c;
        for row in 0..c.rows {
            for (c, bias) in c.row(row).iter_mut().zip(bias) {
                *c += bias;
            }
        }
    }
}

vectorised! {
    fn add_bias_residual(c: Window, bias: &[f32], residual: &[f32], rows: Range<usize>, columns: Range<usize>) {
        let mut c = c;
        for (row, at) in rows.enumerate() {
            let residual = part(residual, c, at, &columns);
            for ((c, bias), residual) in c.row(row).iter_mut().zip(bias).zip(residual) {
                *c += bias + residual;
            }
        }
    }
}

vectorised! {
    fn gelu_gradient(c: Window, hidden: &[f32], rows: Range<usize>, columns: Range<usize>) {
        let mut c = c;
        for (row, at) in rows.enumerate() {
            let hidden = part(hidden, c, at, &columns);
            for (c, hidden) in c.row(row).iter_mut().zip(hidden) {
                *c *= gelu::slope(*hidden);
            }
        }
    }
}
