//! What masks do without the quirks of the published code?
//!
//! * Every position that fits is drawn alike, the last row and column too, and a block may span the grid (Q2, Q3).
//! * Scale and aspect ratio are drawn apart (Q1).
//! * `min_keep` is what it says: at least so many patches in every context (Q4). Targets have the size that was drawn.
//! * Context and targets never meet, unless `allow_overlap`. When an image is too crowded for `min_keep`, after every
//!   20 failed tries one target more is laid on the first one; the last resort is all targets in one corner and the
//!   context in the opposite one. [`check`] has made sure that this is enough (Q5).
//! * An image whose context holds less than half of the batch's median is drawn again, so that one unlucky image does not
//!   cut down all others.
//! * Truncation to the smallest count of the batch takes patches out at random (Q7).

use super::blocks::{Block, Size};
use super::{Cells, Layout, MaskConfig, MaskError, Masks, refusal, stack};
use std::ops::Range;

use crate::key::{below, shuffle};
use rand_chacha::ChaCha8Rng;

/// Failed tries after which an image gets one independent target fewer.
const TRIES: usize = 20;
/// How often an image with little context is drawn again.
const REDRAWS: usize = 8;

/// Refuses sizes with which no placing leaves enough context.
pub(super) fn check(config: &MaskConfig, target: Size, context: Size) -> Result<(), MaskError> {
    let keep = config.min_keep.max(1);
    let most = if config.allow_overlap { context.area() } else { most_context(config.grid, target, context) };
    if most >= keep {
        return Ok(());
    }
    Err(refusal(
        format!(
            "on the {}×{} grid a context block of {}×{} keeps at most {most} patches beside targets of {}×{}, but every \
             context must keep at least {keep} (mask.min_keep {})",
            config.grid.0, config.grid.1, context.rows, context.cols, target.rows, target.cols, config.min_keep
        ),
        "lower mask.min_keep or mask.pred_mask_scale, raise mask.enc_mask_scale, or take a smaller patch",
    ))
}

/// Needs sizes that passed [`check`]; then every context holds at least `min_keep` patches.
pub(super) fn sample(
    config: &MaskConfig,
    target: Size,
    context: Size,
    draws: impl Fn(usize) -> ChaCha8Rng,
    (rows, over): (Range<usize>, Range<usize>),
) -> Masks {
    let first = over.start;
    let mut images: Vec<(ChaCha8Rng, Layout)> = over
        .map(|row| {
            let mut rng = draws(row);
            let layout = layout(config, target, context, &mut rng);
            (rng, layout)
        })
        .collect();

    let mut counts: Vec<usize> = images.iter().map(|(_, image)| image.smallest_context()).collect();
    counts.sort_unstable();
    let enough = counts[counts.len() / 2] / 2;
    for (rng, image) in &mut images {
        for _ in 0..REDRAWS {
            if image.smallest_context() >= enough {
                break;
            }
            let again = layout(config, target, context, rng);
            if again.smallest_context() > image.smallest_context() {
                *image = again;
            }
        }
    }

    let kept = images.iter().map(|(_, image)| image.smallest_context()).min().expect("a batch has images");
    let images = &mut images[rows.start - first..rows.end - first];
    for (rng, image) in images.iter_mut() {
        for mask in &mut image.context {
            shuffle(rng, mask);
            mask.truncate(kept);
            mask.sort_unstable();
        }
    }
    Masks {
        batch: images.len(),
        context: (0..config.num_enc_masks)
            .map(|k| stack(images.iter().map(|(_, image)| image.context[k].clone()), kept))
            .collect(),
        targets: (0..config.num_pred_masks)
            .map(|k| stack(images.iter().map(|(_, image)| image.targets[k].clone()), target.area()))
            .collect(),
    }
}

impl Layout {
    fn smallest_context(&self) -> usize {
        self.context.iter().map(Vec::len).min().expect("an image has a context mask")
    }
}

fn layout(config: &MaskConfig, target: Size, context: Size, rng: &mut ChaCha8Rng) -> Layout {
    let keep = config.min_keep.max(1);
    for tries in 0..TRIES * config.num_pred_masks {
        let independent = config.num_pred_masks - tries / TRIES;
        let mut targets: Vec<Block> = (0..independent).map(|_| place(config.grid, target, rng)).collect();
        targets.resize(config.num_pred_masks, targets[0]);
        let contexts: Vec<Block> = (0..config.num_enc_masks).map(|_| place(config.grid, context, rng)).collect();
        let drawn = lay(config, &targets, &contexts);
        if drawn.smallest_context() >= keep {
            return drawn;
        }
    }
    let (bottom, right) = (below(rng, 2) == 1, below(rng, 2) == 1);
    let corner = |size: Size, bottom: bool, right: bool| Block {
        top: if bottom { config.grid.0 - size.rows } else { 0 },
        left: if right { config.grid.1 - size.cols } else { 0 },
        rows: size.rows,
        cols: size.cols,
    };
    lay(
        config,
        &vec![corner(target, bottom, right); config.num_pred_masks],
        &vec![corner(context, !bottom, !right); config.num_enc_masks],
    )
}

fn lay(config: &MaskConfig, targets: &[Block], contexts: &[Block]) -> Layout {
    let mut cells = Cells::new(config.grid);
    if !config.allow_overlap {
        targets.iter().for_each(|&block| cells.take(block));
    }
    Layout {
        targets: targets.iter().map(|block| block.patches(config.grid.1).collect()).collect(),
        context: contexts.iter().map(|&block| cells.left_of(block)).collect(),
    }
}

fn place(grid: (usize, usize), size: Size, rng: &mut ChaCha8Rng) -> Block {
    let top = below(rng, (grid.0 - size.rows) as u64 + 1) as usize;
    let left = below(rng, (grid.1 - size.cols) as u64 + 1) as usize;
    Block { top, left, rows: size.rows, cols: size.cols }
}

/// Patches of a context block that are left when all targets lie in the corner opposite to it: no placing leaves more.
fn most_context(grid: (usize, usize), target: Size, context: Size) -> usize {
    let shared_rows = (target.rows + context.rows).saturating_sub(grid.0);
    let shared_cols = (target.cols + context.cols).saturating_sub(grid.1);
    context.area() - shared_rows * shared_cols
}
