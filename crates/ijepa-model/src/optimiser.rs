//! One optimiser step: AdamW over the blob, with and without weight decay, then the moving average.

use std::ops::Range;

use crate::jepa::{Jepa, State};
use crate::schedule::Schedule;
use ijepa_tensor::ops::adamw::{self, Blobs, Segment, Step};
use ijepa_tensor::{Buf, Slot};

/// PyTorch's defaults, which the reference keeps.
pub const BETAS: (f64, f64) = (0.9, 0.999);
/// Added to the root of the second moment.
pub const EPS: f64 = 1e-8;

/// Moves the parameters by their gradients, the target encoder towards the encoder, and the step by one.
pub fn step(model: &Jepa, state: &mut State, grads: &Buf, schedule: &Schedule) {
    let segments = segments(model, schedule, state.step, std::slice::from_ref(&(0..model.layout.len)));
    let blobs = Blobs {
        params: state.params.view_mut(),
        m: state.exp_avg.view_mut(),
        v: state.exp_avg_sq.view_mut(),
        // Laid out as the encoder, with which `params` begins. Tables of positions are the same in both and need no average.
        average: state.target.view_mut(),
    };
    adamw::forward(blobs, grads.view(), &segments, rates(state.step, schedule));
    state.step += 1;
}

/// The first half of [`step`]: moves the parameters in parts of the blob, and nothing else. `state` has the moments of these parts alone, one part
/// behind the other.
pub fn move_parts(model: &Jepa, state: &mut State, grads: &Buf, schedule: &Schedule, parts: &[Range<usize>]) {
    let segments = segments(model, schedule, state.step, parts);
    let blobs = Blobs {
        params: state.params.view_mut(),
        m: state.exp_avg.view_mut(),
        v: state.exp_avg_sq.view_mut(),
        average: state.target.view_mut().part(0..0),
    };
    adamw::forward(blobs, grads.view(), &segments, rates(state.step, schedule));
}

/// The second half of step number `step` in a part of the blob, whose parameters have moved: the target encoder. Both halves on all parts give the
/// bits of [`step`].
pub fn follow(model: &Jepa, (params, target): (&Buf, &mut Buf), schedule: &Schedule, step: u64, part: Range<usize>) {
    let segments = segments(model, schedule, step, std::slice::from_ref(&part));
    adamw::follow(target.view_mut(), params.view(), &segments, schedule.momentum(step));
}

/// What is learnt in parts of the blob.
fn segments(model: &Jepa, schedule: &Schedule, step: u64, parts: &[Range<usize>]) -> Vec<Segment> {
    let decay = schedule.weight_decay(step);
    let (mut segments, mut before) = (Vec::new(), 0);
    for part in parts {
        for entry in model.layout.entries.iter().filter(|entry| entry.learnt()) {
            let slot = entry.slot.range();
            let (offset, end) = (slot.start.max(part.start), slot.end.min(part.end));
            if offset < end {
                let slot = Slot { offset, len: end - offset };
                let moments = before + (offset - part.start);
                segments.push(Segment { moments, ..Segment::of(slot, if entry.decays() { decay } else { 0.0 }) });
            }
        }
        before += part.len();
    }
    segments
}

fn rates(step: u64, schedule: &Schedule) -> Step {
    Step {
        number: step + 1,
        learning_rate: schedule.lr(step),
        beta1: BETAS.0,
        beta2: BETAS.1,
        eps: EPS,
        momentum: schedule.momentum(step),
    }
}
