//! How much memory does a step hold at most, and for what?
//!
//! Counted from what the tape keeps for the way back, block by block, and from what the pool holds besides; docs/LOG.md has the errors
//! against measured peaks.

use ijepa_model::Jepa;
use serde::Serialize;

use super::work::Sizes;

/// How numbers are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Precision {
    /// Everything in f32: this program on the CPU.
    F32,
    /// Activations and a copy of the weights in bf16; weights, gradients, moments and average in f32.
    Mixed,
}

/// Bytes of one device, by part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Memory {
    /// Encoder and predictor.
    pub(crate) weights: f64,
    pub(crate) gradients: f64,
    /// Both of AdamW's.
    pub(crate) moments: f64,
    pub(crate) target_encoder: f64,
    /// What is kept from the forward pass for the way back.
    pub(crate) activations: f64,
    /// What comes and goes: a block's results in the target encoder, a block's gradients on the way back.
    pub(crate) workspace: f64,
    /// Batches on their way, and where products are prepared.
    pub(crate) images: f64,
    /// The program and its libraries.
    pub(crate) program: f64,
}

/// What memory depends on besides the sizes of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) precision: Precision,
    /// Whether blocks keep their input alone.
    pub(crate) recompute: bool,
    /// Devices that share the moments; 1 where each has all of them.
    pub(crate) shards: usize,
    /// Batches that are held at a time; more than one come from a loader.
    pub(crate) batches: usize,
    /// Whether masks differ in length from batch to batch.
    pub(crate) varying: bool,
    /// Threads that compute.
    pub(crate) threads: usize,
}

/// The program itself, a pool of threads and an allocator that keeps what was freed; measured.
const PROGRAM: f64 = 30e6;
/// The list of images, pictures in the making, logs: what a run of small pictures holds beyond `bench step`; measured.
const LOADER: f64 = 45e6;
/// Buffers of other lengths that wait in the pool, beside those in use: measured on runs whose masks differ in length.
const VARYING: f64 = 1.12;
/// Memory of a GPU that goes round has an eighth more than was asked for first, so that it serves again; with it the memory of three small
/// models, with and without recomputing, on what stands for a GPU in tests was within 4 % (docs/LOG.md).
const ROOM: f64 = 1.125;
/// What products are prepared in, of each thread: blocks of both operands (ijepa-tensor's `gemm`).
const PACKED: f64 = 3.5e6;
/// CUDA context and cuBLASLt's workspace; assumed.
const LIBRARIES: f64 = 1.5e9;

impl Memory {
    /// The most that a step of these sizes holds.
    pub(crate) fn of(sizes: &Sizes, model: &Jepa, setting: &Setting) -> Memory {
        let (all, encoder) = (model.layout.len as f64, model.encoder_len as f64);
        let image = sizes.encoder.channels * sizes.encoder.image.0 * sizes.encoder.image.1 * sizes.batch;
        let pixel = if setting.precision == Precision::Mixed { 2.0 } else { 4.0 };
        let images = pixel * (image * setting.batches) as f64;
        // Of a value: in f32 everything is one thing of 4 bytes, in mixed precision a bf16 copy stands beside it.
        let (copy, activation, program) = match setting.precision {
            Precision::F32 => {
                let loader = if setting.batches > 1 { LOADER } else { 0.0 };
                (
                    0.0,
                    if setting.varying { 4.0 * VARYING } else { 4.0 },
                    PROGRAM + loader + PACKED * setting.threads as f64,
                )
            }
            Precision::Mixed => (2.0, 2.0 * ROOM, LIBRARIES),
        };
        let kept = kept(sizes, setting);
        Memory {
            weights: all * (4.0 + copy),
            gradients: all * 4.0,
            moments: all * 8.0 / setting.shards as f64,
            target_encoder: encoder * (4.0 + copy),
            activations: activation * kept.activations,
            workspace: activation * kept.workspace,
            images,
            program,
        }
    }

    /// All parts.
    pub(crate) fn total(&self) -> f64 {
        let Memory { weights, gradients, moments, target_encoder, activations, workspace, images, program } = self;
        weights + gradients + moments + target_encoder + activations + workspace + images + program
    }
}

/// Values, not bytes.
struct Kept {
    activations: f64,
    workspace: f64,
}

/// Values of a token that a block keeps: its input, queries, keys and values, attention's result, the input of the MLP and its hidden
/// values. Layer norm and GELU are applied where a product reads its operand, and again on the way back.
fn of_token(width: usize, hidden: usize) -> f64 {
    (6 * width + hidden) as f64
}

fn kept(sizes: &Sizes, setting: &Setting) -> Kept {
    let encoder = &sizes.encoder;
    let (width, guess) = (encoder.width as f64, sizes.predictor.width as f64);
    let (context, predictor, targets) = (sizes.context_rows(), sizes.predictor_rows(), sizes.target_rows());
    let encoder_block = context * of_token(encoder.width, encoder.hidden);
    let predictor_block = predictor * of_token(sizes.predictor.width, 4 * sizes.predictor.width);
    // The last block computes mask tokens only, but for keys and values.
    let last_block = predictor * 3.0 * guess + targets * of_token(sizes.predictor.width, 4 * sizes.predictor.width);
    let (depth, guess_depth) = (encoder.depth as f64, sizes.predictor.depth as f64);
    let blocks = match setting.recompute {
        false => depth * encoder_block + (guess_depth - 1.0) * predictor_block + last_block.min(predictor_block),
        // Every block's input, and one block whole.
        true => depth * context * width + guess_depth * predictor * guess + encoder_block.max(predictor_block),
    };
    let pixels = (encoder.channels * encoder.patch * encoder.patch) as f64 * context;
    // Around the blocks: final norms read one value and give another; targets and guesses of them.
    let ends = 2.0 * context * width + targets * (2.0 * guess + 2.0 * width);
    // A block of the target encoder at work, and the gradients of a block of the predictor or encoder.
    let all_patches = (sizes.batch * encoder.patches()) as f64;
    let forward = all_patches * (7.0 * width + encoder.hidden as f64);
    let backward = (predictor * 6.0 * guess).max(context * (2.0 * width + encoder.hidden as f64));
    Kept { activations: blocks + pixels + ends, workspace: forward + backward }
}
