//! Multi-head self-attention over short sequences.
//!
//! For each sequence and head, with Q, K, V (n, e) cut from qkv (n, 3·h·e) and s = 1/√e:
//! P = softmax(s·Q·Kᵀ), O = P·V.
//! Backward recomputes P from the saved log-sum-exp of each row: dV = Pᵀ·dO, dP = dO·Vᵀ,
//! dS = s·P∘(dP − rowsum(dO∘O)), dQ = dS·K, dK = dSᵀ·Q.
//!
//! Scores are computed for a block of queries at a time and transposed, (n, block): the softmax then runs along the lanes of a
//! vector, nothing larger than a block is ever written, and every product finds its operands as they lie.

use crate::buf::{View, ViewMut};
use crate::gemm::{Matrix, small, transpose};
use crate::tape::{Tape, Var};
use crate::vector::{exp, sum, vectorised};
use rayon::prelude::*;
use std::cell::RefCell;

/// Sequences of equal length, and how the width splits into heads.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Number of heads.
    pub heads: usize,
    /// Width of all heads together.
    pub width: usize,
}

impl Shape {
    fn head(self) -> usize {
        self.width / self.heads
    }

    fn scale(self) -> f32 {
        1.0 / (self.head() as f32).sqrt()
    }

    fn assert(self) {
        assert_eq!(self.width % self.heads, 0, "the width is a multiple of the heads: {self:?}");
    }
}

impl<'p> Tape<'p> {
    /// qkv (b·n, 3·d), q before k before v in a row, each head by head → (b·n, d); `tokens` is n.
    pub fn attention(&mut self, qkv: &Var, tokens: usize, heads: usize) -> Var {
        let shape = Shape { batch: qkv.rows() / tokens, tokens, heads, width: qkv.width() / 3 };
        let mut out = self.take(qkv.rows() * shape.width);
        let mut sums = self.take(qkv.rows() * heads);
        forward(out.view_mut(), sums.view_mut(), qkv.view(), shape);
        let tracked = qkv.tracked();
        let out = self.var(out, qkv.rows(), shape.width, tracked);
        if !tracked {
            self.put(sums);
            return out;
        }
        let (qkv, out_kept) = (qkv.clone(), out.clone());
        self.record(move |tape| {
            let Some(dout) = tape.take_gradient(out_kept.key()) else { return };
            let mut dqkv = tape.take(qkv.len());
            backward(dqkv.view_mut(), dout.view(), out_kept.view(), qkv.view(), sums.view(), shape);
            tape.pass_gradient(qkv.key(), dqkv);
            tape.put(dout);
            tape.put(sums);
        });
        out
    }
}

/// Queries whose scores are held at a time.
const BLOCK: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends parts of the given lengths.
fn with_scratch<const N: usize>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N])) {
    SCRATCH.with_borrow_mut(|scratch| {
        let total = lens.iter().sum();
        if scratch.len() < total {
            scratch.resize(total, 0.0);
        }
        let mut rest = &mut scratch[..];
        work(lens.map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            part
        }));
    });
}

/// The columns of one head in rows of `stride` values, beginning at `first`: (n, e).
fn columns(values: &[f32], first: usize, stride: usize) -> Matrix<'_> {
    Matrix { values: &values[first..], row_stride: stride, column_stride: 1 }
}

/// Rows of `stride` values, the last one possibly longer than what is read.
fn rows(values: &[f32], stride: usize) -> Matrix<'_> {
    columns(values, 0, stride)
}

/// out (b·n, d) =, sums (b·n, h) = log Σ_j e^(s·q·k_j), head by head; qkv (b·n, 3·d).
pub fn forward(out: ViewMut, sums: ViewMut, qkv: View, shape: Shape) {
    let (ViewMut::Cpu(out), ViewMut::Cpu(sums), View::Cpu(qkv)) = (out, sums, qkv);
    let Shape { batch, tokens: n, heads, width } = shape;
    shape.assert();
    assert_eq!(
        (out.len(), sums.len(), qkv.len()),
        (batch * n * width, batch * n * heads, batch * n * 3 * width),
        "{shape:?}"
    );
    let (e, padded) = (shape.head(), n.next_multiple_of(BLOCK));
    out.par_chunks_exact_mut(n * width)
        .zip(sums.par_chunks_exact_mut(n * heads))
        .zip(qkv.par_chunks_exact(n * 3 * width))
        .for_each(|((out, sums), qkv)| {
            with_scratch([e * padded, e * n, n * BLOCK], |[q, k, p]| {
                for h in 0..heads {
                    let (query, key, value) = (h * e, width + h * e, 2 * width + h * e);
                    transpose(q, padded, &qkv[query..], 3 * width, n, e);
                    scale_values(q, shape.scale());
                    transpose(k, n, &qkv[key..], 3 * width, n, e);
                    for first in (0..n).step_by(BLOCK) {
                        let count = BLOCK.min(n - first);
                        small(p, BLOCK, rows(k, n).transposed(), columns(q, first, padded), (n, BLOCK, e), false);
                        let mut inverse = [0.0; BLOCK];
                        softmax_columns(p, &mut inverse, &mut sums[h * n + first..][..count]);
                        let out = &mut out[first * width + h * e..];
                        let v = columns(qkv, value, 3 * width);
                        small(out, width, rows(p, BLOCK).transposed(), v, (count, e, n), false);
                        for (out, inverse) in out.chunks_mut(width).zip(&inverse[..count]) {
                            scale_values(&mut out[..e], *inverse);
                        }
                    }
                }
            });
        });
}

vectorised! {
    fn scale_values(values: &mut [f32], factor: f32) {
        for value in values.iter_mut() {
            *value *= factor;
        }
    }
}

vectorised! {
    /// p (n, BLOCK) becomes e^(p − max of its column); inverse = 1 / the column's sum, sums its log-sum-exp.
    fn softmax_columns(p: &mut [f32], inverse: &mut [f32; BLOCK], sums: &mut [f32]) {
        let (p, _) = p.as_chunks_mut::<BLOCK>();
        let mut largest = [f32::NEG_INFINITY; BLOCK];
        for p in p.iter() {
            for i in 0..BLOCK {
                largest[i] = if p[i] > largest[i] { p[i] } else { largest[i] };
            }
        }
        let mut total = [0.0; BLOCK];
        for p in p.iter_mut() {
            for i in 0..BLOCK {
                p[i] = exp(p[i] - largest[i]);
                total[i] += p[i];
            }
        }
        for i in 0..BLOCK {
            inverse[i] = 1.0 / total[i];
        }
        for i in 0..sums.len() {
            sums[i] = largest[i] + total[i].ln();
        }
    }
}

/// dqkv (b·n, 3·d) =; dout and out (b·n, d), qkv (b·n, 3·d), sums (b·n, h) from the forward pass.
pub fn backward(dqkv: ViewMut, dout: View, out: View, qkv: View, sums: View, shape: Shape) {
    let ViewMut::Cpu(dqkv) = dqkv;
    let (View::Cpu(dout), View::Cpu(out), View::Cpu(qkv), View::Cpu(sums)) = (dout, out, qkv, sums);
    let Shape { tokens: n, heads, width, .. } = shape;
    assert_eq!((dqkv.len(), dout.len()), (qkv.len(), out.len()), "{shape:?}");
    dqkv.par_chunks_exact_mut(n * 3 * width)
        .zip(dout.par_chunks_exact(n * width))
        .zip(out.par_chunks_exact(n * width))
        .zip(qkv.par_chunks_exact(n * 3 * width))
        .zip(sums.par_chunks_exact(n * heads))
        .for_each(|((((dqkv, dout), out), qkv), sums)| backward_sequence(dqkv, dout, out, qkv, sums, shape));
}

/// As [`backward`], for one sequence.
fn backward_sequence(dqkv: &mut [f32], dout: &[f32], out: &[f32], qkv: &[f32], sums: &[f32], shape: Shape) {
    let Shape { tokens: n, heads, width, .. } = shape;
    let (e, padded) = (shape.head(), n.next_multiple_of(BLOCK));
    with_scratch([e * padded, e * n, e * n, e * padded, n * BLOCK, n * BLOCK], |[q, k, v, d, p, ds]| {
        for h in 0..heads {
            let (query, key, value) = (h * e, width + h * e, 2 * width + h * e);
            transpose(q, padded, &qkv[query..], 3 * width, n, e);
            scale_values(q, shape.scale());
            transpose(k, n, &qkv[key..], 3 * width, n, e);
            transpose(v, n, &qkv[value..], 3 * width, n, e);
            transpose(d, padded, &dout[h * e..], width, n, e);
            for first in (0..n).step_by(BLOCK) {
                let count = BLOCK.min(n - first);
                small(p, BLOCK, rows(k, n).transposed(), columns(q, first, padded), (n, BLOCK, e), false);
                small(ds, BLOCK, rows(v, n).transposed(), columns(d, first, padded), (n, BLOCK, e), false);
                let (mut log_sums, mut means) = ([0.0; BLOCK], [0.0; BLOCK]);
                log_sums[..count].copy_from_slice(&sums[h * n + first..][..count]);
                for (i, mean) in means[..count].iter_mut().enumerate() {
                    let at = (first + i) * width + h * e;
                    *mean = dot(&dout[at..at + e], &out[at..at + e]);
                }
                score_gradients(p, ds, &log_sums, &means, shape.scale());

                let dq = &mut dqkv[first * 3 * width + query..];
                small(dq, 3 * width, rows(ds, BLOCK).transposed(), columns(qkv, key, 3 * width), (count, e, n), false);
                let (dk, queries) = (&mut dqkv[key..], columns(qkv, first * 3 * width + query, 3 * width));
                small(dk, 3 * width, rows(ds, BLOCK), queries, (n, e, count), first > 0);
                let (dv, dout) = (&mut dqkv[value..], columns(dout, first * width + h * e, width));
                small(dv, 3 * width, rows(p, BLOCK), dout, (n, e, count), first > 0);
            }
        }
    });
}

vectorised! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let b = &b[..a.len()];
        sum(a.len(), |i| a[i] * b[i])
    }
}

vectorised! {
    /// Scores p (n, BLOCK) become P = e^(score − log sum), ds becomes scale·P∘(ds − mean).
    fn score_gradients(p: &mut [f32], ds: &mut [f32], log_sums: &[f32; BLOCK], means: &[f32; BLOCK], scale: f32) {
        let ((p, _), (ds, _)) = (p.as_chunks_mut::<BLOCK>(), ds.as_chunks_mut::<BLOCK>());
        for (p, ds) in p.iter_mut().zip(ds) {
            for i in 0..BLOCK {
                p[i] = exp(p[i] - log_sums[i]);
                ds[i] = p[i] * (ds[i] - means[i]) * scale;
            }
        }
    }
}

/// The plain statement.
pub mod reference {
    use super::Shape;
    use crate::scalar::Scalar;

    /// out (b·n, d) = attention over qkv (b·n, 3·d).
    pub fn forward<T: Scalar>(out: &mut [T], qkv: &[T], shape: Shape) {
        let Shape { batch, tokens, heads, width } = shape;
        let head = width / heads;
        let scale = T::constant(1.0 / (head as f64).sqrt());
        for b in 0..batch {
            for h in 0..heads {
                let at = |which: usize, token: usize, i: usize| {
                    qkv[(b * tokens + token) * 3 * width + which * width + h * head + i]
                };
                for query in 0..tokens {
                    let weights: Vec<T> = (0..tokens)
                        .map(|key| (0..head).fold(T::zero(), |sum, i| sum + at(0, query, i) * at(1, key, i)) * scale)
                        .map(T::exp)
                        .collect();
                    let total = weights.iter().fold(T::zero(), |sum, &weight| sum + weight);
                    for i in 0..head {
                        let sum = (0..tokens).fold(T::zero(), |sum, key| sum + weights[key] * at(2, key, i));
                        out[(b * tokens + query) * width + h * head + i] = sum / total;
                    }
                }
            }
        }
    }
}
