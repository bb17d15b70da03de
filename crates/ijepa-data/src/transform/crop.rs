//! Which part of a picture? The random crop of Szegedy et al. 2015 as torchvision draws it.

use rand_chacha::ChaCha8Rng;

use crate::key::{below, between};

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Tries before the crop falls back to the middle.
const TRIES: usize = 10;

/// A part with a share of the area drawn from `scale` and a width over height drawn log-uniformly from `ratio`. After ten
/// draws that do not fit, the largest middle part whose ratio is allowed.
pub fn random_resized_crop(
    width: usize,
    height: usize,
    scale: (f64, f64),
    ratio: (f64, f64),
    rng: &mut ChaCha8Rng,
) -> CropBox {
    let area = (width * height) as f64;
    for _ in 0..TRIES {
        let wanted = area * between(rng, scale);
        let aspect = between(rng, (ratio.0.ln(), ratio.1.ln())).exp();
        let cut_width = (wanted * aspect).sqrt().round_ties_even() as usize;
        let cut_height = (wanted / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&cut_width) && (1..=height).contains(&cut_height) {
            let top = below(rng, (height - cut_height) as u64 + 1) as usize;
            let left = below(rng, (width - cut_width) as u64 + 1) as usize;
            return CropBox { left, top, width: cut_width, height: cut_height };
        }
    }
    let own_ratio = width as f64 / height as f64;
    let cut_width = if own_ratio > ratio.1 { (height as f64 * ratio.1).round_ties_even() as usize } else { width };
    let cut_height = if own_ratio < ratio.0 { (width as f64 / ratio.0).round_ties_even() as usize } else { height };
    let (cut_width, cut_height) = (cut_width.clamp(1, width), cut_height.clamp(1, height));
    CropBox { left: (width - cut_width) / 2, top: (height - cut_height) / 2, width: cut_width, height: cut_height }
}
