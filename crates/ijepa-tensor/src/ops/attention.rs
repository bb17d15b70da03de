//! Multi-head self-attention over short sequences.
//!
//! For each sequence and head, with Q, K, V (n, e) cut from qkv (n, 3·h·e) and s = 1/√e:
//! P = softmax(s·Q·Kᵀ), O = P·V.
//! Backward recomputes P from the saved log-sum-exp of each row: dV = Pᵀ·dO, dP = dO·Vᵀ,
//! dS = P∘(dP − rowsum(dP∘P)), dQ = s·dS·K, dK = s·dSᵀ·Q.

use crate::buf::{View, ViewMut};
use crate::gemm::{Operand, serial};
use crate::tape::{Tape, Var};
use crate::vector::{exp, max, sum, vectorised};
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
        let (qkv, key) = (qkv.clone(), out.key());
        self.record(move |tape| {
            let Some(dout) = tape.take_gradient(key) else { return };
            let mut dqkv = tape.take(qkv.len());
            backward(dqkv.view_mut(), dout.view(), qkv.view(), sums.view(), shape);
            tape.pass_gradient(qkv.key(), dqkv);
            tape.put(dout);
            tape.put(sums);
        });
        out
    }
}

thread_local! {
    /// Room for two (n, n) matrices.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn with_scratch(len: usize, work: impl FnOnce(&mut [f32])) {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len]);
    });
}

/// Q, K or V of one head, cut from the rows of one sequence.
fn part(qkv: &[f32], which: usize, head: usize, shape: Shape) -> Operand<'_> {
    Operand { values: &qkv[which * shape.width + head * shape.head()..], row_stride: 3 * shape.width, column_stride: 1 }
}

fn transposed(operand: Operand<'_>) -> Operand<'_> {
    Operand { values: operand.values, row_stride: operand.column_stride, column_stride: operand.row_stride }
}

/// out (b·n, d) =, sums (b·n, h) = log Σ_j e^(s·q·k_j); qkv (b·n, 3·d).
pub fn forward(out: ViewMut, sums: ViewMut, qkv: View, shape: Shape) {
    let (ViewMut::Cpu(out), ViewMut::Cpu(sums), View::Cpu(qkv)) = (out, sums, qkv);
    let Shape { batch, tokens: n, heads, width } = shape;
    shape.assert();
    assert_eq!(
        (out.len(), sums.len(), qkv.len()),
        (batch * n * width, batch * n * heads, batch * n * 3 * width),
        "{shape:?}"
    );
    let head = shape.head();
    out.par_chunks_exact_mut(n * width)
        .zip(sums.par_chunks_exact_mut(n * heads))
        .zip(qkv.par_chunks_exact(n * 3 * width))
        .for_each(|((out, sums), qkv)| {
            with_scratch(n * n, |scores| {
                for h in 0..heads {
                    let (q, k, v) = (part(qkv, 0, h, shape), part(qkv, 1, h, shape), part(qkv, 2, h, shape));
                    serial(scores, n, q, transposed(k), (n, n, head), false, shape.scale());
                    softmax_rows(scores, &mut sums[h * n..][..n], n);
                    let p = Operand { values: scores, row_stride: n, column_stride: 1 };
                    serial(&mut out[h * head..], width, p, v, (n, head, n), false, 1.0);
                }
            });
        });
}

vectorised! {
    fn softmax_rows(scores: &mut [f32], sums: &mut [f32], n: usize) {
        for (scores, log_sum) in scores.chunks_exact_mut(n).zip(sums) {
            let largest = max(scores);
            for score in scores.iter_mut() {
                *score = exp(*score - largest);
            }
            let total = sum(n, |i| scores[i]);
            let inverse = 1.0 / total;
            for score in scores.iter_mut() {
                *score *= inverse;
            }
            *log_sum = largest + total.ln();
        }
    }
}

/// dqkv (b·n, 3·d) =; dout (b·n, d), qkv (b·n, 3·d), sums (b·n, h) from the forward pass.
pub fn backward(dqkv: ViewMut, dout: View, qkv: View, sums: View, shape: Shape) {
    let (ViewMut::Cpu(dqkv), View::Cpu(dout), View::Cpu(qkv), View::Cpu(sums)) = (dqkv, dout, qkv, sums);
    let Shape { tokens: n, heads, width, .. } = shape;
    let (head, scale) = (shape.head(), shape.scale());
    dqkv.par_chunks_exact_mut(n * 3 * width)
        .zip(dout.par_chunks_exact(n * width))
        .zip(qkv.par_chunks_exact(n * 3 * width))
        .zip(sums.par_chunks_exact(n * heads))
        .for_each(|(((dqkv, dout), qkv), sums)| {
            with_scratch(2 * n * n, |scratch| {
                let (p, ds) = scratch.split_at_mut(n * n);
                for h in 0..heads {
                    let (q, k, v) = (part(qkv, 0, h, shape), part(qkv, 1, h, shape), part(qkv, 2, h, shape));
                    let dout = Operand { values: &dout[h * head..], row_stride: width, column_stride: 1 };
                    serial(p, n, q, transposed(k), (n, n, head), false, scale);
                    serial(ds, n, dout, transposed(v), (n, n, head), false, 1.0);
                    score_gradient_rows(p, ds, &sums[h * n..][..n], n);
                    let p = Operand { values: p, row_stride: n, column_stride: 1 };
                    let ds = Operand { values: ds, row_stride: n, column_stride: 1 };
                    serial(&mut dqkv[h * head..], 3 * width, ds, k, (n, head, n), false, scale);
                    serial(&mut dqkv[width + h * head..], 3 * width, transposed(ds), q, (n, head, n), false, scale);
                    serial(&mut dqkv[2 * width + h * head..], 3 * width, transposed(p), dout, (n, head, n), false, 1.0);
                }
            });
        });
}

vectorised! {
    /// Scores become P = e^(score − log sum), dP becomes dS = P∘(dP − rowsum(dP∘P)).
    fn score_gradient_rows(p: &mut [f32], ds: &mut [f32], sums: &[f32], n: usize) {
        for ((p, ds), &log_sum) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).zip(sums) {
            for p in p.iter_mut() {
                *p = exp(*p - log_sum);
            }
            let mean = sum(n, |i| p[i] * ds[i]);
            for i in 0..n {
                ds[i] = p[i] * (ds[i] - mean);
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
