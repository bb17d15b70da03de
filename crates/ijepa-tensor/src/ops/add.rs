//! Sum of two gradients: sum += x.

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::threads;
use crate::vector::vectorised;

/// sum += x, of the same length.
pub fn forward(sum: ViewMut, x: View) {
    assert_eq!(sum.len(), x.len(), "add");
    if let Some(device) = x.device() {
        return device.run(calls::add_forward(sum.bf16(), x.bf16(), x.len()));
    }
    let (sum, x) = (sum.cpu(), x.cpu());
    threads::for_rows(sum, 1, |first, sum| {
        let x = &x[first..first + sum.len()];
        add_values(sum, x);
    });
}

vectorised! {
    fn add_values(sum: &mut [f32], x: &[f32]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += *x;
        }
    }
}
