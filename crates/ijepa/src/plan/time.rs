//! How long does a step take, and what goes over the network meanwhile?

use ijepa_model::Jepa;
use serde::Serialize;

use super::device::Device;
use super::work::{Sizes, Work};
use super::{How, Manner};
use crate::config::Bfloat16;

/// On a CPU products and what is fused with them take this many times as long as at the measured peak, plus this for each of
/// 1/width: the passes over values beside a product weigh more, the fewer multiply-adds a value has. Fitted to steps of seven models of
/// widths 48 to 1280, on Zen 4, most of them within a tenth (docs/LOG.md).
pub(crate) const CPU_SLOWER: (f64, f64) = (1.10, 45.0);
/// Share of the time in f32 that a network takes in bfloat16 on a CPU: 0.60 at S3, 0.66 at S2, 0.69 at S1, on Zen 4 (docs/LOG.md).
pub(crate) const CPU_BFLOAT16: f64 = 0.65;
/// Share of the published dense bf16 peak that a step is to reach on a GPU. Assumed: published trainings of transformers reach 0.29
/// to 0.50 (NeMo ViT-g on H100, llm.c on H100).
pub(crate) const GPU_SHARE: f64 = 0.40;

/// Share of the peak that products reach, and who says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Share {
    /// Measured on CPUs, by the width of a network.
    ByWidth,
    /// Of a card.
    Assumed(f64),
    /// The user's.
    Given(f64),
}

impl Share {
    /// For a network of this width.
    pub(crate) fn of(self, width: usize) -> f64 {
        match self {
            Share::ByWidth => 1.0 / (CPU_SLOWER.0 + CPU_SLOWER.1 / width as f64),
            Share::Assumed(share) | Share::Given(share) => share,
        }
    }
}

/// Share of the published bandwidth of links and network that a reduction reaches. Assumed; NCCL's own test measures 0.98 of both on
/// good machines.
pub(crate) const LINK_SHARE: f64 = 0.80;
/// A core's seconds for an image, and for each pixel of its crop: JPEG with 3.7 times as many pixels as the crop (500×375 for
/// 224), decoded, cut, resized and normalised. Measured by us on Zen 4 (docs/LOG.md).
pub(crate) const IMAGE_SECONDS: (f64, f64) = (25e-6, 26e-9);

/// Bytes that AdamW and the moving average read and write for a parameter, on a CPU; the norm of gradients goes with it.
const CPU_OPTIMISER: f64 = 40.0;
/// On a GPU: AdamW moves parameters and moments (28), the moving average follows, and both have rounded copies (14); the norm of
/// gradients (4). Where parameters that others have moved arrive, they are read once more (4).
const GPU_OPTIMISER: [f64; 4] = [28.0, 14.0, 4.0, 4.0];

/// Bytes for a parameter on one of the devices, and those that are read and written while parameters arrive from others.
fn optimiser_bytes(device: &Device, shard_optimizer: bool) -> (f64, f64) {
    let [moved, followed, measured, read] = GPU_OPTIMISER;
    match device {
        Device::Cpu(_) => (CPU_OPTIMISER, 0.0),
        Device::Gpus(gpus) if shard_optimizer && gpus.count > 1 => {
            (moved / gpus.count as f64 + measured, followed + read)
        }
        Device::Gpus(_) => (moved + followed + measured, 0.0),
    }
}

/// Seconds of a step, by part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Time {
    /// Matrix products and all that is fused with them.
    pub(crate) products: f64,
    /// AdamW and the moving average, bound by memory.
    pub(crate) optimiser: f64,
    /// Decoding and cutting images on the cores that compute; nothing where a GPU computes.
    pub(crate) images: f64,
    /// What shows of exchanging gradients and parameters: what the way back does not hide.
    pub(crate) exchange: f64,
}

/// What a device sends in a step, and takes in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Traffic {
    /// Gradients in f32 to whoever owns them, and what they make of them, parameters or sums, in f32 back.
    pub(crate) bytes: f64,
    /// How long that takes.
    pub(crate) seconds: f64,
}

impl Traffic {
    /// The traffic of a step, by rings: each device sends (n − 1)/n of all values twice.
    pub(crate) fn of(model: &Jepa, device: &Device) -> Traffic {
        let others = (device.count() - 1) as f64 / device.count() as f64;
        let bytes = model.layout.len as f64 * others * 8.0;
        Traffic { bytes, seconds: bytes / (device.link() * LINK_SHARE) }
    }

    /// Seconds of it that show: the way back hides the way of gradients to their owners, but for the last bucket's. What comes back hides what is
    /// done with it.
    fn shown(&self, backward: f64, last_bucket: f64, meanwhile: f64) -> f64 {
        let half = self.seconds / 2.0;
        (half - backward).max(half * last_bucket) + half.max(meanwhile)
    }
}

impl Time {
    /// The time of a step, with or without computing blocks again on the way back.
    pub(crate) fn of(sizes: &Sizes, work: &Work, model: &Jepa, how: How, manner: Manner) -> Time {
        let How { device, share } = how;
        let seconds = |flop: f64, width: usize| flop / (device.peak() * share.of(width));
        let halved = |half: bool| if half && matches!(device, Device::Cpu(_)) { CPU_BFLOAT16 } else { 1.0 };
        let (target, learnt) = (halved(manner.bfloat16 != Bfloat16::None), halved(manner.bfloat16 == Bfloat16::All));
        let (encoder, predictor) = (sizes.encoder.width, sizes.predictor.width);
        let learning = learnt * (seconds(work.encoder, encoder) + seconds(work.predictor, predictor));
        let again = match manner.recompute {
            true => learnt * (seconds(work.encoder_again, encoder) + seconds(work.predictor_again, predictor)),
            false => 0.0,
        };
        let backward = learning * 2.0 / 3.0 + again;
        let values = model.layout.len as f64;
        let (optimiser, meanwhile) = optimiser_bytes(device, manner.shard_optimizer);
        let last_bucket = (manner.bucket_bytes / (4.0 * values)).min(1.0);
        let batches = manner.accumulate as f64;
        let images = match device {
            Device::Cpu(cpu) => batches * sizes.batch as f64 * image_seconds(sizes) / cpu.threads as f64,
            Device::Gpus(_) => 0.0,
        };
        Time {
            products: batches * (target * seconds(work.target_encoder, encoder) + learning + again),
            optimiser: values * optimiser / device.bandwidth(),
            images,
            exchange: Traffic::of(model, device).shown(backward, last_bucket, values * meanwhile / device.bandwidth()),
        }
    }

    /// All of a step.
    pub(crate) fn total(&self) -> f64 {
        self.products + self.optimiser + self.images + self.exchange
    }
}

/// Seconds of one core for one image.
pub(crate) fn image_seconds(sizes: &Sizes) -> f64 {
    let (height, width) = sizes.encoder.image;
    IMAGE_SECONDS.0 + IMAGE_SECONDS.1 * (height * width) as f64
}
