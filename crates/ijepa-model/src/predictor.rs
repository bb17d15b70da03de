//! The predictor: from the context's tokens to what the target encoder says about each target block.
//!
//! Every target block is a sequence of its own: the context tokens, then one mask token for each patch of the block.

use crate::params::{Init, Layout};
use crate::positions::sin_cos;
use crate::variants::{PredictorConfig, VitConfig};
use crate::vit::{Block, NORM_EPS, affine, linear};
use ijepa_data::IndexSet;
use ijepa_tensor::ops::assemble;
use ijepa_tensor::ops::layer_norm::Affine;
use ijepa_tensor::ops::linear::Linear;
use ijepa_tensor::{Index, Slot, Tape, Var};

/// Where the predictor's parameters lie.
#[derive(Clone, Debug)]
pub struct Predictor {
    /// Its sizes.
    pub config: PredictorConfig,
    mask_token: Slot,
    predictor_pos_embed: Slot,
    predictor_embed: Linear,
    blocks: Vec<Block>,
    predictor_norm: Affine,
    predictor_proj: Linear,
}

impl Predictor {
    /// Adds the predictor's parameters to a layout, their names starting with `prefix`.
    pub fn declare(layout: &mut Layout, prefix: &str, config: PredictorConfig, encoder: VitConfig) -> Predictor {
        let PredictorConfig { width, depth } = config;
        let positions = Init::Fixed(sin_cos(encoder.grid(), width));
        let mask_token = layout.add(format!("{prefix}mask_token"), &[1, 1, width], Init::Normal);
        let predictor_pos_embed =
            layout.add(format!("{prefix}predictor_pos_embed"), &[1, encoder.patches(), width], positions);
        let predictor_embed = linear(layout, &format!("{prefix}predictor_embed"), encoder.width, width);
        let block = |i| format!("{prefix}predictor_blocks.{i}.");
        let blocks = (0..depth).map(|i| Block::declare(layout, &block(i), width, 4 * width, encoder.heads)).collect();
        let predictor_norm = affine(layout, &format!("{prefix}predictor_norm"), width);
        let predictor_proj = linear(layout, &format!("{prefix}predictor_proj"), width, encoder.width);
        Predictor { config, mask_token, predictor_pos_embed, predictor_embed, blocks, predictor_norm, predictor_proj }
    }

    /// x (k·b·c, d) tokens of the context patches, context and targets as the batch's masks say → predictions
    /// (m·k·b·t, d), target block by target block.
    pub fn forward(&self, tape: &mut Tape, x: &Var, context: &[IndexSet], targets: &[IndexSet], batch: usize) -> Var {
        let shape = assemble::Shape {
            blocks: targets.len(),
            batch: context.len() * batch,
            context: context[0].per_image,
            target: targets[0].per_image,
            width: self.config.width,
        };
        let context_index: Vec<u32> = context.iter().flat_map(|set| &set.indices).copied().collect(); // (k, b, c)
        let repeated = targets.iter().flat_map(|set| std::iter::repeat_n(&set.indices, context.len()));
        let target_index: Index = repeated.flatten().copied().collect(); // (m, k, b, t)

        let z = tape.linear(x, self.predictor_embed);
        let z = tape.position(&z, self.predictor_pos_embed, &context_index); // (k·b·c, p)
        let mut y = tape.assemble(&z, self.mask_token, self.predictor_pos_embed, target_index, shape); // (m·k·b·(c+t), p)
        drop(z);
        let tokens = shape.context + shape.target;
        let (last, blocks) = self.blocks.split_last().expect("a predictor has at least one block");
        for block in blocks {
            y = block.forward(tape, y, tokens);
        }
        let sequences = shape.blocks * shape.batch;
        let masked: Index =
            (0..sequences).flat_map(|s| (shape.context..tokens).map(move |t| (s * tokens + t) as u32)).collect();
        let y = last.forward_of(tape, y, tokens, masked); // (m·k·b·t, p)
        let y = tape.layer_norm(&y, Some(self.predictor_norm), NORM_EPS);
        tape.linear(&y, self.predictor_proj)
    }
}
