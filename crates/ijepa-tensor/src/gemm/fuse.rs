//! What a product does to operands and sums while they are in cache anyway.

use super::Window;
use crate::ops::{gelu, layer_norm};
use crate::vector::vectorised;

/// What an operand's values pass through while they are packed. Its rows in memory are tokens.
#[derive(Clone, Copy, Default)]
pub(crate) enum Map<'a> {
    /// Nothing.
    #[default]
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

vectorised! {
    /// c becomes c · gelu′(hidden), and hidden gelu(hidden).
    pub(super) fn gelu_backward(c: Window, hidden: Window) {
        let (mut c, mut hidden) = (c, hidden);
        for row in 0..c.rows {
            gelu::backward_values(c.row(row), hidden.row(row));
        }
    }
}
