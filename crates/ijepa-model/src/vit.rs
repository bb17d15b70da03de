//! The vision transformer: patch embedding, fixed positions, pre-norm blocks, a final norm. No class token.

use crate::params::{Init, Layout};
use crate::positions::sin_cos;
use crate::variants::VitConfig;
use ijepa_tensor::ops::drop_path::Scales;
use ijepa_tensor::ops::layer_norm::Affine;
use ijepa_tensor::ops::linear::Linear;
use ijepa_tensor::ops::patchify;
use ijepa_tensor::{Index, Slot, Tape, Var, View};

/// Added to variances in every layer norm of encoder and predictor.
pub const NORM_EPS: f32 = 1e-6;

/// Where an encoder's parameters lie.
#[derive(Clone, Debug)]
pub struct Vit {
    /// Its sizes.
    pub config: VitConfig,
    /// Fixed positions (n, d).
    pub pos_embed: Slot,
    patch_embed: Linear,
    blocks: Vec<Block>,
    norm: Affine,
}

/// Where a transformer block's parameters lie.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    norm1: Affine,
    qkv: Linear,
    proj: Linear,
    norm2: Affine,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

/// Which patches of which images an encoder sees.
#[derive(Clone, Copy)]
pub struct Patches<'a> {
    /// Images (b, 3, h, w), normalised.
    pub images: View<'a>,
    /// Number of images, b.
    pub batch: usize,
    /// Patch numbers (k·b, c): k selections, each running over all images.
    pub index: &'a [u32],
    /// Patches taken of an image at a time, c.
    pub kept: usize,
}

/// By how much the two residual branches of a block are scaled in each image; 0 drops a branch.
#[derive(Clone, Debug)]
pub struct BranchScales {
    /// Of attention (b).
    pub attention: Scales,
    /// Of the MLP (b).
    pub mlp: Scales,
}

/// Every patch of every image: the index that [`Patches`] takes.
pub fn all_patches(batch: usize, patches: usize) -> Vec<u32> {
    (0..batch).flat_map(|_| 0..patches as u32).collect()
}

impl Vit {
    /// Adds an encoder's parameters to a layout, their names starting with `prefix`.
    pub fn declare(layout: &mut Layout, prefix: &str, config: VitConfig) -> Vit {
        let VitConfig { patch, channels, width, depth, heads, hidden, .. } = config;
        let positions = Init::Fixed(sin_cos(config.grid(), width));
        let pos_embed = layout.add(format!("{prefix}pos_embed"), &[1, config.patches(), width], positions);
        let patch_embed = Linear {
            weight: layout.add(
                format!("{prefix}patch_embed.proj.weight"),
                &[width, channels, patch, patch],
                Init::Normal,
            ),
            bias: layout.add(format!("{prefix}patch_embed.proj.bias"), &[width], Init::Zero),
        };
        let blocks =
            (0..depth).map(|i| Block::declare(layout, &format!("{prefix}blocks.{i}."), width, hidden, heads)).collect();
        let norm = affine(layout, &format!("{prefix}norm"), width);
        Vit { config, pos_embed, patch_embed, blocks, norm }
    }

    /// Tokens (k·b·c, d) after the final norm.
    pub fn forward(&self, tape: &mut Tape, patches: Patches) -> Var {
        self.forward_last(tape, patches, 1).pop().expect("an encoder has at least one block")
    }

    /// As [`Vit::forward`], every block's branches scaled: stochastic depth.
    ///
    /// # Panics
    /// When there are not as many scales as blocks.
    pub fn forward_scaled(&self, tape: &mut Tape, patches: Patches, scales: &[BranchScales]) -> Var {
        assert_eq!(scales.len(), self.blocks.len(), "scales for each block");
        let mut x = self.embed(tape, patches);
        for (block, scales) in self.blocks.iter().zip(scales) {
            x = block.forward_scaled(tape, x, patches.kept, scales);
        }
        tape.layer_norm(&x, Some(self.norm), NORM_EPS)
    }

    /// Tokens (k·b·c, d) after each of the last `layers` blocks, earliest first, each through the final norm.
    pub fn forward_last(&self, tape: &mut Tape, patches: Patches, layers: usize) -> Vec<Var> {
        let mut x = self.embed(tape, patches);
        let mut outputs = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(tape, x, patches.kept);
            if i + layers >= self.config.depth {
                outputs.push(tape.layer_norm(&x, Some(self.norm), NORM_EPS));
            }
        }
        outputs
    }

    /// The rows of [`Vit::forward`] that `wanted` names, equally many of each image; the last block computes no others.
    pub fn forward_of(&self, tape: &mut Tape, patches: Patches, wanted: Index) -> Var {
        let (last, blocks) = self.blocks.split_last().expect("an encoder has at least one block");
        let mut x = self.embed(tape, patches);
        for block in blocks {
            x = block.forward(tape, x, patches.kept);
        }
        let x = last.forward_of(tape, x, patches.kept, wanted);
        tape.layer_norm(&x, Some(self.norm), NORM_EPS)
    }

    /// Patches (k·b·c, d) where they stand.
    fn embed(&self, tape: &mut Tape, patches: Patches) -> Var {
        let VitConfig { image, patch, channels, .. } = self.config;
        let shape = patchify::Shape { batch: patches.batch, channels, size: image, patch, kept: patches.kept };
        let pixels = tape.patchify(patches.images, patches.index, shape); // (k·b·c, 3·p·p)
        let tokens = tape.linear(&pixels, self.patch_embed);
        tape.position(&tokens, self.pos_embed, patches.index)
    }
}

impl Block {
    pub(crate) fn declare(layout: &mut Layout, prefix: &str, width: usize, hidden: usize, heads: usize) -> Block {
        Block {
            norm1: affine(layout, &format!("{prefix}norm1"), width),
            qkv: linear(layout, &format!("{prefix}attn.qkv"), width, 3 * width),
            proj: linear(layout, &format!("{prefix}attn.proj"), width, width),
            norm2: affine(layout, &format!("{prefix}norm2"), width),
            fc1: linear(layout, &format!("{prefix}mlp.fc1"), width, hidden),
            fc2: linear(layout, &format!("{prefix}mlp.fc2"), hidden, width),
            heads,
        }
    }

    /// x (sequences·tokens, d) → the same shape.
    pub(crate) fn forward(&self, tape: &mut Tape, x: Var, tokens: usize) -> Var {
        let block = *self;
        tape.segment(x, move |tape, x| {
            let qkv = tape.norm_linear(&x, block.norm1, NORM_EPS, block.qkv); // (.., 3·d)
            let y = tape.attention(&qkv, tokens, block.heads);
            block.mlp(tape, &y, &x)
        })
    }

    /// As [`Block::forward`], with its branches scaled.
    fn forward_scaled(&self, tape: &mut Tape, x: Var, tokens: usize, scales: &BranchScales) -> Var {
        let qkv = tape.norm_linear(&x, self.norm1, NORM_EPS, self.qkv);
        let y = tape.attention(&qkv, tokens, self.heads);
        let branch = tape.linear(&y, self.proj);
        let x = tape.drop_path(&x, &branch, &scales.attention);
        let hidden = tape.norm_linear(&x, self.norm2, NORM_EPS, self.fc1);
        let branch = tape.gelu_linear(&hidden, self.fc2);
        tape.drop_path(&x, &branch, &scales.mlp)
    }

    /// The rows of [`Block::forward`] that `wanted` names, equally many of each sequence.
    pub(crate) fn forward_of(&self, tape: &mut Tape, x: Var, tokens: usize, wanted: Index) -> Var {
        let block = *self;
        tape.segment(x, move |tape, x| {
            let (query, key_value) = block.qkv.split(x.width());
            let kv = tape.norm_linear(&x, block.norm1, NORM_EPS, key_value); // (sequences·tokens, 2·d)
            let x = tape.gather(&x, Index::clone(&wanted));
            let q = tape.norm_linear(&x, block.norm1, NORM_EPS, query); // (wanted, d)
            let y = tape.attention_of(&q, &kv, tokens, block.heads);
            block.mlp(tape, &y, &x)
        })
    }

    fn mlp(&self, tape: &mut Tape, y: &Var, x: &Var) -> Var {
        let x = tape.linear_residual(y, self.proj, x);
        let hidden = tape.norm_linear(&x, self.norm2, NORM_EPS, self.fc1); // (.., hidden)
        tape.gelu_linear_residual(&hidden, self.fc2, &x)
    }
}

pub(crate) fn affine(layout: &mut Layout, name: &str, width: usize) -> Affine {
    Affine {
        weight: layout.add(format!("{name}.weight"), &[width], Init::One),
        bias: layout.add(format!("{name}.bias"), &[width], Init::Zero),
    }
}

pub(crate) fn linear(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) -> Linear {
    Linear {
        weight: layout.add(format!("{name}.weight"), &[outputs, inputs], Init::Normal),
        bias: layout.add(format!("{name}.bias"), &[outputs], Init::Zero),
    }
}
