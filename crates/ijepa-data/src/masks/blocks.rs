//! How large can a block be? Sizes from a share of the grid and an aspect ratio, and every size that can come out.
//!
//! patches = ⌊rows·cols·scale⌋, height = round(√(patches·aspect)), width = round(√(patches/aspect)), halves to even. Both
//! are step functions of the draws, so all reachable sizes follow from the finitely many places where a step lies: no
//! sampling is needed to know them all.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;

use super::{MaskConfig, Sampler};
use crate::key::uniform;

/// Rows and columns of a block, in patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Size {
    /// Patches high.
    pub(super) rows: usize,
    /// Patches wide.
    pub(super) cols: usize,
}

/// A block on the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// First row.
    pub(super) top: usize,
    /// First column.
    pub(super) left: usize,
    /// Patches high.
    pub(super) rows: usize,
    /// Patches wide.
    pub(super) cols: usize,
}

impl Block {
    /// The numbers of its patches on a grid of `grid_cols` columns, ascending.
    pub(super) fn patches(self, grid_cols: usize) -> impl Iterator<Item = u32> {
        (self.top..self.top + self.rows)
            .flat_map(move |row| (self.left..self.left + self.cols).map(move |col| (row * grid_cols + col) as u32))
    }
}

impl Size {
    /// Patches of a block of this size.
    pub(super) fn area(self) -> usize {
        self.rows * self.cols
    }
}

/// The number of patches that a block aims at.
fn wanted_patches(grid: (usize, usize), scale: f64) -> usize {
    ((grid.0 * grid.1) as f64 * scale) as usize
}

/// The size of a block of about `patches` patches. `Reference` keeps it one short of the grid on both sides (quirk Q2),
/// `Fixed` within the grid.
fn block_size(grid: (usize, usize), sampler: Sampler, patches: usize, aspect: f64) -> Size {
    let rows = (patches as f64 * aspect).sqrt().round_ties_even() as usize;
    let cols = (patches as f64 / aspect).sqrt().round_ties_even() as usize;
    match sampler {
        Sampler::Reference => Size { rows: rows.min(grid.0 - 1), cols: cols.min(grid.1 - 1) },
        Sampler::Fixed => Size { rows: rows.min(grid.0), cols: cols.min(grid.1) },
    }
}

/// The size of this batch's blocks of one kind, from the batch's stream of sizes.
pub(super) fn draw_size(config: &MaskConfig, scale: (f64, f64), aspect: (f64, f64), rng: &mut ChaCha8Rng) -> Size {
    let draw = uniform(rng);
    let second = match config.sampler {
        Sampler::Reference => draw, // Q1: one number decides both
        Sampler::Fixed => uniform(rng),
    };
    let patches = wanted_patches(config.grid, lerp(scale, draw));
    block_size(config.grid, config.sampler, patches, lerp(aspect, second))
}

/// Every size that a target block can have under `config`.
pub(super) fn target_sizes(config: &MaskConfig) -> BTreeSet<Size> {
    sizes(config, config.pred_mask_scale, config.aspect_ratio)
}

/// Every size that a context block can have under `config`, before targets are taken out.
pub(super) fn context_sizes(config: &MaskConfig) -> BTreeSet<Size> {
    sizes(config, config.enc_mask_scale, (1.0, 1.0))
}

fn sizes(config: &MaskConfig, scale: (f64, f64), aspect: (f64, f64)) -> BTreeSet<Size> {
    let mut found = BTreeSet::new();
    let grid = config.grid;
    for (patches, draws) in patch_counts(grid, scale) {
        // The aspect ratios that can meet this patch count: all of them, or under Q1 those of the same draws.
        let (low, high) = match config.sampler {
            Sampler::Reference => (lerp(aspect, draws.0), lerp(aspect, draws.1)),
            Sampler::Fixed => aspect,
        };
        let mut edges = vec![low, high];
        for row in 0..=grid.0 {
            edges.push((row as f64 + 0.5).powi(2) / patches as f64);
        }
        for col in 0..=grid.1 {
            edges.push(patches as f64 / (col as f64 + 0.5).powi(2));
        }
        edges.retain(|edge| (low..=high).contains(edge));
        edges.sort_by(f64::total_cmp);
        found.insert(block_size(grid, config.sampler, patches, low));
        for pair in edges.windows(2) {
            found.insert(block_size(grid, config.sampler, patches, (pair[0] + pair[1]) / 2.0));
        }
    }
    found
}

/// Every patch count that a scale in the range gives, with the interval of draws in [0, 1) that give it.
fn patch_counts(grid: (usize, usize), scale: (f64, f64)) -> Vec<(usize, (f64, f64))> {
    let total = (grid.0 * grid.1) as f64;
    if scale.0 == scale.1 {
        return vec![(wanted_patches(grid, scale.0), (0.0, 1.0))];
    }
    let draw_of = |patches: usize| ((patches as f64 / total - scale.0) / (scale.1 - scale.0)).clamp(0.0, 1.0);
    (wanted_patches(grid, scale.0)..=wanted_patches(grid, scale.1))
        .map(|patches| (patches, (draw_of(patches), draw_of(patches + 1))))
        .filter(|(_, (low, high))| low < high)
        .collect()
}

fn lerp((low, high): (f64, f64), draw: f64) -> f64 {
    low + draw * (high - low)
}
