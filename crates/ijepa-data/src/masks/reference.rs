//! What masks does the published code draw? Its effective behaviour, quirk by quirk, stated from its observable facts.
//!
//! * Q1 one number decides both scale and aspect ratio of the targets: large blocks are tall.
//! * Q2 a block is always at least one short of the grid on both sides.
//! * Q3 the position excludes its upper bound: the last row and column are in no mask, and a block one short of the grid
//!   always lies at the upper left.
//! * Q4 a mask must hold *more* than `min_keep` patches.
//! * Q5 after every 20 failed tries one target fewer is kept out of the context, the last one first: a crowded image may
//!   have targets in its context.
//! * Q6 sizes are shared by the batch, positions are not.
//! * Q7 all masks are cut to the smallest count of the batch and keep their *lowest* patch numbers: context lies at the top
//!   of images, and its share falls with the batch size.
//!
//! Two things differ on purpose: draws are keyed, and a configuration in which the published code would hang (Q4) or fail on
//! an empty block (also where Q2 leaves nothing of a grid) is refused by [`check`].

use super::blocks::{Block, Size};
use super::{Cells, Layout, MaskConfig, MaskError, Masks, refusal, stack};
use std::ops::Range;

use crate::key::below;
use rand_chacha::ChaCha8Rng;

/// Failed tries after which one target fewer is kept out of the context (Q5).
const TRIES: usize = 20;

/// Refuses sizes with which no context or target can hold enough patches.
pub(super) fn check(config: &MaskConfig, target: Size, context: Size) -> Result<(), MaskError> {
    for (kind, key, size) in [("target", "mask.pred_mask_scale", target), ("context", "mask.enc_mask_scale", context)] {
        if size.area() <= config.min_keep {
            return Err(refusal(
                format!(
                    "a {kind} block can come out as {}×{} = {} patches on the {}×{} grid, but mask.min_keep {} under \
                     mask.sampler: reference asks for at least {} in every mask",
                    size.rows,
                    size.cols,
                    size.area(),
                    config.grid.0,
                    config.grid.1,
                    config.min_keep,
                    config.min_keep + 1
                ),
                format!("set mask.min_keep to {} or less, raise {key}, or take mask.sampler: fixed", size.area() - 1),
            ));
        }
    }
    Ok(())
}

/// Needs sizes that passed [`check`]; then every loop ends.
pub(super) fn sample(
    config: &MaskConfig,
    target: Size,
    context: Size,
    draws: impl Fn(usize) -> ChaCha8Rng,
    (rows, over): (Range<usize>, Range<usize>),
) -> Masks {
    let first = over.start;
    let layouts: Vec<Layout> = over.map(|row| layout(config, target, context, &mut draws(row))).collect();

    let smallest =
        |of: fn(&Layout) -> &Vec<Vec<u32>>| layouts.iter().flat_map(of).map(Vec::len).min().expect("a batch has masks");
    let (kept_context, kept_target) = (smallest(|layout| &layout.context), smallest(|layout| &layout.targets));
    let layouts = &layouts[rows.start - first..rows.end - first];
    Masks {
        batch: layouts.len(),
        context: (0..config.num_enc_masks)
            .map(|k| stack(layouts.iter().map(|image| image.context[k][..kept_context].to_vec()), kept_context)) // Q7
            .collect(),
        targets: (0..config.num_pred_masks)
            .map(|k| stack(layouts.iter().map(|image| image.targets[k][..kept_target].to_vec()), kept_target))
            .collect(),
    }
}

fn layout(config: &MaskConfig, target: Size, context: Size, rng: &mut ChaCha8Rng) -> Layout {
    let targets: Vec<Block> = (0..config.num_pred_masks).map(|_| place(config.grid, target, rng)).collect();
    let context = (0..config.num_enc_masks)
        .map(|_| {
            let mut tries = 0;
            loop {
                // Q5: `tries / TRIES` targets, the last ones, are no longer kept out.
                let kept_out = if config.allow_overlap { 0 } else { targets.len().saturating_sub(tries / TRIES) };
                let mut cells = Cells::new(config.grid);
                targets[..kept_out].iter().for_each(|&block| cells.take(block));
                let patches = cells.left_of(place(config.grid, context, rng));
                if patches.len() > config.min_keep {
                    break patches;
                }
                tries += 1;
            }
        })
        .collect();
    Layout { targets: targets.iter().map(|block| block.patches(config.grid.1).collect()).collect(), context }
}

/// A position for a block; the last one that would fit is never drawn (Q3).
fn place(grid: (usize, usize), size: Size, rng: &mut ChaCha8Rng) -> Block {
    let top = below(rng, (grid.0 - size.rows) as u64) as usize;
    let left = below(rng, (grid.1 - size.cols) as u64) as usize;
    Block { top, left, rows: size.rows, cols: size.cols }
}
