//! AdamW and the moving average against their statements in f64.

use crate::values;
use ijepa_tensor::Buf;
use ijepa_tensor::ops::{adamw, ema};

#[test]
fn adamw_follows_its_statement_for_ten_steps() {
    let len = 40_001;
    let mut params = Buf::from_slice(&values(len, 1));
    let (mut m, mut v) = (Buf::zeros(len), Buf::zeros(len));
    let mut exact: Vec<(f64, f64, f64)> = params.as_slice().iter().map(|&p| (f64::from(p), 0.0, 0.0)).collect();
    for number in 1..=10 {
        let grads = Buf::from_slice(&values(len, 100 + number));
        let step = adamw::Step {
            number,
            learning_rate: 1e-2 / number as f64,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        };
        adamw::forward(params.view_mut(), m.view_mut(), v.view_mut(), grads.view(), step);
        for (state, &g) in exact.iter_mut().zip(grads.as_slice()) {
            *state = adamw::reference::forward(state.0, state.1, state.2, f64::from(g), step);
        }
    }
    for (got, exact) in params.as_slice().iter().zip(&exact) {
        assert!((f64::from(*got) - exact.0).abs() < 2e-6, "{got} against {}", exact.0);
    }
}

#[test]
fn the_moving_average_follows_its_statement() {
    let len = 40_001;
    let (mut average, params) = (Buf::from_slice(&values(len, 1)), Buf::from_slice(&values(len, 2)));
    let start = average.clone();
    ema::forward(average.view_mut(), params.view(), 0.996);
    for i in 0..len {
        let exact = ema::reference::forward(f64::from(start.as_slice()[i]), f64::from(params.as_slice()[i]), 0.996);
        assert!((f64::from(average.as_slice()[i]) - exact).abs() < 1e-6);
    }
}
