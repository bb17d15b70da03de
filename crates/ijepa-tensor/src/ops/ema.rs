//! Moving average of parameters: average ← momentum·average + (1 − momentum)·params.

use crate::buf::{View, ViewMut};
use crate::threads;
use crate::vector::vectorised;

/// average (len) is updated in place from params (len).
pub fn forward(average: ViewMut, params: View, momentum: f64) {
    let (ViewMut::Cpu(average), View::Cpu(params)) = (average, params);
    assert_eq!(average.len(), params.len(), "ema");
    let (old, new) = (momentum as f32, (1.0 - momentum) as f32);
    threads::for_rows(average, 1, |first, average| {
        let params = &params[first..first + average.len()];
        blend_values(average, params, old, new);
    });
}

vectorised! {
    fn blend_values(average: &mut [f32], params: &[f32], old: f32, new: f32) {
        for (average, param) in average.iter_mut().zip(params) {
            *average = *average * old + *param * new;
        }
    }
}

/// The plain statement, in f64.
pub mod reference {
    /// One value.
    pub fn forward(average: f64, param: f64, momentum: f64) -> f64 {
        momentum * average + (1.0 - momentum) * param
    }
}
