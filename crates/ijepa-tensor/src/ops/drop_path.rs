//! Stochastic depth (Huang et al., arXiv 1603.09382): y = x + s·branch, with a scale s for each sequence that is 0 where the
//! branch is dropped. dbranch = s·dy, dx = dy.

use crate::buf::{View, ViewMut};
use crate::cuda::{Device, calls};
use crate::tape::{Tape, Var};
use crate::threads;
use crate::vector::vectorised;
use std::rc::Rc;

/// One scale a sequence.
pub type Scales = Rc<[f32]>;

impl<'p> Tape<'p> {
    /// x and branch (sequences·tokens, d) → x + scale·branch.
    ///
    /// # Panics
    /// When the rows are not equally many for each scale.
    pub fn drop_path(&mut self, x: &Var, branch: &Var, scales: &Scales) -> Var {
        let (rows, width) = (x.rows(), x.width());
        assert_eq!((branch.rows(), branch.width()), (rows, width), "a branch beside what it is added to");
        assert!(!scales.is_empty() && rows.is_multiple_of(scales.len()), "{rows} rows for {} scales", scales.len());
        let len = rows / scales.len() * width; // of a sequence
        let mut y = self.take(rows * width);
        forward(y.view_mut(), x.view(), branch.view(), scales, len);
        let tracked = x.tracked() || branch.tracked();
        let y = self.var(y, rows, width, tracked);
        if tracked {
            let (x, branch, key, scales) = (x.key(), branch.key(), y.key(), Rc::clone(scales));
            self.record(move |tape| {
                let Some(dy) = tape.take_gradient(key) else { return };
                if branch.tracked {
                    let mut dbranch = tape.take(branch.len);
                    backward(dbranch.view_mut(), dy.view(), &scales, len);
                    tape.pass_gradient(branch, dbranch);
                }
                tape.pass_gradient(x, dy);
            });
        }
        y
    }
}

/// y = x + scale·branch; `len` values of a sequence.
pub fn forward(y: ViewMut, x: View, branch: View, scales: &[f32], len: usize) {
    if let Some(device) = x.device() {
        return on_gpu(device, y, Some(x), branch, scales);
    }
    let (y, x, branch) = (y.cpu(), x.cpu(), branch.cpu());
    threads::for_rows(y, len, |first, y| {
        for (offset, y) in y.chunks_exact_mut(len).enumerate() {
            let part = (first + offset) * len..(first + offset + 1) * len;
            add_scaled(y, &x[part.clone()], &branch[part], scales[first + offset]);
        }
    });
}

/// A sequence is a row for the kernel.
fn on_gpu(device: &Rc<Device>, y: ViewMut, x: Option<View>, branch: View, scales: &[f32]) {
    let at = device.upload(scales);
    let shape = (scales.len(), branch.len() / scales.len());
    device.run(calls::drop_path(y.bf16(), x.map(View::bf16), branch.bf16(), at.at(), 1, shape));
}

vectorised! {
    fn add_scaled(y: &mut [f32], x: &[f32], branch: &[f32], scale: f32) {
        for ((y, x), branch) in y.iter_mut().zip(x).zip(branch) {
            *y = *x + scale * *branch;
        }
    }
}

/// dbranch = scale·dy; `len` values of a sequence.
pub fn backward(dbranch: ViewMut, dy: View, scales: &[f32], len: usize) {
    if let Some(device) = dy.device() {
        return on_gpu(device, dbranch, None, dy, scales);
    }
    let (dbranch, dy) = (dbranch.cpu(), dy.cpu());
    threads::for_rows(dbranch, len, |first, dbranch| {
        for (offset, dbranch) in dbranch.chunks_exact_mut(len).enumerate() {
            let dy = &dy[(first + offset) * len..][..len];
            scaled(dbranch, dy, scales[first + offset]);
        }
    });
}

vectorised! {
    fn scaled(dbranch: &mut [f32], dy: &[f32], scale: f32) {
        for (dbranch, dy) in dbranch.iter_mut().zip(dy) {
            *dbranch = scale * *dy;
        }
    }
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// y = x + scale·branch; `len` values of a sequence.
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T], branch: &[T], scales: &[f32], len: usize) {
        for (at, y) in y.iter_mut().enumerate() {
            *y = x[at] + T::constant(f64::from(scales[at / len])) * branch[at];
        }
    }
}
