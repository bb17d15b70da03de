//! How often is each patch seen, and how often predicted? Averages over many batches.

use super::{IndexSet, MaskConfig, MaskError};

/// What a mask configuration does to every cell of the grid, after truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct KeepRates {
    /// Patches: rows, columns.
    pub grid: (usize, usize),
    /// Images of a batch; under truncation the rates depend on it.
    pub batch: usize,
    /// Mean patches of a context mask.
    pub context_mean: f64,
    /// Mean patches of a target block.
    pub target_mean: f64,
    /// Share of context masks that hold the patch; sums to `context_mean`.
    pub context_keep: Vec<f64>, // (rows, cols)
    /// Share of target blocks that hold the patch; sums to `target_mean`.
    pub target_keep: Vec<f64>, // (rows, cols)
}

/// Draws the masks of steps 0 to `batches` and counts.
pub fn keep_rates(config: &MaskConfig, seed: u64, batch: usize, batches: usize) -> Result<KeepRates, MaskError> {
    let cells = config.grid.0 * config.grid.1;
    let (mut context_keep, mut target_keep) = (vec![0.0; cells], vec![0.0; cells]);
    let count = |keep: &mut [f64], sets: &[IndexSet]| {
        for &patch in sets.iter().flat_map(|set| &set.indices) {
            keep[patch as usize] += 1.0;
        }
    };
    for step in 0..batches as u64 {
        let masks = config.sample(seed, step, batch)?;
        count(&mut context_keep, &masks.context);
        count(&mut target_keep, &masks.targets);
    }
    let images = (batch * batches).max(1) as f64;
    context_keep.iter_mut().for_each(|rate| *rate /= images * config.num_enc_masks as f64);
    target_keep.iter_mut().for_each(|rate| *rate /= images * config.num_pred_masks as f64);
    Ok(KeepRates {
        grid: config.grid,
        batch,
        context_mean: context_keep.iter().sum(),
        target_mean: target_keep.iter().sum(),
        context_keep,
        target_keep,
    })
}
