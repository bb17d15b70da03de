//! Average pooling over the tokens of each sequence: y[b] = mean_n x[b, n]; dx[b, n] = dy[b]/n.

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Tape, Var};
use crate::threads;

impl<'p> Tape<'p> {
    /// x (b·n, d) → (b, d); `tokens` is n.
    pub fn mean_tokens(&mut self, x: &Var, tokens: usize) -> Var {
        let (rows, width) = (x.rows() / tokens, x.width());
        let mut y = self.take(rows * width);
        forward(y.view_mut(), x.view(), tokens, width);
        let tracked = x.tracked();
        let y = self.var(y, rows, width, tracked);
        if tracked {
            let (x, y) = (x.key(), y.key());
            self.record(move |tape| {
                let Some(dy) = tape.take_gradient(y) else { return };
                let (mut dx, accumulate) = tape.open_gradient(x);
                backward(dx.view_mut(), accumulate, dy.view(), tokens, width);
                tape.close_gradient(x, dx);
                tape.put(dy);
            });
        }
        y
    }
}

/// y (b, d) = the mean of x (b, n, d) over n.
pub fn forward(y: ViewMut, x: View, tokens: usize, width: usize) {
    assert_eq!(x.len(), y.len() * tokens, "mean over {tokens} tokens of width {width}");
    if let Some(device) = x.device() {
        let batch = y.len() / width;
        return device.run(calls::mean_tokens_forward(y.bf16(), x.bf16(), batch, (tokens, width)));
    }
    let (y, x) = (y.cpu(), x.cpu());
    threads::for_rows(y, width, |first, y| {
        for (offset, y) in y.chunks_exact_mut(width).enumerate() {
            y.fill(0.0);
            for x in x[(first + offset) * tokens * width..][..tokens * width].chunks_exact(width) {
                for (y, x) in y.iter_mut().zip(x) {
                    *y += x;
                }
            }
            for y in y {
                *y /= tokens as f32;
            }
        }
    });
}

/// dx (b, n, d) = or += dy (b, d) / n.
pub fn backward(dx: ViewMut, accumulate: bool, dy: View, tokens: usize, width: usize) {
    if let Some(device) = dy.device() {
        let batch = dy.len() / width;
        return device.run(calls::mean_tokens_backward(dx.bf16(), accumulate, dy.bf16(), batch, (tokens, width)));
    }
    let (dx, dy) = (dx.cpu(), dy.cpu());
    threads::for_rows(dx, width, |first, dx| {
        for (offset, dx) in dx.chunks_exact_mut(width).enumerate() {
            let dy = &dy[(first + offset) / tokens * width..][..width];
            for (dx, dy) in dx.iter_mut().zip(dy) {
                let old = if accumulate { *dx } else { 0.0 };
                *dx = old + dy / tokens as f32;
            }
        }
    });
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// y (b, d) = the mean of x (b, n, d) over n.
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T], tokens: usize, width: usize) {
        for (at, y) in y.iter_mut().enumerate() {
            let (image, i) = (at / width, at % width);
            let sum = (0..tokens).fold(T::zero(), |sum, token| sum + x[(image * tokens + token) * width + i]);
            *y = sum / T::constant(tokens as f64);
        }
    }
}
