//! Which patches does the encoder see, and which are to be predicted?
//!
//! Multi-block masking (Assran et al. 2023, §3 and appendix A.1): an image of `rows`×`cols` patches gets a few target
//! blocks and one or more large context blocks; what is in a target is taken out of the context. Masks are a pure function
//! of (configuration, seed, step, batch). Two samplers:
//!
//! * [`Sampler::Reference`]: what the published code effectively does, with its quirks.
//! * [`Sampler::Fixed`]: without them.
//!
//! Sizes are drawn once a batch, because the blocks of a batch must hold equally many patches to be stacked; positions are
//! drawn for every image. Context masks of unequal counts are cut to the smallest count of the batch.

mod blocks;
mod fixed;
mod rates;
mod reference;

pub use crate::error::MaskError;
pub use rates::{KeepRates, keep_rates};

use std::ops::Range;

use crate::key::{Key, Purpose};
use blocks::{Block, Size, context_sizes, target_sizes};

/// How blocks are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// The effective behaviour of the published code.
    Reference,
    /// Last row and column reachable, scale and aspect ratio drawn apart, truncation without a bias, no hang.
    Fixed,
}

/// What masks a run draws.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskConfig {
    /// Patches of an image: rows, columns.
    pub grid: (usize, usize),
    /// How blocks are drawn.
    pub sampler: Sampler,
    /// Share of the grid in a target block: least, most.
    pub pred_mask_scale: (f64, f64),
    /// Share of the grid in a context block before targets are taken out: least, most.
    pub enc_mask_scale: (f64, f64),
    /// Height over width of a target block: least, most. Context blocks are as square as the grid allows.
    pub aspect_ratio: (f64, f64),
    /// Target blocks of an image.
    pub num_pred_masks: usize,
    /// Context masks of an image.
    pub num_enc_masks: usize,
    /// Patches of a mask: `reference` wants *more* than this in every context and target, `fixed` at least this many in
    /// every context.
    pub min_keep: usize,
    /// Whether context masks may hold patches of targets.
    pub allow_overlap: bool,
}

/// One mask for every image of a batch, all of the same count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSet {
    /// Patches of an image in this mask.
    pub per_image: usize,
    /// Patch numbers, ascending within an image; patch (row, column) has number row·cols + column.
    pub indices: Vec<u32>, // (b, per_image)
}

/// The masks of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks {
    /// Images in the batch.
    pub batch: usize,
    /// Context masks: `num_enc_masks` of them.
    pub context: Vec<IndexSet>,
    /// Target blocks: `num_pred_masks` of them.
    pub targets: Vec<IndexSet>,
}

impl MaskConfig {
    /// Refuses what no draw, or not every draw, can meet: every block size that the configuration can draw is looked at.
    pub fn validate(&self) -> Result<(), MaskError> {
        self.validate_numbers()?;
        let contexts = context_sizes(self);
        for &target in &target_sizes(self) {
            for &context in &contexts {
                self.check(target, context)?;
            }
        }
        Ok(())
    }

    /// Draws the masks of one batch. Row i of the batch depends on (seed, step, i) only, but for the count that all rows
    /// share.
    pub fn sample(&self, seed: u64, step: u64, batch: usize) -> Result<Masks, MaskError> {
        self.sample_rows(seed, step, 0..batch, 0..batch)
    }

    /// Draws the masks of `rows` of a batch, with the count that the rows of `over` share.
    ///
    /// # Panics
    /// When `over` does not hold `rows`.
    pub fn sample_rows(
        &self,
        seed: u64,
        step: u64,
        rows: Range<usize>,
        over: Range<usize>,
    ) -> Result<Masks, MaskError> {
        assert!(over.start <= rows.start && rows.end <= over.end, "rows {rows:?} of {over:?}");
        if rows.is_empty() {
            return Err(refusal("a batch of 0 images has no masks".into(), "draw for 1 image or more"));
        }
        self.validate_numbers()?;
        let mut sizes = Key::new(seed, Purpose::MaskSize, step, 0).rng();
        let target = blocks::draw_size(self, self.pred_mask_scale, self.aspect_ratio, &mut sizes);
        let context = blocks::draw_size(self, self.enc_mask_scale, (1.0, 1.0), &mut sizes);
        self.check(target, context)?;
        let draws = |row: usize| Key::new(seed, Purpose::MaskPosition, step, row as u64).rng();
        Ok(match self.sampler {
            Sampler::Reference => reference::sample(self, target, context, draws, (rows, over)),
            Sampler::Fixed => fixed::sample(self, target, context, draws, (rows, over)),
        })
    }

    fn check(&self, target: Size, context: Size) -> Result<(), MaskError> {
        for (kind, size) in [("target", target), ("context", context)] {
            if size.area() == 0 {
                return Err(zero_size(kind, size, self.grid));
            }
        }
        match self.sampler {
            Sampler::Reference => reference::check(self, target, context),
            Sampler::Fixed => fixed::check(self, target, context),
        }
    }

    fn validate_numbers(&self) -> Result<(), MaskError> {
        let (rows, cols) = self.grid;
        let side_most = 512; // patches; 8192 pixels at patch 16
        if rows == 0 || cols == 0 || rows > side_most || cols > side_most {
            return Err(refusal(
                format!("the grid is {rows}×{cols} patches, each side must be 1 to {side_most}"),
                "check crop_size and patch_size",
            ));
        }
        let scales = [("mask.pred_mask_scale", self.pred_mask_scale), ("mask.enc_mask_scale", self.enc_mask_scale)];
        for (name, (low, high)) in scales {
            if !(low > 0.0 && low <= high && high <= 1.0) {
                return Err(refusal(
                    format!("{name} is [{low}, {high}], a share of the grid with 0 < least ≤ most ≤ 1 is expected"),
                    "correct the two numbers",
                ));
            }
        }
        let (low, high) = self.aspect_ratio;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(refusal(
                format!("mask.aspect_ratio is [{low}, {high}], height over width with 0 < least ≤ most is expected"),
                "correct the two numbers",
            ));
        }
        let counts = [("mask.num_pred_masks", self.num_pred_masks), ("mask.num_enc_masks", self.num_enc_masks)];
        for (name, count) in counts {
            if !(1..=64).contains(&count) {
                return Err(refusal(format!("{name} is {count}, 1 to 64 is expected"), "correct the number"));
            }
        }
        Ok(())
    }
}

/// The patches of one image as flags, while blocks are being placed.
struct Cells {
    cols: usize,
    taken: Vec<bool>, // (rows, cols)
}

impl Cells {
    fn new((rows, cols): (usize, usize)) -> Cells {
        Cells { cols, taken: vec![false; rows * cols] }
    }

    fn take(&mut self, block: Block) {
        for row in block.top..block.top + block.rows {
            self.taken[row * self.cols + block.left..][..block.cols].fill(true);
        }
    }

    /// Patch numbers of `block` that are not taken, ascending.
    fn left_of(&self, block: Block) -> Vec<u32> {
        block.patches(self.cols).filter(|&patch| !self.taken[patch as usize]).collect()
    }
}

/// The patches of one image: its targets and its context masks, ascending, before truncation.
struct Layout {
    targets: Vec<Vec<u32>>,
    context: Vec<Vec<u32>>,
}

/// Stacks one mask of every image; all must have the same count by now.
fn stack(masks: impl Iterator<Item = Vec<u32>>, per_image: usize) -> IndexSet {
    let indices: Vec<u32> = masks.flatten().collect();
    debug_assert_eq!(indices.len() % per_image, 0, "every mask of a set holds {per_image} patches");
    IndexSet { per_image, indices }
}

fn refusal(problem: String, remedy: impl Into<String>) -> MaskError {
    MaskError { problem, remedy: remedy.into() }
}

fn zero_size(kind: &str, size: Size, grid: (usize, usize)) -> MaskError {
    let key = if kind == "target" { "mask.pred_mask_scale" } else { "mask.enc_mask_scale" };
    refusal(
        format!("a {kind} block can come out as {}×{} patches on the {}×{} grid", size.rows, size.cols, grid.0, grid.1),
        format!("raise {key}, or take a smaller patch or a larger crop"),
    )
}
