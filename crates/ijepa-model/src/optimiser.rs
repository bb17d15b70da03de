//! One optimiser step: AdamW over the blob, with and without weight decay, then the moving average.

use crate::jepa::{Jepa, State};
use crate::schedule::Schedule;
use ijepa_tensor::Buf;
use ijepa_tensor::ops::{adamw, ema};

/// PyTorch's defaults, which the reference keeps.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

/// Moves the parameters by their gradients, the target encoder towards the encoder, and the step by one.
pub fn step(model: &Jepa, state: &mut State, grads: &Buf, schedule: &Schedule) {
    let number = state.step + 1;
    let decay = schedule.weight_decay(state.step);
    for entry in model.layout.entries.iter().filter(|entry| entry.learnt()) {
        let range = || entry.slot.range();
        adamw::forward(
            state.params.view_mut().range(range()),
            state.exp_avg.view_mut().range(range()),
            state.exp_avg_sq.view_mut().range(range()),
            grads.view().range(range()),
            adamw::Step {
                number,
                learning_rate: schedule.lr(state.step),
                weight_decay: if entry.decays() { decay } else { 0.0 },
                beta1: BETAS.0,
                beta2: BETAS.1,
                eps: EPS,
            },
        );
    }
    let encoder = state.params.view().range(0..model.encoder_len);
    ema::forward(state.target.view_mut(), encoder, schedule.momentum(state.step));
    state.step = number;
}
