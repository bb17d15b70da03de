//! An encoder with a linear head, all of it trained on labels: fine-tuning (He et al., arXiv 2111.06377, appendix A.1).
//!
//! The head reads the mean of an image's tokens after the encoder's final norm. MAE's recipe averages what comes before the norm and puts
//! a fresh one behind; here the pretrained norm stays, so that fine-tuning begins with the very features that probes read, and the
//! encoder in a checkpoint is whole. Positions stay fixed, as in pretraining.

use crate::checkpoint::Network;
use crate::params::{Entry, Init, Layout};
use crate::saved;
use crate::variants::VitConfig;
use crate::vit::{BranchScales, Patches, Vit, all_patches};
use ijepa_data::key::{Key, Purpose, normal, uniform};
use ijepa_tensor::cuda::Device;
use ijepa_tensor::ops::adamw::{self, Blobs, Segment, Step};
use ijepa_tensor::ops::drop_path::Scales;
use ijepa_tensor::ops::linear::Linear;
use ijepa_tensor::{Buf, Pool, Tape, Var, View};
use std::rc::Rc;

use crate::optimiser::{BETAS, EPS};

/// Deviation of the head's first weights: MAE's, so that a pretrained encoder is not shaken by a head that knows nothing.
pub const HEAD_STD: f64 = 2e-5;

/// Where the parameters lie.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Encoder and head, in this order.
    pub layout: Layout,
    /// Length of the encoder's part, which is laid out as [`saved::encoder`] does it.
    pub encoder_len: usize,
    /// The encoder.
    pub encoder: Vit,
    /// Number of classes, c.
    pub classes: usize,
    head: Linear,
}

/// All that training moves.
#[derive(Clone)]
pub struct State {
    /// Encoder and head.
    pub params: Buf,
    /// A moving average of them, or nothing.
    pub average: Buf,
    /// First moments of the optimiser, laid out as `params`.
    pub exp_avg: Buf,
    /// Second moments.
    pub exp_avg_sq: Buf,
    /// Steps taken.
    pub step: u64,
}

/// Images and what they are to be taken for.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// (b, 3, h, w), normalised, in main memory.
    pub images: View<'a>,
    /// (b, c): a distribution over the classes times the weight of its image; weights of 1/b give a mean.
    pub targets: &'a [f32],
}

/// Residual branches that are dropped at random, and which draws these are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropPath {
    /// Share of the images that lose a branch of the last block; it grows in a line from 0 at the first.
    pub rate: f64,
    /// The run's seed.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// The number of the first image among all of the step.
    pub first: u64,
}

/// How far one step goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate of the head.
    pub learning_rate: f64,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by from a layer to the one before.
    pub layer_decay: f64,
    /// Share of the moving average that stays.
    pub momentum: f64,
}

impl DropPath {
    /// Scales of the branches of `depth` blocks in `images` images: 0, or 1/(1 − rate) so that their expectation is 1.
    pub fn scales(&self, depth: usize, images: usize) -> Vec<BranchScales> {
        (0..depth)
            .map(|block| {
                let rate = self.rate * block as f64 / (depth.max(2) - 1) as f64;
                let scales = |branch: usize| -> Scales {
                    (0..images as u64)
                        .map(|image| {
                            let item = (2 * block + branch) as u64 * (1 << 32) + self.first + image;
                            let mut rng = Key::new(self.seed, Purpose::DropPath, self.step, item).rng();
                            if uniform(&mut rng) < rate { 0.0 } else { (1.0 / (1.0 - rate)) as f32 }
                        })
                        .collect()
                };
                BranchScales { attention: scales(0), mlp: scales(1) }
            })
            .collect()
    }
}

/// The share of the learning rate that a parameter gets: decay^(L + 1 − i), where i is 0 for the embeddings, k + 1 for block k and
/// L + 1 for what follows the L blocks (Clark et al., arXiv 2003.10555; Bao et al., arXiv 2106.08254).
pub fn layer_rate(name: &str, depth: usize, decay: f64) -> f64 {
    let name = name.strip_prefix(Network::Context.prefix()).unwrap_or(name);
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let layer = match block {
        Some(block) => block + 1,
        None if name.starts_with("patch_embed.") || name.starts_with("pos_embed") => 0,
        None => depth + 1,
    };
    decay.powi((depth + 1 - layer) as i32)
}

impl Classifier {
    /// Lays out an encoder and its head.
    pub fn new(config: VitConfig, classes: usize) -> Classifier {
        let (mut layout, encoder) = saved::encoder(config);
        let encoder_len = layout.len;
        let head = Linear {
            weight: layout.add("head.weight".to_owned(), &[classes, config.width], Init::Normal),
            bias: layout.add("head.bias".to_owned(), &[classes], Init::Zero),
        };
        Classifier { layout, encoder_len, encoder, classes, head }
    }

    /// The state of step 0: an encoder's weights and a fresh head; with a moving average where one is wanted.
    ///
    /// # Panics
    /// When the encoder is of other sizes.
    pub fn begin(&self, encoder: &Buf, seed: u64, average: bool) -> State {
        assert_eq!(encoder.len(), self.encoder_len, "the weights of an encoder of these sizes");
        let mut params = Buf::zeros(self.layout.len);
        params.as_mut_slice()[..self.encoder_len].copy_from_slice(encoder.as_slice());
        let number = self.layout.entries.iter().position(|entry| entry.slot == self.head.weight);
        let mut rng = Key::new(seed, Purpose::Init, 0, number.unwrap_or_default() as u64).rng();
        params.as_mut_slice()[self.head.weight.range()].fill_with(|| (HEAD_STD * normal(&mut rng)) as f32);
        self.begin_with(params, average)
    }

    /// The state of step 0 of given weights.
    pub fn begin_with(&self, params: Buf, average: bool) -> State {
        let average = if average { params.clone() } else { Buf::zeros(0) };
        let zeros = || Buf::zeros(self.layout.len);
        State { params, average, exp_avg: zeros(), exp_avg_sq: zeros(), step: 0 }
    }

    /// Scores (b, c) of images (b, 3, h, w).
    pub fn scores(&self, tape: &mut Tape, images: View, batch: usize, scales: Option<&[BranchScales]>) -> Var {
        let n = self.encoder.config.patches();
        let index = all_patches(batch, n);
        let patches = Patches { images, batch, index: &index, kept: n };
        let tokens = match scales {
            Some(scales) => self.encoder.forward_scaled(tape, patches, scales),
            None => self.encoder.forward(tape, patches),
        };
        let pooled = tape.mean_tokens(&tokens, n); // (b, d)
        tape.linear(&pooled, self.head)
    }

    /// Probabilities (b, c) of images (b, 3, h, w) in main memory, by any blob laid out as the parameters; `at_once` images at a time where
    /// they are computed.
    pub fn probabilities(&self, pool: &Pool, params: View, images: View, at_once: usize) -> Vec<f32> {
        let images = images.cpu();
        let image_len = self.image_len();
        let mut all = Vec::with_capacity(images.len() / image_len * self.classes);
        for images in images.chunks(at_once * image_len) {
            let mut tape = Tape::inference(pool, params);
            let uploaded = pool.upload(images);
            let seen = uploaded.as_ref().map_or(View::Cpu(images), Buf::view);
            let scores = self.scores(&mut tape, seen, images.len() / image_len, None);
            for scores in scores.to_vec().chunks_exact(self.classes) {
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let first = all.len();
                all.extend(scores.iter().map(|score| (score - largest).exp()));
                let sum: f32 = all[first..].iter().sum();
                all[first..].iter_mut().for_each(|p| *p /= sum);
            }
        }
        all
    }

    /// The loss of a batch, and its gradients in `grads`, a blob laid out as `params`, added to what is there (`add`) or in its place; `at_once`
    /// images in memory at a time, the gradients of which add up.
    pub fn loss_and_gradients(
        &self,
        pool: &Pool,
        (params, grads, add): (&Buf, &mut Buf, bool),
        batch: Batch,
        drop_path: DropPath,
        at_once: usize,
    ) -> f64 {
        let images = batch.images.cpu();
        let image_len = self.image_len();
        assert!(add || !images.is_empty(), "a batch without images says nothing that could replace what was there");
        assert_eq!(images.len() * self.classes, batch.targets.len() * image_len, "targets (b, classes) of the images");
        let parts = images.chunks(at_once * image_len).zip(batch.targets.chunks(at_once * self.classes));
        let mut total = 0.0;
        for (number, (images, targets)) in parts.enumerate() {
            let count = images.len() / image_len;
            let drop_path = DropPath { first: drop_path.first + (number * at_once) as u64, ..drop_path };
            let scales = (drop_path.rate > 0.0).then(|| drop_path.scales(self.encoder.config.depth, count));
            let mut tape = Tape::training(pool, params.view(), grads.view_mut()).replacing(!add && number == 0);
            let uploaded = pool.upload(images);
            let seen = uploaded.as_ref().map_or(View::Cpu(images), Buf::view);
            let scores = self.scores(&mut tape, seen, count, scales.as_deref());
            let targets = tape.constant(targets, count, self.classes);
            let loss = tape.cross_entropy(&scores, &targets);
            drop(scores);
            tape.backward(&loss);
            total += f64::from(loss.to_vec()[0]);
        }
        total
    }

    /// Moves the parameters by their gradients, layers near the input less, then the moving average, and the step by one.
    pub fn step(&self, state: &mut State, grads: &Buf, rates: Rates) {
        let depth = self.encoder.config.depth;
        let segment = |entry: &Entry| Segment {
            rate: layer_rate(&entry.name, depth, rates.layer_decay),
            ..Segment::of(entry.slot, if entry.decays() { rates.weight_decay } else { 0.0 })
        };
        let segments: Vec<_> = self.layout.entries.iter().filter(|entry| entry.learnt()).map(segment).collect();
        let blobs = Blobs {
            params: state.params.view_mut(),
            m: state.exp_avg.view_mut(),
            v: state.exp_avg_sq.view_mut(),
            average: state.average.view_mut(),
        };
        let step = Step {
            number: state.step + 1,
            learning_rate: rates.learning_rate,
            beta1: BETAS.0,
            beta2: BETAS.1,
            eps: EPS,
            momentum: rates.momentum,
        };
        adamw::forward(blobs, grads.view(), &segments, step);
        state.step += 1;
    }

    /// Values of one image.
    fn image_len(&self) -> usize {
        let VitConfig { image: (height, width), channels, .. } = self.encoder.config;
        channels * height * width
    }
}

impl State {
    /// The same on a GPU.
    pub fn on(&self, device: &Rc<Device>) -> State {
        State {
            params: Buf::parameters_on(device, self.params.as_slice()),
            average: Buf::parameters_on(device, self.average.as_slice()),
            exp_avg: Buf::on(device, self.exp_avg.as_slice()),
            exp_avg_sq: Buf::on(device, self.exp_avg_sq.as_slice()),
            step: self.step,
        }
    }

    /// The same in main memory, from a GPU.
    pub fn fetched(&self) -> State {
        State {
            params: self.params.to_main_memory(),
            average: self.average.to_main_memory(),
            exp_avg: self.exp_avg.to_main_memory(),
            exp_avg_sq: self.exp_avg_sq.to_main_memory(),
            step: self.step,
        }
    }

    /// The weights that are judged: the moving average where there is one.
    pub fn judged(&self) -> &Buf {
        if self.average.is_empty() { &self.params } else { &self.average }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_learns_by_the_decay_slower_than_the_next() {
        let rate = |name| layer_rate(name, 12, 0.75);
        assert_eq!(rate("head.weight"), 1.0);
        assert_eq!(rate("encoder.norm.bias"), 1.0);
        assert_eq!(rate("encoder.blocks.11.mlp.fc2.weight"), 0.75);
        assert_eq!(rate("encoder.blocks.0.norm1.weight"), 0.75f64.powi(12));
        assert_eq!(rate("encoder.patch_embed.proj.weight"), 0.75f64.powi(13));
        assert_eq!(layer_rate("encoder.blocks.3.norm1.weight", 12, 1.0), 1.0);
    }

    #[test]
    fn dropped_branches_leave_the_expectation_and_are_more_towards_the_end() {
        let drop = DropPath { rate: 0.3, seed: 1, step: 2, first: 0 };
        let images = 4000;
        let scales = drop.scales(4, images);
        for (block, BranchScales { attention, mlp }) in scales.iter().enumerate() {
            let rate = 0.1 * block as f64;
            for branch in [attention, mlp] {
                let dropped = branch.iter().filter(|&&scale| scale == 0.0).count() as f64 / images as f64;
                let mean = branch.iter().map(|&scale| f64::from(scale)).sum::<f64>() / images as f64;
                // The deviation of a share of 4000 is below 0.008.
                assert!((dropped - rate).abs() < 0.03, "block {block}: {dropped}");
                assert!((mean - 1.0).abs() < 0.04, "block {block}: {mean}");
            }
            assert!(block == 0 || attention != mlp, "branches are drawn apart");
        }
    }

    #[test]
    fn which_branches_are_dropped_depends_on_the_image_and_not_on_its_company() {
        let drop = DropPath { rate: 0.5, seed: 1, step: 2, first: 0 };
        let (all, part) = (drop.scales(3, 20), DropPath { first: 12, ..drop }.scales(3, 8));
        for (all, part) in all.iter().zip(&part) {
            assert_eq!((&all.attention[12..], &all.mlp[12..]), (&part.attention[..], &part.mlp[..]));
        }
        let next = DropPath { step: 3, ..drop }.scales(3, 20);
        assert_ne!(all[2].mlp, next[2].mlp);
    }
}
