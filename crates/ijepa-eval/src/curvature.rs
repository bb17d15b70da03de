//! How does the loss bend? A cheap stand-in P for the inverse Hessian of the logistic loss.
//!
//! The Hessian is a mixture of p_i p_j-weighted covariances of the standardised features; at the start, with all classes
//! equally likely, it is S/c for every class, with S = X̃ᵀX̃/n. Hence P = (S/c + λI)⁻¹ for the weights of each class and c for
//! the biases (columns are centred, so biases and weights do not mix). L-BFGS corrects the rest in few steps.
//!
//! Up to [`EXACT`] columns S itself is factored. Beyond, S is taken exactly in a subspace Q of [`SKETCH`] columns that
//! holds its large directions (Q = orth(S·Ω) for random signs Ω; Halko, Martinsson & Tropp 2011) and as a multiple
//! β of the identity outside, β the mean of what is left: P = Q(QᵀSQ/c + λ)⁻¹Qᵀ + (β/c + λ)⁻¹(I − QQᵀ).

use crate::Features;
use crate::draws::signs;
use crate::lower::Lower;
use crate::standard::Standard;
use ijepa_tensor::gemm::{Gemm, Layout, gemm};

/// Widest features whose covariance is factored whole.
const EXACT: usize = 1024;
/// Directions kept of wider ones.
const SKETCH: usize = 256;

/// Second moments of the standardised features, for all penalties.
pub(crate) struct Curvature {
    width: usize,
    /// (d, r) orthonormal columns; none when the whole space is used.
    basis: Option<Vec<f32>>,
    /// QᵀSQ (r, r), or S (d, d).
    inner: Lower,
    /// Mean curvature outside the basis.
    outside: f64,
}

/// [`Curvature`] at one penalty.
pub(crate) struct Preconditioner<'a> {
    curvature: &'a Curvature,
    factor: Lower,
    outside_inverse: f32,
    classes: usize,
}

impl Curvature {
    /// Reads all rows once, or twice when they are wide.
    pub(crate) fn of(features: &Features, standard: &Standard, seed: u64) -> Curvature {
        let (rows, width) = (features.rows as f64, features.width);
        if width <= EXACT {
            let mut inner = gram(features, standard, &all(features));
            inner.scale_and_shift(1.0 / rows, 0.0);
            return Curvature { width, basis: None, inner, outside: 0.0 };
        }
        let basis = basis(features, standard, seed);
        let mut inner = Lower::zeros(SKETCH);
        for_blocks(features, standard, &all(features), |block, count| {
            let image = transposed_image(block, &basis, count, width); // (r, rows)
            inner.add_outer(&image, count);
        });
        inner.scale_and_shift(1.0 / rows, 0.0);
        let outside = ((standard.mean_square() - inner.trace()) / (width - SKETCH) as f64).max(0.0);
        Curvature { width, basis: Some(basis), inner, outside }
    }

    /// P at a penalty; `None` when it is singular in single precision.
    pub(crate) fn at(&self, lambda: f64, classes: usize) -> Option<Preconditioner<'_>> {
        let bend = 1.0 / classes as f64;
        // Rounding of single precision in S, relative to its largest possible eigenvalue.
        let floor = 1e-6 * bend * self.inner.trace().max(1.0);
        let mut inner = self.inner.clone();
        inner.scale_and_shift(bend, lambda.max(floor));
        let factor = inner.factor()?;
        let outside_inverse = (1.0 / (bend * self.outside + lambda)) as f32;
        Some(Preconditioner { curvature: self, factor, outside_inverse, classes })
    }
}

impl Preconditioner<'_> {
    /// out = P·v for v of weights (c, d), then biases (c).
    pub(crate) fn apply(&self, v: &[f64], out: &mut [f64]) {
        let (width, classes) = (self.curvature.width, self.classes);
        let (weights, bias) = v.split_at(classes * width);
        let weights: Vec<f32> = weights.iter().map(|&value| value as f32).collect(); // (c, d)
        let (out, out_bias) = out.split_at_mut(classes * width);
        let applied = match &self.curvature.basis {
            None => {
                let mut applied = weights;
                self.factor.solve(&mut applied);
                applied
            }
            Some(basis) => {
                let shape =
                    Gemm { m: classes, n: SKETCH, k: width, a: Layout::Plain, b: Layout::Plain, accumulate: false };
                let mut inside = vec![0.0; classes * SKETCH]; // (c, r)
                gemm(&mut inside, &weights, basis, shape);
                let mut solved = inside.clone();
                self.factor.solve(&mut solved);
                for (solved, inside) in solved.iter_mut().zip(&inside) {
                    *solved -= self.outside_inverse * inside;
                }
                let mut applied = weights;
                applied.iter_mut().for_each(|value| *value *= self.outside_inverse);
                let shape =
                    Gemm { m: classes, n: width, k: SKETCH, a: Layout::Plain, b: Layout::Transposed, accumulate: true };
                gemm(&mut applied, &solved, basis, shape);
                applied
            }
        };
        out.iter_mut().zip(applied).for_each(|(out, value)| *out = f64::from(value));
        out_bias.iter_mut().zip(bias).for_each(|(out, value)| *out = classes as f64 * value);
    }
}

/// X̃ᵀX̃ (d, d) over some rows.
pub(crate) fn gram(features: &Features, standard: &Standard, rows: &[u32]) -> Lower {
    let mut gram = Lower::zeros(features.width);
    add_gram(&mut gram, features, standard, rows);
    gram
}

/// gram += X̃ᵀX̃ over some rows.
pub(crate) fn add_gram(gram: &mut Lower, features: &Features, standard: &Standard, rows: &[u32]) {
    for_blocks(features, standard, rows, |block, count| {
        let mut turned = vec![0.0; block.len()]; // (d, rows)
        transpose(&mut turned, block, count);
        gram.add_outer(&turned, count);
    });
}

/// X̃X̃ᵀ (rows, rows), a slab of columns at a time.
pub(crate) fn kernel(features: &Features, standard: &Standard, rows: &[u32]) -> Lower {
    const SLAB: usize = 512;
    let mut kernel = Lower::zeros(rows.len());
    for first in (0..features.width).step_by(SLAB) {
        let columns = SLAB.min(features.width - first);
        let mut slab = vec![0.0; rows.len() * columns]; // (rows, columns)
        for (out, &row) in slab.chunks_exact_mut(columns).zip(rows) {
            standard.columns(out, features, row, first);
        }
        kernel.add_outer(&slab, columns);
    }
    kernel
}

/// Every row of a matrix.
pub(crate) fn all(features: &Features) -> Vec<u32> {
    (0..features.rows as u32).collect()
}

/// Calls `work(block, count)` on standardised blocks (count, d), one after the other.
pub(crate) fn for_blocks(features: &Features, standard: &Standard, rows: &[u32], mut work: impl FnMut(&[f32], usize)) {
    const ROWS: usize = 512;
    let mut block = vec![0.0; ROWS.min(rows.len()) * features.width];
    for rows in rows.chunks(ROWS) {
        let block = &mut block[..rows.len() * features.width];
        standard.rows(block, features, rows);
        work(block, rows.len());
    }
}

/// (d, r) orthonormal columns that span the large directions of S.
fn basis(features: &Features, standard: &Standard, seed: u64) -> Vec<f32> {
    let width = features.width;
    let omega = signs(width, SKETCH, seed); // (d, r)
    let mut image = vec![0.0; width * SKETCH]; // (d, r) S·Ω
    for_blocks(features, standard, &all(features), |block, count| {
        let mut inner = vec![0.0; count * SKETCH]; // (rows, r)
        let shape = Gemm { m: count, n: SKETCH, k: width, a: Layout::Plain, b: Layout::Plain, accumulate: false };
        gemm(&mut inner, block, &omega, shape);
        let shape = Gemm { m: width, n: SKETCH, k: count, a: Layout::Transposed, b: Layout::Plain, accumulate: true };
        gemm(&mut image, block, &inner, shape);
    });
    // Cholesky QR, repeated because once loses half the digits; the shift keeps null directions null instead of failing.
    for _ in 0..3 {
        let mut turned = vec![0.0; image.len()]; // (r, d)
        transpose(&mut turned, &image, width);
        let mut products = Lower::zeros(SKETCH);
        products.add_outer(&turned, width);
        let scale = products.trace() / SKETCH as f64;
        if scale <= 0.0 {
            break;
        }
        products.scale_and_shift(1.0 / scale, 1e-5);
        let Some(factor) = products.factor() else {
            break;
        };
        let inverse_root = (1.0 / scale.sqrt()) as f32;
        image.iter_mut().for_each(|value| *value *= inverse_root);
        factor.solve_half(&mut image);
    }
    image
}

/// (block · basis)ᵀ, (r, rows).
fn transposed_image(block: &[f32], basis: &[f32], count: usize, width: usize) -> Vec<f32> {
    let mut image = vec![0.0; SKETCH * count];
    let shape = Gemm { m: SKETCH, n: count, k: width, a: Layout::Transposed, b: Layout::Transposed, accumulate: false };
    gemm(&mut image, basis, block, shape);
    image
}

/// out (columns, rows) = values (rows, columns) turned.
fn transpose(out: &mut [f32], values: &[f32], rows: usize) {
    let columns = values.len() / rows;
    for (row, values) in values.chunks_exact(columns).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            out[column * rows + row] = value;
        }
    }
}
