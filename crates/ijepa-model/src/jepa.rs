//! I-JEPA: one training step (Assran et al., arXiv 2301.08243).
//!
//! A target encoder, a moving average of the encoder, looks at the whole image; its layer-normed tokens inside a few
//! blocks are the targets. The encoder looks at a context from which those blocks are cut out, and the predictor
//! guesses each block's tokens from the context and the block's positions. The loss is smooth L1.

use crate::params::Layout;
use crate::predictor::Predictor;
use crate::variants::{PredictorConfig, VitConfig};
use crate::vit::{Patches, Vit, all_patches};
use ijepa_data::{IndexSet, Masks};
use ijepa_tensor::cuda::Device;
use ijepa_tensor::{Buf, Index, Pool, Precision, Tape, Var, View, ViewMut};
use std::rc::Rc;

/// Added to variances when targets are normalised; the reference leaves PyTorch's default here (quirk Q15).
const TARGET_NORM_EPS: f32 = 1e-5;

/// The three networks: where their parameters lie in two blobs.
#[derive(Clone, Debug)]
pub struct Jepa {
    /// Encoder and predictor, in this order.
    pub layout: Layout,
    /// Length of the encoder's part, which is the whole blob of the target encoder.
    pub encoder_len: usize,
    /// The encoder, and the target encoder likewise.
    pub encoder: Vit,
    /// The predictor.
    pub predictor: Predictor,
    /// What the target encoder's linear layers multiply in.
    pub target_precision: Precision,
    /// What those of encoder and predictor multiply in, forward and backward.
    pub precision: Precision,
    /// Whether a block's activations are computed anew on the way back instead of kept: one more forward pass of encoder and predictor
    /// for nine tenths of the memory of their activations. No number changes.
    pub recompute: bool,
}

/// All that training moves.
#[derive(Clone)]
pub struct State {
    /// Encoder and predictor.
    pub params: Buf,
    /// Target encoder.
    pub target: Buf,
    /// First moments of the optimiser, laid out as `params`; where ranks share them out, those of what this rank owns, part behind part.
    pub exp_avg: Buf,
    /// Second moments.
    pub exp_avg_sq: Buf,
    /// Steps taken.
    pub step: u64,
}

impl State {
    /// The same on a GPU.
    pub fn on(&self, device: &Rc<Device>) -> State {
        State {
            params: Buf::parameters_on(device, self.params.as_slice()),
            target: Buf::parameters_on(device, self.target.as_slice()),
            exp_avg: Buf::on(device, self.exp_avg.as_slice()),
            exp_avg_sq: Buf::on(device, self.exp_avg_sq.as_slice()),
            step: self.step,
        }
    }

    /// The same in main memory, from a GPU.
    pub fn fetched(&self) -> State {
        let fetched = |buf: &Buf| buf.to_main_memory();
        State {
            params: fetched(&self.params),
            target: fetched(&self.target),
            exp_avg: fetched(&self.exp_avg),
            exp_avg_sq: fetched(&self.exp_avg_sq),
            step: self.step,
        }
    }
}

/// Images and masks of one step.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// (b, 3, h, w), normalised.
    pub images: View<'a>,
    /// Context and target patches.
    pub masks: &'a Masks,
}

/// Rows of all patches (b·n) that are in any target of their image, equally many of each image: (b·u) and u. An image with
/// fewer repeats its last one.
fn union(targets: &[IndexSet], images: usize, n: usize) -> (Vec<u32>, usize) {
    let of_image = |image: usize| {
        let mut rows: Vec<u32> = targets
            .iter()
            .flat_map(|set| &set.indices[image * set.per_image..][..set.per_image])
            .map(|patch| (image * n) as u32 + patch)
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    };
    let unions: Vec<Vec<u32>> = (0..images).map(of_image).collect();
    let most = unions.iter().map(Vec::len).max().unwrap_or(0);
    let padded = unions.iter().flat_map(|rows| (0..most).map(|i| rows[i.min(rows.len() - 1)]));
    (padded.collect(), most)
}

impl Jepa {
    /// Lays out the networks; they multiply in f32.
    pub fn new(encoder: VitConfig, predictor: PredictorConfig) -> Jepa {
        let mut layout = Layout::default();
        let vit = Vit::declare(&mut layout, "encoder.", encoder);
        let encoder_len = layout.len;
        let predictor = Predictor::declare(&mut layout, "predictor.", predictor, encoder);
        let (target_precision, precision) = (Precision::F32, Precision::F32);
        Jepa { layout, encoder_len, encoder: vit, predictor, target_precision, precision, recompute: false }
    }

    /// Fresh networks, weights with standard deviation `std`; the target encoder begins as a copy of the encoder.
    pub fn init(&self, seed: u64, std: f64) -> State {
        let params = self.layout.init(seed, std);
        let target = Buf::from_slice(&params.as_slice()[..self.encoder_len]);
        let zeros = || Buf::zeros(self.layout.len);
        State { params, target, exp_avg: zeros(), exp_avg_sq: zeros(), step: 0 }
    }

    /// What the target encoder says about the target blocks, layer-normed: (m·k·b·t, d). Masks the *output* of an
    /// encoder that saw every patch.
    pub fn targets(&self, pool: &Pool, target: View, batch: Batch) -> Var {
        let Masks { batch: images, ref context, ref targets } = *batch.masks;
        let n = self.encoder.config.patches();
        let mut tape = Tape::inference(pool, target).in_precision(self.target_precision);
        let index = all_patches(images, n);
        let patches = Patches { images: batch.images, batch: images, index: &index, kept: n };
        let (wanted, per_image) = union(targets, images, n);
        let row = |(i, patch): (usize, &u32), per_target: usize| -> u32 {
            let image = i / per_target;
            let held = &wanted[image * per_image..][..per_image];
            let patch = (image * n) as u32 + patch;
            let at = held.iter().position(|row| *row == patch).expect("the union holds every target");
            (image * per_image + at) as u32
        };
        let rows = |set: &IndexSet| -> Vec<u32> {
            set.indices.iter().enumerate().map(|target| row(target, set.per_image)).collect()
        };
        let rows: Index = targets.iter().flat_map(|set| rows(set).repeat(context.len())).collect(); // (m, k, b, t)
        let tokens = self.encoder.forward_of(&mut tape, patches, Index::from(&wanted[..]));
        let tokens = tape.gather(&tokens, rows);
        tape.layer_norm(&tokens, None, TARGET_NORM_EPS)
    }

    /// What the predictor guesses from the context: (m·k·b·t, d).
    pub fn predict(&self, tape: &mut Tape, batch: Batch) -> Var {
        let Masks { batch: images, ref context, ref targets } = *batch.masks;
        let index: Vec<u32> = context.iter().flat_map(|set| &set.indices).copied().collect(); // (k, b, c)
        let patches = Patches { images: batch.images, batch: images, index: &index, kept: context[0].per_image };
        let tokens = self.encoder.forward(tape, patches); // (k·b·c, d)
        self.predictor.forward(tape, &tokens, context, targets, images)
    }

    /// The loss of a batch (1, 1), and `share` times its gradients in `grads`, a blob laid out as `params`: the batch's share of the
    /// images of its step. They are added to what is there (`add`), or replace it. A GPU may still be at it. `complete` is told from where on
    /// gradients are complete, as in [`Tape::backward_from`].
    pub fn loss_and_gradients(
        &self,
        pool: &Pool,
        (params, grads, add): (&Buf, &mut Buf, bool),
        batch: Batch,
        targets: &Var,
        share: f32,
        complete: impl FnMut(ViewMut, usize),
    ) -> Var {
        let mut tape = Tape::training(pool, params.view(), grads.view_mut())
            .in_precision(self.precision)
            .recomputing(self.recompute)
            .replacing(!add);
        let predictions = self.predict(&mut tape, batch);
        let loss = tape.smooth_l1(&predictions, targets);
        drop(predictions);
        tape.backward_from(&loss, &[share], complete);
        loss
    }
}
