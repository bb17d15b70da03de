//! How is a symmetric system solved? A = L·Lᵀ (Cholesky) in blocks, so that nearly all work is matrix products.
//!
//! Only the lower triangle is kept, as block columns of [`BLOCK`] columns, each a dense array of all rows from its diagonal
//! down. Then A += U·Uᵀ, the factorisation and the solves are the same walk over block columns, every operand of a product
//! is contiguous, and the leading part of a matrix or of its factor is a prefix of each block column (the factor of a
//! leading submatrix is the leading part of the factor).

use ijepa_tensor::gemm::{Gemm, Layout, gemm};
use rayon::prelude::*;

/// Columns of a block column.
const BLOCK: usize = 128;

/// The lower triangle of a symmetric matrix, or a lower triangular one.
#[derive(Debug, Clone)]
pub(crate) struct Lower {
    pub(crate) size: usize,
    /// Block column k: (size − k·BLOCK, BLOCK) from its diagonal down; columns past the end are unused.
    blocks: Vec<Vec<f32>>,
}

impl Lower {
    /// The zero matrix.
    pub(crate) fn zeros(size: usize) -> Lower {
        let blocks = (0..size).step_by(BLOCK).map(|first| vec![0.0; (size - first) * BLOCK]).collect();
        Lower { size, blocks }
    }

    /// A += U·Uᵀ for `u` (size, length).
    pub(crate) fn add_outer(&mut self, u: &[f32], length: usize) {
        let size = self.size;
        self.blocks.par_iter_mut().enumerate().for_each(|(k, block)| {
            let first = k * BLOCK;
            let width = BLOCK.min(size - first);
            let below = &u[first * length..];
            if width == BLOCK {
                product(block, below, &below[..width * length], (size - first, width, length));
            } else {
                // The last block column is its diagonal square, with unused columns between its rows.
                let mut square = vec![0.0; width * width];
                product(&mut square, below, below, (width, width, length));
                for (row, values) in block.chunks_exact_mut(BLOCK).zip(square.chunks_exact(width)) {
                    row[..width].iter_mut().zip(values).for_each(|(out, value)| *out += value);
                }
            }
        });
    }

    /// A ×= scale, then `shift` is added to the diagonal.
    pub(crate) fn scale_and_shift(&mut self, scale: f64, shift: f64) {
        for block in &mut self.blocks {
            block.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
        }
        for i in 0..self.size {
            let at = self.at(i, i);
            self.blocks[i / BLOCK][at] += shift as f32;
        }
    }

    /// Sum of the diagonal.
    pub(crate) fn trace(&self) -> f64 {
        (0..self.size).map(|i| f64::from(self.blocks[i / BLOCK][self.at(i, i)])).sum()
    }

    /// The first `size` rows and columns.
    pub(crate) fn leading(&self, size: usize) -> Lower {
        let blocks = (0..size).step_by(BLOCK).zip(&self.blocks);
        Lower { size, blocks: blocks.map(|(first, block)| block[..(size - first) * BLOCK].to_vec()).collect() }
    }

    /// The factor L of a positive definite matrix, or none when a pivot is not positive.
    pub(crate) fn factor(mut self) -> Option<Lower> {
        for k in 0..self.blocks.len() {
            let (head, tail) = self.blocks.split_at_mut(k + 1);
            let block = &mut head[k];
            let width = BLOCK.min(self.size - k * BLOCK);
            let (diagonal, below) = block.split_at_mut(width * BLOCK);
            factor_diagonal(diagonal, width)?;
            let diagonal = &*diagonal;
            below.par_chunks_exact_mut(BLOCK).for_each(|row| solve_forward(row, diagonal, width));
            let below = &*below;
            tail.par_iter_mut().enumerate().for_each(|(j, later)| {
                let rows = &below[j * BLOCK * BLOCK..];
                let count = rows.len() / BLOCK;
                let width = BLOCK.min(count);
                let minus: Vec<f32> = rows[..width * BLOCK].iter().map(|value| -value).collect();
                if width == BLOCK {
                    product(later, rows, &minus, (count, BLOCK, BLOCK));
                } else {
                    let mut square = vec![0.0; width * width];
                    product(&mut square, rows, &minus, (width, width, BLOCK));
                    for (row, values) in later.chunks_exact_mut(BLOCK).zip(square.chunks_exact(width)) {
                        row[..width].iter_mut().zip(values).for_each(|(out, value)| *out += value);
                    }
                }
            });
        }
        Some(self)
    }

    /// Replaces each row b of `right` (any number, size) by the solution x of L·Lᵀ·x = b.
    pub(crate) fn solve(&self, right: &mut [f32]) {
        right.par_chunks_exact_mut(self.size).for_each(|x| {
            self.forward(x);
            self.backward(x);
        });
    }

    /// Replaces each row b of `right` by the solution x of L·x = b.
    pub(crate) fn solve_half(&self, right: &mut [f32]) {
        right.par_chunks_exact_mut(self.size).for_each(|x| self.forward(x));
    }

    fn forward(&self, x: &mut [f32]) {
        for (k, block) in self.blocks.iter().enumerate() {
            let width = BLOCK.min(self.size - k * BLOCK);
            let (known, below) = x[k * BLOCK..].split_at_mut(width);
            solve_forward(known, block, width);
            for (value, row) in below.iter_mut().zip(block.chunks_exact(BLOCK).skip(width)) {
                *value -= dot(&row[..width], known);
            }
        }
    }

    fn backward(&self, x: &mut [f32]) {
        for (k, block) in self.blocks.iter().enumerate().rev() {
            let width = BLOCK.min(self.size - k * BLOCK);
            let (unknown, below) = x[k * BLOCK..].split_at_mut(width);
            for (value, row) in below.iter().zip(block.chunks_exact(BLOCK).skip(width)) {
                unknown.iter_mut().zip(row).for_each(|(unknown, l)| *unknown -= l * value);
            }
            for i in (0..width).rev() {
                unknown[i] /= block[i * BLOCK + i];
                let value = unknown[i];
                let row = &block[i * BLOCK..i * BLOCK + i];
                unknown[..i].iter_mut().zip(row).for_each(|(unknown, l)| *unknown -= l * value);
            }
        }
    }

    fn at(&self, row: usize, column: usize) -> usize {
        (row - column / BLOCK * BLOCK) * BLOCK + column % BLOCK
    }
}

/// c (m, n) += a (m, k) · bᵀ for b (n, k); takes the leading rows of a and c.
fn product(c: &mut [f32], a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) {
    let shape = Gemm { m, n, k, a: Layout::Plain, b: Layout::Transposed, accumulate: true };
    gemm(&mut c[..m * n], &a[..m * k], &b[..n * k], shape);
}

/// Factors the top square of a block column, in double precision.
fn factor_diagonal(block: &mut [f32], width: usize) -> Option<()> {
    let mut lower = vec![0.0f64; width * width];
    for i in 0..width {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|p| lower[i * width + p] * lower[j * width + p]).sum();
            let rest = f64::from(block[i * BLOCK + j]) - sum;
            lower[i * width + j] = if i > j {
                rest / lower[j * width + j]
            } else if rest > 0.0 && rest.is_finite() {
                rest.sqrt()
            } else {
                return None;
            };
            block[i * BLOCK + j] = lower[i * width + j] as f32;
        }
        block[i * BLOCK + i + 1..(i + 1) * BLOCK].fill(0.0);
    }
    Some(())
}

/// x (width) ← L⁻¹ x with L the top square of a block column.
fn solve_forward(x: &mut [f32], block: &[f32], width: usize) {
    for i in 0..width {
        let row = &block[i * BLOCK..];
        x[i] = (x[i] - dot(&row[..i], &x[..i])) / row[i];
    }
}

/// Sum in eight lanes, which the compiler can keep in a vector.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::signs;

    /// U·Uᵀ of random signs, (size, length), and the same in full.
    fn gram(size: usize, length: usize) -> (Lower, Vec<f64>) {
        let u = signs(size, length, 5);
        let mut lower = Lower::zeros(size);
        lower.add_outer(&u, length);
        let full = (0..size * size)
            .map(|at| {
                let (i, j) = (at / size, at % size);
                (0..length).map(|p| f64::from(u[i * length + p]) * f64::from(u[j * length + p])).sum()
            })
            .collect();
        (lower, full)
    }

    #[test]
    fn solutions_satisfy_the_system_at_sizes_around_a_block() {
        for size in [1, 5, 127, 128, 129, 300] {
            let (mut lower, full) = gram(size, size + 30);
            lower.scale_and_shift(1.0, 2.0);
            assert!((lower.trace() - full.iter().step_by(size + 1).sum::<f64>() - 2.0 * size as f64).abs() < 1e-3);
            let right = signs(2, size, 9);
            let mut x = right.clone();
            lower.factor().expect("positive definite").solve(&mut x);
            for (x, right) in x.chunks_exact(size).zip(right.chunks_exact(size)) {
                for i in 0..size {
                    let product: f64 = (0..size).map(|j| full[i * size + j] * f64::from(x[j])).sum();
                    let got = product + 2.0 * f64::from(x[i]);
                    assert!((got - f64::from(right[i])).abs() < 1e-3, "size {size}, row {i}: {got} {}", right[i]);
                }
            }
        }
    }

    #[test]
    fn the_leading_part_of_the_factor_is_the_factor_of_the_leading_part() {
        let (mut lower, _) = gram(200, 230);
        lower.scale_and_shift(1.0, 1.0);
        let part = lower.leading(150).factor().expect("positive definite");
        let whole = lower.factor().expect("positive definite").leading(150);
        for (part, whole) in part.blocks.iter().zip(&whole.blocks) {
            for (row, (part, whole)) in part.chunks_exact(BLOCK).zip(whole.chunks_exact(BLOCK)).enumerate() {
                for column in 0..BLOCK.min(row + 1) {
                    assert!((part[column] - whole[column]).abs() < 1e-3);
                }
            }
        }
    }

    #[test]
    fn a_singular_matrix_has_no_factor() {
        let (lower, _) = gram(140, 3);
        assert!(lower.factor().is_none());
    }
}
