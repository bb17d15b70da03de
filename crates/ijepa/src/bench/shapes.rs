//! The shapes that speed is measured on.

use ijepa_data::{IndexSet, Masks};
use ijepa_model::{PredictorConfig, VitConfig};

use crate::cli::BenchShape;

/// A training step of fixed sizes.
pub(super) struct Shape {
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
    pub(super) fn of(shape: BenchShape) -> Shape {
        let encoder = |image, patch, width, heads| VitConfig {
            image: (image, image),
            patch,
            channels: 3,
            width,
            depth: 12,
            heads,
            hidden: 4 * width,
        };
        let (encoder, batch, context, target) = match shape {
            BenchShape::S1 => (encoder(32, 4, 192, 3), 64, 32, 12),
            BenchShape::S2 => (encoder(224, 16, 384, 6), 16, 80, 34),
            BenchShape::S3 => (encoder(224, 16, 768, 12), 8, 80, 34),
        };
        Shape {
            encoder,
            predictor: PredictorConfig { width: encoder.width / 2, depth: 6 },
            batch,
            context,
            targets: (4, target),
        }
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
        // Strides without a common divisor with 64 and 196, so that no patch comes twice.
        let targets = [1, 3, 5, 9].into_iter().take(blocks).map(|stride| set(target, stride)).collect();
        Masks { batch: self.batch, context: vec![set(self.context, 11)], targets }
    }

    /// GFLOP of the matrix products of a training step, a multiply-add counted as 2. Recomputation does not count.
    pub(super) fn gflop(&self) -> f64 {
        let encoder = &self.encoder;
        let patch_width = encoder.channels * encoder.patch * encoder.patch;
        let patches = encoder.patches();
        let all = forward_flop(encoder.width, encoder.hidden, encoder.depth, patches) * (self.batch * patches) as f64;
        let seen = forward_flop(encoder.width, encoder.hidden, encoder.depth, self.context)
            * (self.batch * self.context) as f64;
        let embed = 2.0 * (patch_width * encoder.width) as f64 * self.batch as f64;
        let (blocks, target) = self.targets;
        let PredictorConfig { width, depth } = self.predictor;
        let tokens = self.context + target;
        let guessed = forward_flop(width, 4 * width, depth, tokens) * (self.batch * blocks * tokens) as f64;
        let ends = 2.0 * (width * encoder.width * self.batch * (self.context + blocks * target)) as f64;
        // A backward pass costs two forward ones; none goes on into the pixels.
        (all + embed * (patches + 2 * self.context) as f64 + 3.0 * (seen + guessed + ends)) / 1e9
    }
}

/// FLOP of the blocks of a transformer for one token of a sequence.
pub(super) fn forward_flop(width: usize, hidden: usize, depth: usize, tokens: usize) -> f64 {
    let linear = 2 * (4 * width * width + 2 * width * hidden);
    (depth * (linear + 4 * tokens * width)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_what_the_table_of_shapes_says() {
        for (shape, gflop) in [(BenchShape::S1, 161.0), (BenchShape::S2, 448.0), (BenchShape::S3, 862.0)] {
            let got = Shape::of(shape).gflop();
            assert!((got / gflop - 1.0).abs() < 0.01, "{got} against {gflop}");
        }
    }

    #[test]
    fn masks_name_no_patch_twice() {
        for shape in [BenchShape::S1, BenchShape::S2, BenchShape::S3] {
            let masks = Shape::of(shape).masks();
            for set in masks.context.iter().chain(&masks.targets) {
                for image in set.indices.chunks(set.per_image) {
                    assert!(image.windows(2).all(|pair| pair[0] < pair[1]), "{image:?}");
                }
            }
        }
    }
}
