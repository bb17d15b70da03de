//! Multi-head attention over short sequences: of every token, or of a few that alone are needed later.
//!
//! For each sequence and head, with Q (t, e), K and V (n, e) and s = 1/√e:
//! P = softmax(s·Q·Kᵀ), O = P·V.
//! Backward recomputes P from the saved log-sum-exp of each row: dV = Pᵀ·dO, dP = dO·Vᵀ,
//! dS = s·P∘(dP − rowsum(dO∘O)), dQ = dS·K, dK = dSᵀ·Q.
//!
//! Scores are computed for a block of queries at a time and transposed, (n, block): the softmax then runs along the lanes of a
//! vector, nothing larger than a block is ever written, and every product finds its operands as they lie.

use crate::buf::{Buf, View, ViewMut};
use crate::cuda::calls;
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
    /// Tokens of a sequence that look, t.
    pub queries: usize,
    /// Tokens of a sequence that are looked at, n.
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

/// Q, or K before V, in rows `stride` apart; each head by head.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// From the first value of the first row on.
    pub values: View<'a>,
    /// From row to row.
    pub stride: usize,
}

/// Gradients of Q, K and V, to be written.
pub enum Gradients<'a> {
    /// dqkv (b·n, 3·d)
    Joint(ViewMut<'a>),
    /// dq (b·t, d) and dkv (b·n, 2·d)
    Apart(ViewMut<'a>, ViewMut<'a>),
}

/// Q, K and V in one matrix (b·n, 3·d).
pub fn joint(qkv: View, width: usize) -> (Part, Part) {
    let part = |first| Part { values: qkv.range(first..qkv.len()), stride: 3 * width };
    (part(0), part(width))
}

impl Part<'_> {
    fn on_gpu(self) -> calls::Part {
        calls::Part { values: self.values.bf16(), stride: self.stride }
    }
}

/// Q (b·t, d), and K before V (b·n, 2·d).
pub fn apart<'a>(q: View<'a>, kv: View<'a>, width: usize) -> (Part<'a>, Part<'a>) {
    (Part { values: q, stride: width }, Part { values: kv, stride: 2 * width })
}

impl<'p> Tape<'p> {
    /// qkv (b·n, 3·d), q before k before v in a row, each head by head → (b·n, d); `tokens` is n.
    pub fn attention(&mut self, qkv: &Var, tokens: usize, heads: usize) -> Var {
        let (rows, width) = (qkv.rows(), qkv.width() / 3);
        let shape = Shape { batch: rows / tokens, queries: tokens, tokens, heads, width };
        let (out, sums) = self.attention_forward(joint(qkv.view(), width), qkv.tracked(), shape);
        if let Some(sums) = sums {
            let (qkv, out) = (qkv.clone(), out.clone());
            self.record(move |tape| {
                let Some(dout) = tape.take_gradient(out.key()) else { return };
                let mut dqkv = tape.take(qkv.len());
                let gradients = Gradients::Joint(dqkv.view_mut());
                backward(gradients, dout.view(), out.view(), joint(qkv.view(), width), sums.view(), shape);
                tape.pass_gradient(qkv.key(), dqkv);
                tape.put(dout);
                tape.put(sums);
            });
        }
        out
    }

    /// q (b·t, d), kv (b·n, 2·d), k before v in a row, each head by head → (b·t, d); `tokens` is n.
    pub fn attention_of(&mut self, q: &Var, kv: &Var, tokens: usize, heads: usize) -> Var {
        let (batch, width) = (kv.rows() / tokens, q.width());
        let shape = Shape { batch, queries: q.rows() / batch, tokens, heads, width };
        let (out, sums) = self.attention_forward(apart(q.view(), kv.view(), width), q.tracked() || kv.tracked(), shape);
        if let Some(sums) = sums {
            let (q, kv, out) = (q.clone(), kv.clone(), out.clone());
            self.record(move |tape| {
                let Some(dout) = tape.take_gradient(out.key()) else { return };
                let (mut dq, mut dkv) = (tape.take(q.len()), tape.take(kv.len()));
                let gradients = Gradients::Apart(dq.view_mut(), dkv.view_mut());
                backward(gradients, dout.view(), out.view(), apart(q.view(), kv.view(), width), sums.view(), shape);
                tape.pass_gradient(q.key(), dq);
                tape.pass_gradient(kv.key(), dkv);
                tape.put(dout);
                tape.put(sums);
            });
        }
        out
    }

    /// The result, and the log-sums that a backward pass needs.
    fn attention_forward(&mut self, parts: (Part, Part), tracked: bool, shape: Shape) -> (Var, Option<Buf>) {
        let rows = shape.batch * shape.queries;
        let mut out = self.take(rows * shape.width);
        let mut sums = self.take_f32(rows * shape.heads);
        forward(out.view_mut(), sums.view_mut(), parts, shape);
        let out = self.var(out, rows, shape.width, tracked);
        if !tracked {
            self.put(sums);
            return (out, None);
        }
        (out, Some(sums))
    }
}

/// Queries whose scores are held at a time.
const BLOCK: usize = 32;
/// The same at the end of a sequence, where that is enough.
const HALF: usize = BLOCK / 2;

/// Lanes in which `count` queries fit.
fn lanes(count: usize) -> usize {
    if count <= HALF { HALF } else { BLOCK }
}

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
    Matrix::rows(&values[first..], stride)
}

/// Rows of `stride` values, the last one possibly longer than what is read.
fn rows(values: &[f32], stride: usize) -> Matrix<'_> {
    columns(values, 0, stride)
}

/// out (b·t, d) =, sums (b, h, t) = log Σ_j e^(s·q·k_j).
pub fn forward(out: ViewMut, sums: ViewMut, (q, kv): (Part, Part), shape: Shape) {
    let Shape { batch, queries: t, tokens: n, heads, width } = shape;
    shape.assert();
    assert_eq!((out.len(), sums.len()), (batch * t * width, batch * t * heads), "{shape:?}");
    if let Some(device) = q.values.device() {
        return device.run(calls::attention_forward(out.bf16(), sums.f32(), (q.on_gpu(), kv.on_gpu()), shape));
    }
    let (out, sums, queries, keys) = (out.cpu(), sums.cpu(), q.values.cpu(), kv.values.cpu());
    let (e, padded) = (shape.head(), t.next_multiple_of(BLOCK));
    let sequences = out.par_chunks_exact_mut(t * width).zip(sums.par_chunks_exact_mut(t * heads));
    sequences.enumerate().for_each(|(sequence, (out, sums))| {
        let (queries, keys) = (&queries[sequence * t * q.stride..], &keys[sequence * n * kv.stride..]);
        with_scratch([e * padded, e * n, n * BLOCK], |[query, key, p]| {
            for h in 0..heads {
                transpose(query, padded, &queries[h * e..], q.stride, t, e);
                scale_values(query, shape.scale());
                transpose(key, n, &keys[h * e..], kv.stride, n, e);
                for first in (0..t).step_by(BLOCK) {
                    let count = BLOCK.min(t - first);
                    let scores = (n, lanes(count), e);
                    small(p, BLOCK, rows(key, n).transposed(), columns(query, first, padded), scores, false);
                    let mut inverse = [0.0; BLOCK];
                    softmax_columns(p, &mut inverse, &mut sums[h * t + first..][..count]);
                    let out = &mut out[first * width + h * e..];
                    let value = columns(keys, width + h * e, kv.stride);
                    small(out, width, rows(p, BLOCK).transposed(), value, (count, e, n), false);
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
    /// Scores p (n, BLOCK) become e^(p − max of the column); inverse = 1 / the column's sum, sums (queries) its log-sum-exp.
    fn softmax_columns(p: &mut [f32], inverse: &mut [f32; BLOCK], sums: &mut [f32]) {
        match lanes(sums.len()) {
            HALF => softmax_lanes::<HALF>(p, inverse, sums),
            _ => softmax_lanes::<BLOCK>(p, inverse, sums),
        }
    }
}

#[inline(always)]
fn softmax_lanes<const LANES: usize>(p: &mut [f32], inverse: &mut [f32; BLOCK], sums: &mut [f32]) {
    let (p, _) = p.as_chunks_mut::<BLOCK>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for p in p.iter() {
        for i in 0..LANES {
            largest[i] = if p[i] > largest[i] { p[i] } else { largest[i] };
        }
    }
    let mut total = [0.0; LANES];
    for p in p.iter_mut() {
        for i in 0..LANES {
            p[i] = exp(p[i] - largest[i]);
            total[i] += p[i];
        }
    }
    for i in 0..LANES {
        inverse[i] = 1.0 / total[i];
    }
    for i in 0..sums.len() {
        sums[i] = largest[i] + total[i].ln();
    }
}

/// The gradients of one sequence.
enum SequenceGradients<'a> {
    Joint(&'a mut [f32]),
    Apart(&'a mut [f32], &'a mut [f32]),
}

impl SequenceGradients<'_> {
    /// dQ in rows of the given stride.
    fn q(&mut self, width: usize) -> (&mut [f32], usize) {
        match self {
            SequenceGradients::Joint(all) => (all, 3 * width),
            SequenceGradients::Apart(q, _) => (q, width),
        }
    }

    /// dK before dV in rows of the given stride.
    fn kv(&mut self, width: usize) -> (&mut [f32], usize) {
        match self {
            SequenceGradients::Joint(all) => (&mut all[width..], 3 * width),
            SequenceGradients::Apart(_, kv) => (kv, 2 * width),
        }
    }
}

/// gradients =; dout and out (b·t, d), Q, K and V and sums (b, h, t) of the forward pass.
pub fn backward(gradients: Gradients, dout: View, out: View, (q, kv): (Part, Part), sums: View, shape: Shape) {
    let Shape { batch, queries: t, tokens: n, heads, width } = shape;
    assert_eq!((dout.len(), out.len()), (batch * t * width, batch * t * width), "{shape:?}");
    if let Some(device) = dout.device() {
        let means = device.take(batch * t * heads * size_of::<f32>());
        let to = match gradients {
            Gradients::Joint(all) => calls::joint(all.bf16(), width),
            Gradients::Apart(q, kv) => calls::apart(q.bf16(), kv.bf16(), width),
        };
        let attended = calls::Attended { dout: dout.bf16(), out: out.bf16(), sums: sums.f32(), means: means.at() };
        return device.run_all(calls::attention_backward(to, attended, (q.on_gpu(), kv.on_gpu()), shape));
    }
    let (dout, out, sums) = (dout.cpu(), out.cpu(), sums.cpu());
    let (queries, keys) = (q.values.cpu(), kv.values.cpu());
    let sequences: Vec<SequenceGradients> = match gradients {
        Gradients::Joint(all) => all.cpu().chunks_exact_mut(n * 3 * width).map(SequenceGradients::Joint).collect(),
        Gradients::Apart(q, kv) => {
            let parts = q.cpu().chunks_exact_mut(t * width).zip(kv.cpu().chunks_exact_mut(n * 2 * width));
            parts.map(|(q, kv)| SequenceGradients::Apart(q, kv)).collect()
        }
    };
    assert_eq!(sequences.len(), batch, "{shape:?}");
    sequences.into_par_iter().enumerate().for_each(|(sequence, gradients)| {
        let rows = sequence * t * width..(sequence + 1) * t * width;
        let inputs = Sequence {
            dout: &dout[rows.clone()],
            out: &out[rows],
            queries: columns(queries, sequence * t * q.stride, q.stride),
            keys: columns(keys, sequence * n * kv.stride, kv.stride),
            sums: &sums[sequence * t * heads..][..t * heads],
        };
        backward_sequence(gradients, inputs, shape);
    });
}

/// What the backward pass reads of one sequence.
struct Sequence<'a> {
    dout: &'a [f32],
    out: &'a [f32],
    queries: Matrix<'a>,
    keys: Matrix<'a>,
    sums: &'a [f32],
}

/// As [`backward`], for one sequence.
fn backward_sequence(mut gradients: SequenceGradients, inputs: Sequence, shape: Shape) {
    let Shape { queries: t, tokens: n, heads, width, .. } = shape;
    let Sequence { dout, out, queries, keys, sums } = inputs;
    let (e, padded) = (shape.head(), t.next_multiple_of(BLOCK));
    with_scratch([e * padded, e * n, e * n, e * padded, n * BLOCK, n * BLOCK], |[q, k, v, d, p, ds]| {
        for h in 0..heads {
            let (at, value_at) = (h * e, width + h * e);
            transpose(q, padded, &queries.values[at..], queries.row_stride, t, e);
            scale_values(q, shape.scale());
            transpose(k, n, &keys.values[at..], keys.row_stride, n, e);
            transpose(v, n, &keys.values[value_at..], keys.row_stride, n, e);
            transpose(d, padded, &dout[at..], width, t, e);
            for first in (0..t).step_by(BLOCK) {
                let count = BLOCK.min(t - first);
                let scores = (n, lanes(count), e);
                small(p, BLOCK, rows(k, n).transposed(), columns(q, first, padded), scores, false);
                small(ds, BLOCK, rows(v, n).transposed(), columns(d, first, padded), scores, false);
                let (mut log_sums, mut means) = ([0.0; BLOCK], [0.0; BLOCK]);
                log_sums[..count].copy_from_slice(&sums[h * t + first..][..count]);
                for (i, mean) in means[..count].iter_mut().enumerate() {
                    let row = (first + i) * width + at;
                    *mean = dot(&dout[row..row + e], &out[row..row + e]);
                }
                score_gradients(p, ds, lanes(count), &log_sums, &means, shape.scale());

                let (dq, stride) = gradients.q(width);
                let key = columns(keys.values, at, keys.row_stride);
                small(&mut dq[first * stride + at..], stride, rows(ds, BLOCK).transposed(), key, (count, e, n), false);
                let (dkv, stride) = gradients.kv(width);
                let query = columns(queries.values, first * queries.row_stride + at, queries.row_stride);
                small(&mut dkv[at..], stride, rows(ds, BLOCK), query, (n, e, count), first > 0);
                let dout = columns(dout, first * width + at, width);
                small(&mut dkv[value_at..], stride, rows(p, BLOCK), dout, (n, e, count), first > 0);
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
    /// Scores p (n, BLOCK) become P = e^(score − log sum), ds becomes scale·P∘(ds − mean), in the first `lanes` columns.
    fn score_gradients(p: &mut [f32], ds: &mut [f32], lanes: usize, log_sums: &[f32; BLOCK], means: &[f32; BLOCK], scale: f32) {
        match lanes {
            HALF => gradient_lanes::<HALF>(p, ds, log_sums, means, scale),
            _ => gradient_lanes::<BLOCK>(p, ds, log_sums, means, scale),
        }
    }
}

#[inline(always)]
fn gradient_lanes<const LANES: usize>(
    p: &mut [f32],
    ds: &mut [f32],
    log_sums: &[f32; BLOCK],
    means: &[f32; BLOCK],
    scale: f32,
) {
    let ((p, _), (ds, _)) = (p.as_chunks_mut::<BLOCK>(), ds.as_chunks_mut::<BLOCK>());
    for (p, ds) in p.iter_mut().zip(ds) {
        for i in 0..LANES {
            p[i] = exp(p[i] - log_sums[i]);
            ds[i] = p[i] * (ds[i] - means[i]) * scale;
        }
    }
}

/// The plain statement.
pub mod reference {
    use super::Shape;
    use crate::scalar::Scalar;

    /// out (b·t, d) = attention of q (b·t, d) over kv (b·n, 2·d).
    pub fn forward<T: Scalar>(out: &mut [T], q: &[T], kv: &[T], shape: Shape) {
        let Shape { batch, queries, tokens, heads, width } = shape;
        let head = width / heads;
        let scale = T::constant(1.0 / (head as f64).sqrt());
        for b in 0..batch {
            for h in 0..heads {
                let q_at = |token: usize, i: usize| q[(b * queries + token) * width + h * head + i];
                let kv_at = |which: usize, token: usize, i: usize| {
                    kv[(b * tokens + token) * 2 * width + which * width + h * head + i]
                };
                for query in 0..queries {
                    let weights: Vec<T> = (0..tokens)
                        .map(|key| (0..head).fold(T::zero(), |sum, i| sum + q_at(query, i) * kv_at(0, key, i)) * scale)
                        .map(T::exp)
                        .collect();
                    let total = weights.iter().fold(T::zero(), |sum, &weight| sum + weight);
                    for i in 0..head {
                        let sum = (0..tokens).fold(T::zero(), |sum, key| sum + weights[key] * kv_at(1, key, i));
                        out[(b * queries + query) * width + h * head + i] = sum / total;
                    }
                }
            }
        }
    }
}
