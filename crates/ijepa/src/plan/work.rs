//! How much does a training step compute, and in which part?
//!
//! FLOP of matrix products, a multiply-add counted as 2, as if every block computed every token; a backward pass costs two forward
//! ones, and none goes on into the pixels. What the engine leaves out (tokens that nobody asks for) counts as done, what it does
//! twice does not, so that shares of a peak compare between programs.

use ijepa_model::{PredictorConfig, VitConfig};
use serde::Serialize;

/// Sizes of one device's step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    /// The encoder, and the target encoder likewise.
    pub(crate) encoder: VitConfig,
    /// The predictor.
    pub(crate) predictor: PredictorConfig,
    /// Images.
    pub(crate) batch: usize,
    /// Context masks of an image.
    pub(crate) contexts: usize,
    /// Patches of a context mask; they differ from batch to batch.
    pub(crate) context: f64,
    /// Target blocks of an image.
    pub(crate) blocks: usize,
    /// Patches of a target block.
    pub(crate) target: f64,
}

impl Sizes {
    /// Tokens of all sequences of the encoder.
    pub(super) fn context_rows(&self) -> f64 {
        (self.batch * self.contexts) as f64 * self.context
    }

    /// Tokens of all sequences of the predictor: each target block behind each context.
    pub(super) fn predictor_rows(&self) -> f64 {
        (self.batch * self.contexts * self.blocks) as f64 * (self.context + self.target)
    }

    /// Tokens that the predictor guesses.
    pub(super) fn target_rows(&self) -> f64 {
        (self.batch * self.contexts * self.blocks) as f64 * self.target
    }
}

/// FLOP of a step by part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Work {
    /// Forward, every patch.
    pub(crate) target_encoder: f64,
    /// Forward and backward, the context's patches.
    pub(crate) encoder: f64,
    /// Forward and backward.
    pub(crate) predictor: f64,
    /// The forward pass of the encoder's blocks alone: what recomputing adds.
    pub(crate) encoder_again: f64,
    /// Of the predictor's.
    pub(crate) predictor_again: f64,
}

impl Work {
    /// The work of a step.
    pub(crate) fn of(sizes: &Sizes) -> Work {
        let encoder = &sizes.encoder;
        let seen = of_token(encoder.width, encoder.hidden, encoder.depth, sizes.context) * sizes.context_rows();
        let PredictorConfig { width, depth } = sizes.predictor;
        let guessed = of_token(width, 4 * width, depth, sizes.context + sizes.target) * sizes.predictor_rows();
        let ends = 2.0 * (width * encoder.width) as f64 * (sizes.context_rows() + sizes.target_rows());
        Work {
            target_encoder: forward_flop(encoder, sizes.batch),
            encoder: 3.0 * seen + 2.0 * embedding(encoder) * sizes.context_rows(),
            predictor: 3.0 * (guessed + ends),
            encoder_again: seen,
            predictor_again: guessed,
        }
    }

    /// FLOP of a step, nothing recomputed.
    pub(crate) fn total(&self) -> f64 {
        self.target_encoder + self.encoder + self.predictor
    }
}

/// FLOP of an encoder for whole images, forward.
pub(crate) fn forward_flop(encoder: &VitConfig, images: usize) -> f64 {
    let patches = encoder.patches() as f64;
    let token = of_token(encoder.width, encoder.hidden, encoder.depth, patches) + embedding(encoder);
    token * patches * images as f64
}

/// FLOP of embedding one patch.
fn embedding(encoder: &VitConfig) -> f64 {
    2.0 * (encoder.channels * encoder.patch * encoder.patch * encoder.width) as f64
}

/// FLOP of the blocks of a transformer for one token of a sequence.
fn of_token(width: usize, hidden: usize, depth: usize, tokens: f64) -> f64 {
    let linear = 2 * (4 * width * width + 2 * width * hidden);
    depth as f64 * (linear as f64 + 4.0 * tokens * width as f64)
}
