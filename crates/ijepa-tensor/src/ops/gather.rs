//! Picks rows: y[r] = x[index[r]]. Its adjoint scatters: dx[index[r]] += dy[r].

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Index, Tape, Var};
use crate::threads;

impl<'p> Tape<'p> {
    /// The rows of x (rows, width) named by index → (index.len(), width).
    pub fn gather(&mut self, x: &Var, index: Index) -> Var {
        let (rows, width) = (index.len(), x.width());
        let mut y = self.take(rows * width);
        forward(y.view_mut(), x.view(), &index, width);
        let tracked = x.tracked();
        let y = self.var(y, rows, width, tracked);
        if tracked {
            let (x, y) = (x.key(), y.key());
            self.record(move |tape| {
                let Some(dy) = tape.take_gradient(y) else { return };
                let (mut dx, accumulate) = tape.open_gradient(x);
                backward(dx.view_mut(), accumulate, dy.view(), &index, width);
                tape.close_gradient(x, dx);
                tape.put(dy);
            });
        }
        y
    }
}

/// y (index.len(), width) = x[index].
///
/// # Panics
/// When an index lies outside x.
pub fn forward(y: ViewMut, x: View, index: &[u32], width: usize) {
    assert_eq!(y.len(), index.len() * width, "gather: {} rows of {width}", index.len());
    if let Some(device) = x.device() {
        assert!(index.iter().all(|&row| (row as usize) < x.len() / width), "gather from {} rows", x.len() / width);
        let at = device.upload(index);
        return device.run(calls::gather_forward(y.bf16(), x.bf16(), at.at(), (index.len(), width)));
    }
    let (y, x) = (y.cpu(), x.cpu());
    threads::for_rows(y, width, |first, y| {
        for (offset, y) in y.chunks_exact_mut(width).enumerate() {
            y.copy_from_slice(&x[index[first + offset] as usize * width..][..width]);
        }
    });
}

/// dx (rows, width) = scattered dy, or += it. One thread: rows of dy may meet in one row of dx.
pub fn backward(dx: ViewMut, accumulate: bool, dy: View, index: &[u32], width: usize) {
    if let Some(device) = dy.device() {
        let rows = dx.len() / width;
        let (starts, order) = calls::inverse(index, rows);
        let (starts, order) = (device.upload(&starts), device.upload(&order));
        let inverse = (starts.at(), order.at());
        return device.run(calls::gather_backward(dx.bf16(), accumulate, dy.bf16(), inverse, (rows, width)));
    }
    let (dx, dy) = (dx.cpu(), dy.cpu());
    if !accumulate {
        dx.fill(0.0);
    }
    for (dy, &row) in dy.chunks_exact(width).zip(index) {
        for (dx, dy) in dx[row as usize * width..][..width].iter_mut().zip(dy) {
            *dx += dy;
        }
    }
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// y (index.len(), width) = x[index].
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T], index: &[u32], width: usize) {
        for i in 0..y.len() {
            y[i] = x[index[i / width] as usize * width + i % width];
        }
    }
}
