//! With which settings is a network trained on labels? Published recipes, and one for small encoders.

use anyhow::Result;
use ijepa_data::transform::{Erased, Mixup, RandAugment, RandomErasing};
use ijepa_data::{Filter, Normalisation, TuneTransform};
use serde::Serialize;

use crate::cli::{RecipeArgs, RecipeName};
use crate::exit::Failure;

/// Settings of fine-tuning. Durations are in epochs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Recipe {
    pub(crate) epochs: f64,
    pub(crate) warmup: f64,
    pub(crate) batch: usize,
    /// Learning rate for 256 images of a batch.
    pub(crate) lr: f64,
    pub(crate) final_lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) layer_decay: f64,
    pub(crate) drop_path: f64,
    pub(crate) smoothing: f64,
    pub(crate) mixup: f64,
    pub(crate) cutmix: f64,
    /// Smallest share of the area in a crop.
    pub(crate) crop_scale: f64,
    /// In timm's form.
    pub(crate) rand_augment: Option<String>,
    /// Share of the pictures that lose a rectangle.
    pub(crate) erase: f64,
    /// Share of a moving average that stays at each step.
    pub(crate) ema: Option<f64>,
}

/// Settings of the training with images without labels. Durations are in epochs of those.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Semi {
    pub(crate) epochs: f64,
    pub(crate) warmup: f64,
    /// Labelled images of a batch.
    pub(crate) batch: usize,
    /// Learning rate for 256 of them.
    pub(crate) lr: f64,
    /// Share of the teacher that stays at each step.
    pub(crate) teacher: f64,
    pub(crate) threshold: f64,
    /// Images without labels for each one with a label.
    pub(crate) mu: usize,
    /// Weight of their loss.
    pub(crate) lambda: f64,
    pub(crate) mixed: bool,
    /// Smallest share of the area in a crop for the teacher.
    pub(crate) weak_scale: f64,
    /// Whether the teacher's guesses are as frequent as the labels.
    pub(crate) aligned: bool,
}

/// MAE's form of RandAugment, in all published recipes.
const RAND_AUGMENT: &str = "rand-m9-mstd0.5-inc1";

/// Widths from which on an encoder counts as ViT-L and as ViT-H.
const LARGE: usize = 1024;
const HUGE: usize = 1280;

impl Recipe {
    /// timm's smallest share of the area in a crop.
    const CROP_SCALE: f64 = 0.08;

    /// The recipe of that name for an encoder of that width.
    pub(crate) fn named(name: RecipeName, width: usize) -> Recipe {
        // What the published recipes share: PRETRAIN.md and FINETUNE.md of github.com/facebookresearch/mae.
        let mae = Recipe {
            epochs: 50.0,
            warmup: 5.0,
            batch: 1024,
            lr: 1e-3,
            final_lr: 1e-6,
            weight_decay: 0.05,
            layer_decay: 0.75,
            drop_path: 0.2,
            smoothing: 0.1,
            mixup: 0.8,
            cutmix: 1.0,
            crop_scale: Recipe::CROP_SCALE,
            rand_augment: Some(RAND_AUGMENT.to_owned()),
            erase: 0.25,
            ema: None,
        };
        let plain = Recipe { drop_path: 0.0, mixup: 0.0, cutmix: 0.0, erase: 0.0, ..mae.clone() };
        match name {
            RecipeName::Mae if width >= HUGE => Recipe { drop_path: 0.3, ..mae },
            RecipeName::Mae if width >= LARGE => mae,
            RecipeName::Mae => Recipe { epochs: 100.0, lr: 5e-4, layer_decay: 0.65, drop_path: 0.1, ..mae },
            // arXiv 2301.08243, appendix A.2: a learning rate of 3e-5 at batch 512; weight decay 0.05 for L, 0.4 for H. The warm-up is
            // not stated; MAE's.
            RecipeName::IjepaOnePercent => {
                let weight_decay = if width >= HUGE { 0.4 } else { 0.05 };
                Recipe { batch: 512, lr: 3e-5 * 256.0 / 512.0, weight_decay, ..plain }
            }
            // arXiv 2301.08243, appendix D; batch 528 is what it says.
            RecipeName::IjepaFull => {
                Recipe { batch: 528, lr: 1e-4, weight_decay: 0.04, drop_path: 0.25, erase: 0.0, ..mae }
            }
            // Chosen on Imagenette and CIFAR-10 with encoders of 96 × 4 blocks: docs/finetune.md has the figures.
            RecipeName::Small => Recipe { epochs: 100.0, batch: 32, lr: 8e-3, crop_scale: 0.3, ..plain },
        }
    }

    /// The recipe that was asked for.
    pub(crate) fn of(args: &RecipeArgs, ema: Option<f64>, width: usize) -> Result<Recipe> {
        let base = Recipe::named(args.recipe, width);
        let rand_augment = match args.rand_augment.as_deref() {
            None => base.rand_augment,
            Some("none") => None,
            Some(form) => Some(form.to_owned()),
        };
        let recipe = Recipe {
            epochs: args.epochs.unwrap_or(base.epochs),
            warmup: args.warmup.unwrap_or(base.warmup),
            batch: args.batch.unwrap_or(base.batch),
            lr: args.lr.unwrap_or(base.lr),
            final_lr: base.final_lr,
            weight_decay: args.weight_decay.unwrap_or(base.weight_decay),
            layer_decay: args.layer_decay.unwrap_or(base.layer_decay),
            drop_path: args.drop_path.unwrap_or(base.drop_path),
            smoothing: args.smoothing.unwrap_or(base.smoothing),
            mixup: args.mixup.unwrap_or(base.mixup),
            cutmix: args.cutmix.unwrap_or(base.cutmix),
            crop_scale: args.crop_scale.unwrap_or(base.crop_scale),
            rand_augment,
            erase: args.erase.unwrap_or(base.erase),
            ema: ema.or(base.ema),
        };
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        for (flag, value) in [
            ("--epochs", self.epochs),
            ("--warmup", self.warmup),
            ("--lr", self.lr),
            ("--weight-decay", self.weight_decay),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Failure::usage(format!("{flag} {value}: a number of at least 0 is expected")).into());
            }
        }
        if self.drop_path >= 1.0 {
            return Err(Failure::usage("--drop-path 1: a share below 1 is expected, something must be left").into());
        }
        self.mixing().validate()?;
        self.view((1, 1), Normalisation::default())?.validate()?;
        Ok(())
    }

    /// How labelled batches are mixed.
    pub(crate) fn mixing(&self) -> Mixup {
        Mixup {
            mixup_alpha: self.mixup,
            cutmix_alpha: self.cutmix,
            label_smoothing: self.smoothing,
            ..Mixup::default()
        }
    }

    /// How a labelled image is seen: cut, mirrored, changed, erased.
    pub(crate) fn view(&self, size: (usize, usize), normalisation: Normalisation) -> Result<TuneTransform> {
        let rand_augment = self.rand_augment.as_deref().map(|form| RandAugment::parse(form, &normalisation));
        Ok(TuneTransform {
            rand_augment: rand_augment.transpose()?,
            erasing: erasing(self.erase),
            ..self.plain_view(size, normalisation)
        })
    }

    /// The same without changes: cut and mirrored.
    pub(crate) fn plain_view(&self, size: (usize, usize), normalisation: Normalisation) -> TuneTransform {
        TuneTransform {
            size,
            crop_scale: (self.crop_scale, 1.0),
            filter: Filter::Bicubic,
            horizontal_flip: true,
            rand_augment: None,
            erasing: None,
            normalisation,
        }
    }

    /// How a student sees an image without a label: changed by RandAugment and erased, whatever the recipe does to labelled ones
    /// (Semi-ViT's defaults).
    pub(crate) fn strong_view(&self, size: (usize, usize), normalisation: Normalisation) -> Result<TuneTransform> {
        let form = self.rand_augment.as_deref().unwrap_or(RAND_AUGMENT);
        let erase = if self.erase > 0.0 { self.erase } else { RandomErasing::default().probability };
        let rand_augment = Some(RandAugment::parse(form, &normalisation)?);
        Ok(TuneTransform { rand_augment, erasing: erasing(erase), ..self.plain_view(size, normalisation) })
    }
}

fn erasing(probability: f64) -> Option<RandomErasing> {
    (probability > 0.0).then(|| RandomErasing { probability, mode: Erased::Pixel, ..RandomErasing::default() })
}

impl Semi {
    /// The published settings (arXiv 2208.05688; SEMIVIT.md of github.com/amazon-science/semi-vit), and those for small encoders.
    pub(crate) fn named(name: RecipeName, width: usize) -> Semi {
        let published = Semi {
            epochs: 100.0,
            warmup: 5.0,
            batch: 128,
            lr: 1e-3,
            teacher: 0.9999,
            threshold: 0.6,
            mu: 5,
            lambda: 5.0,
            mixed: true,
            weak_scale: Recipe::CROP_SCALE,
            aligned: false,
        };
        match name {
            // A run of a few hundred steps would end before a teacher of 0.9999 has moved. A weak encoder's guesses are right half of the
            // time: without alignment they get worse, and mixing takes longer to pay. docs/finetune.md has the figures.
            RecipeName::Small => Semi {
                epochs: 10.0,
                warmup: 1.0,
                batch: 32,
                lr: 1e-2,
                teacher: 0.99,
                threshold: 0.5,
                lambda: 4.0,
                mixed: false,
                weak_scale: 0.7,
                aligned: true,
                ..published
            },
            _ if width >= HUGE => Semi { epochs: 50.0, lr: 5e-3, threshold: 0.7, ..published },
            _ => published,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [RecipeName; 4] =
        [RecipeName::Small, RecipeName::IjepaOnePercent, RecipeName::IjepaFull, RecipeName::Mae];

    #[test]
    fn every_recipe_is_possible_for_every_encoder() {
        for name in NAMES {
            for width in [96, 192, 768, 1024, 1280, 1408] {
                Recipe::named(name, width).check().unwrap_or_else(|error| panic!("{name:?}, {width}: {error}"));
                assert!((0.0..=1.0).contains(&Semi::named(name, width).threshold));
            }
        }
    }

    #[test]
    fn the_papers_learning_rate_is_that_of_its_batch() {
        let recipe = Recipe::named(RecipeName::IjepaOnePercent, 1024);
        assert!((recipe.lr * recipe.batch as f64 / 256.0 - 3e-5).abs() < 1e-12);
    }

    #[test]
    fn strong_views_are_changed_and_erased_whatever_the_recipe_does_to_labelled_ones() {
        let plain = Recipe { rand_augment: None, erase: 0.0, ..Recipe::named(RecipeName::Small, 96) };
        let normalisation = Normalisation::default();
        let view = plain.view((8, 8), normalisation).expect("it is right");
        assert_eq!(view, plain.plain_view((8, 8), normalisation));
        let strong = plain.strong_view((8, 8), normalisation).expect("it is right");
        assert!(strong.rand_augment.is_some() && strong.erasing.is_some());
    }
}
