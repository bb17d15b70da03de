//! One optimiser step: AdamW over the blob, with and without weight decay, then the moving average.

use crate::jepa::{Jepa, State};
use crate::schedule::Schedule;
use ijepa_tensor::Buf;
use ijepa_tensor::ops::adamw::{self, Blobs, Segment, Step};

/// PyTorch's defaults, which the reference keeps.
pub const BETAS: (f64, f64) = (0.9, 0.999);
/// Added to the root of the second moment.
pub const EPS: f64 = 1e-8;

/// Moves the parameters by their gradients, the target encoder towards the encoder, and the step by one.
pub fn step(model: &Jepa, state: &mut State, grads: &Buf, schedule: &Schedule) {
    let decay = schedule.weight_decay(state.step);
    let segments: Vec<_> = model
        .layout
        .entries
        .iter()
        .filter(|entry| entry.learnt())
        .map(|entry| Segment { slot: entry.slot, weight_decay: if entry.decays() { decay } else { 0.0 }, rate: 1.0 })
        .collect();
    let blobs = Blobs {
        params: state.params.view_mut(),
        m: state.exp_avg.view_mut(),
        v: state.exp_avg_sq.view_mut(),
        // Laid out as the encoder, with which `params` begins. Tables of positions are the same in both and need no average.
        average: state.target.view_mut(),
    };
    let step = Step {
        number: state.step + 1,
        learning_rate: schedule.lr(state.step),
        beta1: BETAS.0,
        beta2: BETAS.1,
        eps: EPS,
        momentum: schedule.momentum(state.step),
    };
    adamw::forward(blobs, grads.view(), &segments, step);
    state.step += 1;
}
