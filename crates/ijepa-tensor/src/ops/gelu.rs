//! GELU in its exact form, as the reference uses it (not the tanh approximation).
//!
//! y = x·Φ(x),  Φ(x) = (1 + erf(x/√2))/2.  Backward: dx = dy·(Φ(x) + x·φ(x)),  φ(x) = e^(−x²/2)/√(2π).

use crate::buf::{View, ViewMut};
use crate::tape::{Tape, Var};
use crate::threads;
use crate::vector::{erf, exp, vectorised};
use std::f32::consts::FRAC_1_SQRT_2;

impl<'p> Tape<'p> {
    /// GELU of each value.
    pub fn gelu(&mut self, x: &Var) -> Var {
        let mut y = self.take(x.len());
        forward(y.view_mut(), x.view());
        let tracked = x.tracked();
        let y = self.var(y, x.rows(), x.width(), tracked);
        if tracked {
            let (x, key) = (x.clone(), y.key());
            self.record(move |tape| {
                let Some(mut dy) = tape.take_gradient(key) else { return };
                backward_in_place(dy.view_mut(), x.view());
                tape.pass_gradient(x.key(), dy);
            });
        }
        y
    }
}

/// y = gelu(x), both of the same length.
pub fn forward(y: ViewMut, x: View) {
    let (ViewMut::Cpu(y), View::Cpu(x)) = (y, x);
    assert_eq!(y.len(), x.len(), "gelu");
    threads::for_rows(y, 1, |first, y| {
        let x = &x[first..first + y.len()];
        forward_values(y, x);
    });
}

/// dy becomes dx = dy · gelu′(x).
pub fn backward_in_place(dy: ViewMut, x: View) {
    let (ViewMut::Cpu(dy), View::Cpu(x)) = (dy, x);
    assert_eq!(dy.len(), x.len(), "gelu");
    threads::for_rows(dy, 1, |first, dy| {
        let x = &x[first..first + dy.len()];
        backward_values(dy, x);
    });
}

vectorised! {
    fn forward_values(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2));
        }
    }
}

vectorised! {
    fn backward_values(dy: &mut [f32], x: &[f32]) {
        const INVERSE_SQRT_2PI: f32 = 0.398_942_3;
        for (dy, &x) in dy.iter_mut().zip(x) {
            let cumulative = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
            let density = INVERSE_SQRT_2PI * exp(-0.5 * x * x);
            *dy *= cumulative + x * density;
        }
    }
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
