//! The shapes that speed is measured on.

use ijepa_data::{IndexSet, Masks};
use ijepa_model::{PredictorConfig, VitConfig};

use crate::cli::BenchShape;
use crate::plan::Sizes;

/// A training step of fixed sizes.
pub(crate) struct Shape {
    pub(super) encoder: VitConfig,
    pub(super) predictor: PredictorConfig,
    /// Images.
    pub(super) batch: usize,
    /// Context patches of an image.
    pub(super) context: usize,
    /// Target blocks of an image and patches of each.
    pub(super) targets: (usize, usize),
}

impl Shape {
    pub(crate) fn of(shape: BenchShape) -> Shape {
        let encoder = |image, patch, (width, depth, heads)| VitConfig {
            image: (image, image),
            patch,
            channels: 3,
            width,
            depth,
            heads,
            hidden: 4 * width,
        };
        let predictor = |width, depth| PredictorConfig { width, depth };
        let (encoder, predictor, batch, context, target) = match shape {
            BenchShape::S1 => (encoder(32, 4, (192, 12, 3)), predictor(96, 6), 64, 32, 12),
            BenchShape::S2 => (encoder(224, 16, (384, 12, 6)), predictor(192, 6), 16, 80, 34),
            BenchShape::S3 => (encoder(224, 16, (768, 12, 12)), predictor(384, 6), 8, 80, 34),
            BenchShape::B16 => (encoder(224, 16, (768, 12, 12)), predictor(384, 12), 128, 52, 33),
            BenchShape::H14 => (encoder(224, 14, (1280, 32, 16)), predictor(384, 12), 128, 69, 45),
        };
        Shape { encoder, predictor, batch, context, targets: (4, target) }
    }

    /// Masks of these sizes, spread over the image.
    pub(super) fn masks(&self) -> Masks {
        let patches = self.encoder.patches();
        let set = |count: usize, stride: usize| {
            let indices = (0..self.batch).flat_map(|image| {
                let mut one: Vec<u32> = (0..count).map(|i| ((image + i * stride) % patches) as u32).collect();
                one.sort_unstable();
                one
            });
            IndexSet { per_image: count, indices: indices.collect() }
        };
        let (blocks, target) = self.targets;
        // Strides without a common divisor with 64, 196 and 256, so that no patch comes twice.
        let targets = [1, 3, 5, 9].into_iter().take(blocks).map(|stride| set(target, stride)).collect();
        Masks { batch: self.batch, context: vec![set(self.context, 11)], targets }
    }

    /// As a plan counts them.
    pub(crate) fn sizes(&self) -> Sizes {
        let (blocks, target) = self.targets;
        Sizes {
            encoder: self.encoder,
            predictor: self.predictor,
            batch: self.batch,
            contexts: 1,
            context: self.context as f64,
            blocks,
            target: target as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn masks_name_no_patch_twice() {
        for shape in BenchShape::value_variants().iter().copied() {
            let masks = Shape::of(shape).masks();
            for set in masks.context.iter().chain(&masks.targets) {
                for image in set.indices.chunks(set.per_image) {
                    assert!(image.windows(2).all(|pair| pair[0] < pair[1]), "{image:?}");
                }
            }
        }
    }
}
