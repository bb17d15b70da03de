//! Fixed positions: y[r] = x[r] + table[index[r]]. The table is not learnt, so dx = dy.

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Slot, Tape, Var};
use crate::threads;

impl<'p> Tape<'p> {
    /// x (b·c, d) + the rows of table (n, d) named by index (b, c).
    pub fn position(&mut self, x: &Var, table: Slot, index: &[u32]) -> Var {
        let mut y = self.take(x.len());
        forward(y.view_mut(), x.view(), self.param(table), index, x.width());
        let tracked = x.tracked();
        let y = self.var(y, x.rows(), x.width(), tracked);
        if tracked {
            let (x, y) = (x.key(), y.key());
            self.record(move |tape| {
                let Some(dy) = tape.take_gradient(y) else { return };
                tape.pass_gradient(x, dy);
            });
        }
        y
    }
}

/// y (rows, width) = x + table[index].
///
/// # Panics
/// When an index lies outside the table.
pub fn forward(y: ViewMut, x: View, table: View, index: &[u32], width: usize) {
    assert_eq!(
        (y.len(), x.len()),
        (index.len() * width, index.len() * width),
        "position: {} rows of {width}",
        index.len()
    );
    if let Some(device) = x.device() {
        assert!(index.iter().all(|&row| (row as usize) < table.len() / width), "of {} positions", table.len() / width);
        let at = device.upload(index);
        return device.run(calls::position_forward(y.bf16(), x.bf16(), table.f32(), at.at(), (index.len(), width)));
    }
    let (y, x, table) = (y.cpu(), x.cpu(), table.cpu());
    threads::for_rows(y, width, |first, y| {
        for (offset, y) in y.chunks_exact_mut(width).enumerate() {
            let row = first + offset;
            let position = &table[index[row] as usize * width..][..width];
            for ((y, x), position) in y.iter_mut().zip(&x[row * width..]).zip(position) {
                *y = x + position;
            }
        }
    });
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// y (rows, width) = x + table[index].
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T], table: &[T], index: &[u32], width: usize) {
        for i in 0..y.len() {
            y[i] = x[i] + table[index[i / width] as usize * width + i % width];
        }
    }
}
