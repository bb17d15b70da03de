//! GELU in its exact form, as the reference uses it (not the tanh approximation). It has no pass of its own: the linear layer
//! that follows applies it to what it reads ([`crate::ops::linear`]).
//!
//! y = x·Φ(x),  Φ(x) = (1 + erf(x/√2))/2.  Backward: dx = dy·(Φ(x) + x·φ(x)),  φ(x) = e^(−x²/2)/√(2π).

use crate::vector::{erf, exp, vectorised};
use std::f32::consts::FRAC_1_SQRT_2;

vectorised! {
    /// y = gelu(x), of the same length.
    pub(crate) fn forward_values(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2));
        }
    }
}

/// dy becomes dy · gelu′(x), and x gelu(x), of the same length; a few vectors at a time.
#[inline(always)]
pub(crate) fn backward_values(dy: &mut [f32], x: &mut [f32]) {
    // Rows of a tile are short: runs of a fixed length keep the compiler from preparing for long ones.
    let ((dy, dy_rest), (x, x_rest)) = (dy.as_chunks_mut::<16>(), x.as_chunks_mut::<16>());
    for (dy, x) in dy.iter_mut().zip(x) {
        for i in 0..16 {
            backward_value(&mut dy[i], &mut x[i]);
        }
    }
    for (dy, x) in dy_rest.iter_mut().zip(x_rest) {
        backward_value(dy, x);
    }
}

#[inline(always)]
fn backward_value(dy: &mut f32, x: &mut f32) {
    const INVERSE_SQRT_2PI: f32 = 0.398_942_3;
    let cumulative = 0.5 * (1.0 + erf(*x * FRAC_1_SQRT_2));
    let density = INVERSE_SQRT_2PI * exp(-0.5 * *x * *x);
    *dy *= cumulative + *x * density;
    *x *= cumulative;
}

/// The plain statement.
pub mod reference {
    use crate::scalar::Scalar;

    /// y = gelu(x).
    pub fn forward<T: Scalar>(y: &mut [T], x: &[T]) {
        let half = T::constant(0.5);
        let root = T::constant(std::f64::consts::FRAC_1_SQRT_2);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = half * x * (T::constant(1.0) + (x * root).erf());
        }
    }
}
