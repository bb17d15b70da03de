//! Which trainings do others report? Their settings as data, with where they come from.
//!
//! I-JEPA's linear evaluations ran in VISSL (commit 04788de9, `configs/config/benchmark/linear_image_classification/…`):
//! features of the last block, and of the last four side by side; heads with and without BatchNorm, all trained at once; the best
//! head on the validation set is reported. Pictures are augmented there (random resized crop and flip), which cached features
//! cannot do.

use super::{HeadConfig, Optimiser, Schedule, Sweep};

/// A training of heads, before it is known how many sets of features there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// What it is called.
    pub name: &'static str,
    /// Where its numbers come from.
    pub source: &'static str,
    /// Learning rates for a batch of 256.
    pub rates: Vec<f64>,
    /// Weight decays.
    pub decays: Vec<f64>,
    /// With BatchNorm, without, or both.
    pub norms: Vec<bool>,
    /// What moves the heads.
    pub optimiser: Optimiser,
    /// How the rate moves.
    pub schedule: Schedule,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Rows a step.
    pub batch: usize,
}

/// VISSL's: BatchNorm is not decayed, biases are (`regularize_bn: False`, `regularize_bias: True`).
const VISSL_SGD: Optimiser = Optimiser::Sgd { nesterov: true, decay_norm: false };

impl Recipe {
    /// For features of some hundred columns and some thousand rows, cached: long, small batches, a wide grid.
    pub fn standard() -> Recipe {
        Recipe {
            name: "default",
            source: "this program",
            rates: vec![1.0, 0.1, 0.01],
            decays: vec![5e-4, 0.0],
            norms: vec![true, false],
            optimiser: VISSL_SGD,
            schedule: Schedule::cosine(0.0),
            epochs: 100,
            batch: 256,
        }
    }

    /// ImageNet-1k with ViT-H/16: LARS, batch 16,384.
    pub fn imagenet() -> Recipe {
        Recipe {
            name: "imagenet",
            source: "VISSL imagenet1k/models/vit_h16_no_cls.yaml",
            rates: vec![0.1, 0.01],
            decays: vec![5e-4, 0.0],
            norms: vec![true, false],
            optimiser: Optimiser::Lars { trust: 0.001 },
            schedule: Schedule::multistep(&[15, 30, 45]),
            epochs: 50,
            batch: 16_384,
        }
    }

    /// CIFAR-100.
    pub fn cifar100() -> Recipe {
        let source = "VISSL cifar100/eval_resnet_8gpu_transfer_cifar100_linear.yaml with models/vit_*_no_cls.yaml";
        Recipe::sgd("cifar100", source, 28, Schedule::multistep(&[8, 16, 24]))
    }

    /// Places205.
    pub fn places205() -> Recipe {
        let source = "VISSL places205/eval_resnet_8gpu_transfer_places205_linear.yaml with models/vit_*_no_cls.yaml";
        Recipe::sgd("places205", source, 14, Schedule::multistep(&[4, 8, 12]))
    }

    /// iNaturalist 2018.
    pub fn inat18() -> Recipe {
        let source =
            "VISSL inaturalist18/eval_resnet_8gpu_transfer_inaturalist18_linear.yaml with models/vit_*_no_cls.yaml";
        Recipe::sgd("inat18", source, 84, Schedule::multistep(&[24, 48, 72]))
    }

    /// Clevr/Count.
    pub fn clevr_count() -> Recipe {
        Recipe::sgd("clevr-count", "VISSL clevr_count/models/vit_*_no_cls.yaml", 50, Schedule::cosine(0.01))
    }

    /// Clevr/Dist.
    pub fn clevr_dist() -> Recipe {
        Recipe::sgd("clevr-dist", "VISSL clevr_dist/models/vit_*_no_cls.yaml", 100, Schedule::cosine(0.01))
    }

    /// All of them.
    pub fn all() -> Vec<Recipe> {
        vec![
            Recipe::standard(),
            Recipe::imagenet(),
            Recipe::cifar100(),
            Recipe::places205(),
            Recipe::inat18(),
            Recipe::clevr_count(),
            Recipe::clevr_dist(),
        ]
    }

    /// VISSL's linear transfer: one rate, one decay, batch 256.
    fn sgd(name: &'static str, source: &'static str, epochs: usize, schedule: Schedule) -> Recipe {
        Recipe {
            name,
            source,
            rates: vec![0.01],
            decays: vec![5e-4],
            norms: vec![true, false],
            optimiser: VISSL_SGD,
            schedule,
            epochs,
            batch: 256,
        }
    }

    /// The whole grid over `sets` sets of features: set by set, then norm, rate and decay.
    pub fn sweep(&self, sets: usize, seed: u64) -> Sweep {
        let mut heads = Vec::new();
        for set in 0..sets {
            for &norm in &self.norms {
                for &rate in &self.rates {
                    heads.extend(self.decays.iter().map(|&decay| HeadConfig { set, norm, rate, decay }));
                }
            }
        }
        Sweep {
            heads,
            optimiser: self.optimiser,
            schedule: self.schedule.clone(),
            epochs: self.epochs,
            batch: self.batch,
            seed,
        }
    }
}
