//! The predictor's input: for each target block and each image, the context tokens followed by one mask
//! token for each patch of the block, which stands at the patch's position.
//!
//! y[block, image] = [ z[image] (c, d) ; mask + table[target[block, image, :]] (t, d) ].
//! Backward: dz[image] = Σ_block dy[block, image, :c], dmask += Σ dy[.., c:].

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Index, Slot, Tape, Var};
use crate::threads;
use rayon::prelude::*;

/// Sequences of the predictor.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Target blocks of an image, m.
    pub blocks: usize,
    /// Images (times context masks), b.
    pub batch: usize,
    /// Context tokens of an image, c.
    pub context: usize,
    /// Patches of a target block, t.
    pub target: usize,
    /// Width, d.
    pub width: usize,
}

impl Shape {
    fn tokens(self) -> usize {
        self.context + self.target
    }
}

impl<'p> Tape<'p> {
    /// z (b·c, d), mask (d), table (n, d), targets (m, b, t) → (m·b·(c+t), d).
    pub fn assemble(&mut self, z: &Var, mask: Slot, table: Slot, targets: Index, shape: Shape) -> Var {
        let rows = shape.blocks * shape.batch * shape.tokens();
        let mut y = self.take(rows * shape.width);
        forward(y.view_mut(), z.view(), self.param(mask), self.param(table), &targets, shape);
        let tracked = self.recording();
        let y = self.var(y, rows, shape.width, tracked);
        if tracked {
            let (z, y) = (z.key(), y.key());
            self.record(move |tape| {
                let Some(dy) = tape.take_gradient(y) else { return };
                backward_mask(tape.param_grad(mask), dy.view(), shape);
                if z.tracked {
                    let (mut dz, accumulate) = tape.open_gradient(z);
                    backward_context(dz.view_mut(), accumulate, dy.view(), shape);
                    tape.close_gradient(z, dz);
                }
                tape.put(dy);
            });
        }
        y
    }
}

/// y (m·b·(c+t), d) =; z (b·c, d), mask (d), table (n, d), targets (m, b, t).
///
/// # Panics
/// When a target lies outside the table.
pub fn forward(y: ViewMut, z: View, mask: View, table: View, targets: &[u32], shape: Shape) {
    let Shape { blocks, batch, context, target, width } = shape;
    assert_eq!(y.len(), blocks * batch * shape.tokens() * width, "{shape:?}");
    assert_eq!(
        (z.len(), targets.len(), mask.len()),
        (batch * context * width, blocks * batch * target, width),
        "{shape:?}"
    );
    if let Some(device) = z.device() {
        assert!(
            targets.iter().all(|&row| (row as usize) < table.len() / width),
            "of {} positions",
            table.len() / width
        );
        let at = device.upload(targets);
        let learnt = (mask.f32(), table.f32());
        return device.run(calls::assemble_forward(y.bf16(), z.bf16(), learnt, at.at(), shape));
    }
    let (y, z, mask, table) = (y.cpu(), z.cpu(), mask.cpu(), table.cpu());
    y.par_chunks_exact_mut(shape.tokens() * width).enumerate().for_each(|(sequence, y)| {
        let (kept, masked) = y.split_at_mut(context * width);
        kept.copy_from_slice(&z[sequence % batch * context * width..][..context * width]);
        for (y, &patch) in masked.chunks_exact_mut(width).zip(&targets[sequence * target..]) {
            let position = &table[patch as usize * width..][..width];
            for ((y, mask), position) in y.iter_mut().zip(mask).zip(position) {
                *y = mask + position;
            }
        }
    });
}

/// dz (b·c, d) = or += Σ_block dy[block, image, :c].
pub fn backward_context(dz: ViewMut, accumulate: bool, dy: View, shape: Shape) {
    if let Some(device) = dy.device() {
        return device.run(calls::assemble_backward_context(dz.bf16(), accumulate, dy.bf16(), shape));
    }
    let (dz, dy) = (dz.cpu(), dy.cpu());
    let Shape { blocks, batch, context, width, .. } = shape;
    threads::for_rows(dz, width, |first, dz| {
        for (offset, dz) in dz.chunks_exact_mut(width).enumerate() {
            let (image, token) = ((first + offset) / context, (first + offset) % context);
            if !accumulate {
                dz.fill(0.0);
            }
            for block in 0..blocks {
                let row = (block * batch + image) * shape.tokens() + token;
                for (dz, dy) in dz.iter_mut().zip(&dy[row * width..]) {
                    *dz += dy;
                }
            }
        }
    });
}

/// dmask (d) = or += (`add`) the sum of dy over all mask tokens.
pub fn backward_mask((mut dmask, add): (ViewMut, bool), dy: View, shape: Shape) {
    if let Some(device) = dy.device() {
        let rows = calls::assembled_masks(shape);
        let parts = device.take(rows.parts() * size_of::<f32>());
        return device.run_all(calls::column_sums((dmask.f32(), add), parts.at(), dy.bf16(), rows));
    }
    if !add {
        dmask.reborrow().clear();
    }
    let (dmask, dy) = (dmask.cpu(), dy.cpu());
    let Shape { context, width, .. } = shape;
    // Each thread sums one block of columns over all sequences.
    dmask.par_chunks_mut(16).enumerate().for_each(|(block, dmask)| {
        let first = block * 16;
        for dy in dy.chunks_exact(shape.tokens() * width) {
            let mut part = [0.0; 16];
            for dy in dy[context * width..].chunks_exact(width) {
                for (part, dy) in part[..dmask.len()].iter_mut().zip(&dy[first..]) {
                    *part += dy;
                }
            }
            for (dmask, part) in dmask.iter_mut().zip(part) {
                *dmask += part;
            }
        }
    });
}

/// The plain statement.
pub mod reference {
    use super::Shape;
    use crate::scalar::Scalar;

    /// y (m·b·(c+t), d) from z (b·c, d), mask (d), table (n, d), targets (m, b, t).
    pub fn forward<T: Scalar>(y: &mut [T], z: &[T], mask: &[T], table: &[T], targets: &[u32], shape: Shape) {
        let Shape { blocks, batch, context, target, width } = shape;
        for sequence in 0..blocks * batch {
            for token in 0..context + target {
                for i in 0..width {
                    y[(sequence * (context + target) + token) * width + i] = if token < context {
                        z[(sequence % batch * context + token) * width + i]
                    } else {
                        mask[i] + table[targets[sequence * target + token - context] as usize * width + i]
                    };
                }
            }
        }
    }
}
