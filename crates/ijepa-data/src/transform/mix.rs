//! How are images of a batch mixed with each other, and what are their labels then? Mixup (Zhang et al. 2017,
//! <https://arxiv.org/abs/1710.09412>) and CutMix (Yun et al. 2019, <https://arxiv.org/abs/1905.04899>) as timm has them for whole
//! batches: image i of b is mixed with image b − 1 − i, all of a batch in the same way.

use rand_chacha::ChaCha8Rng;

use super::CropBox;
use crate::error::DataError;
use crate::key::{below, beta, uniform};

/// How batches are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixup {
    /// Images are blended in shares drawn from Beta(alpha, alpha); 0 for never.
    pub mixup_alpha: f64,
    /// A rectangle is exchanged whose share of the area is drawn from Beta(alpha, alpha); 0 for never.
    pub cutmix_alpha: f64,
    /// Share of the batches that are mixed at all.
    pub probability: f64,
    /// Where both are possible, the share of them that exchange a rectangle.
    pub switch_probability: f64,
    /// The part of a label that is spread evenly over all classes.
    pub label_smoothing: f64,
}

impl Default for Mixup {
    /// The settings of fine-tuning recipes.
    fn default() -> Mixup {
        Mixup { mixup_alpha: 0.8, cutmix_alpha: 1.0, probability: 1.0, switch_probability: 0.5, label_smoothing: 0.1 }
    }
}

/// What is done to the images of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mix {
    /// Nothing.
    Apart,
    /// share·image + (1 − share)·partner.
    Blended {
        /// The image's own share.
        share: f64,
    },
    /// The partner's pixels in this rectangle, which may be empty.
    Cut {
        /// Where.
        part: CropBox,
        /// The image's own share: that of the pixels outside the rectangle.
        share: f64,
    },
}

impl Mixup {
    /// Refuses settings that cannot be met.
    pub fn validate(&self) -> Result<(), DataError> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let alpha = |value: f64| value == 0.0 || (0.01..=100.0).contains(&value);
        if alpha(self.mixup_alpha)
            && alpha(self.cutmix_alpha)
            && share(self.probability)
            && share(self.switch_probability)
            && share(self.label_smoothing)
        {
            return Ok(());
        }
        Err(DataError::Setting {
            what: "data.mixup",
            got: format!("{self:?}"),
            wanted: "alphas of 0 or 0.01 to 100, and shares of 0 to 1 are expected".into(),
        })
    }

    /// What is done to a batch of images of `height`×`width` pixels.
    pub fn draw(&self, (height, width): (usize, usize), rng: &mut ChaCha8Rng) -> Mix {
        let possible = (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0);
        if possible == (false, false) || uniform(rng) >= self.probability {
            return Mix::Apart;
        }
        let cut = match possible {
            (true, true) => uniform(rng) < self.switch_probability,
            (_, cut) => cut,
        };
        let alpha = if cut { self.cutmix_alpha } else { self.mixup_alpha };
        let share = beta(rng, alpha);
        if !cut {
            return Mix::Blended { share };
        }
        // The rectangle lies about a place anywhere in the image, so a part of it may be lost beyond the edge: then the share is
        // that of what is left.
        let mut span = |length: usize| {
            let half = (length as f64 * (1.0 - share).sqrt()) as usize / 2;
            let centre = below(rng, length as u64) as usize;
            (centre.saturating_sub(half), (centre + half).min(length))
        };
        let ((top, bottom), (left, right)) = (span(height), span(width));
        let part = CropBox { left, top, width: right - left, height: bottom - top };
        Mix::Cut { part, share: 1.0 - (part.width * part.height) as f64 / (height * width) as f64 }
    }

    /// What the images are to be taken for, each row a distribution over the classes.
    ///
    /// # Panics
    /// When a label is not below `classes`.
    pub fn targets(&self, mix: Mix, labels: &[u32], classes: usize) -> Vec<f32> {
        let off = self.label_smoothing / classes as f64;
        let (off, on) = (off as f32, (1.0 - self.label_smoothing + off) as f32);
        let (own, other) = (mix.share() as f32, (1.0 - mix.share()) as f32);
        let value = |label: u32, class: usize| if label as usize == class { on } else { off };
        let mut targets = Vec::with_capacity(labels.len() * classes); // (b, classes)
        for (&label, &partner) in labels.iter().zip(labels.iter().rev()) {
            assert!((label as usize) < classes, "label {label} of {classes} classes");
            targets.extend((0..classes).map(|class| value(label, class) * own + value(partner, class) * other));
        }
        targets
    }
}

impl Mix {
    /// An image's own share in itself.
    pub fn share(self) -> f64 {
        match self {
            Mix::Apart => 1.0,
            Mix::Blended { share } | Mix::Cut { share, .. } => share,
        }
    }

    /// Mixes the images of a batch (b, 3, h, w). Of an odd number the middle one is its own partner.
    pub fn apply(self, images: &mut [f32], (height, width): (usize, usize)) {
        let length = 3 * height * width;
        assert!(length > 0 && images.len().is_multiple_of(length), "a batch is (b, 3, {height}, {width}) values");
        let pairs = images.len() / length / 2;
        let at = images.len() - pairs * length;
        let (rest, last) = images.split_at_mut(at);
        for (image, partner) in rest.chunks_exact_mut(length).zip(last.chunks_exact_mut(length).rev()) {
            match self {
                Mix::Apart => (),
                Mix::Blended { share } => {
                    let (own, other) = (share as f32, (1.0 - share) as f32);
                    for (a, b) in image.iter_mut().zip(partner) {
                        (*a, *b) = (*a * own + *b * other, *b * own + *a * other);
                    }
                }
                Mix::Cut { part, .. } => exchange(image, partner, part, (height, width)),
            }
        }
    }
}

fn exchange(image: &mut [f32], partner: &mut [f32], part: CropBox, (height, width): (usize, usize)) {
    for channel in 0..3 {
        for row in part.top..part.top + part.height {
            let from = (channel * height + row) * width + part.left;
            image[from..from + part.width].swap_with_slice(&mut partner[from..from + part.width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Purpose};

    fn batch(images: usize, (height, width): (usize, usize)) -> Vec<f32> {
        (0..images * 3 * height * width).map(|k| k as f32 * 0.37 - 11.0).collect()
    }

    #[test]
    fn blending_is_a_weighted_mean_with_the_reversed_batch() {
        let before = batch(4, (2, 3));
        let mut after = before.clone();
        Mix::Blended { share: 0.75 }.apply(&mut after, (2, 3));
        for image in 0..4 {
            for k in 0..18 {
                let expected = before[image * 18 + k] * 0.75 + before[(3 - image) * 18 + k] * 0.25;
                assert_eq!(after[image * 18 + k], expected);
            }
        }
    }

    #[test]
    fn cutting_takes_the_partners_pixels_in_the_rectangle_alone() {
        let before = batch(3, (4, 5));
        let mut after = before.clone();
        let part = CropBox { left: 1, top: 2, width: 3, height: 2 };
        Mix::Cut { part, share: 0.7 }.apply(&mut after, (4, 5));
        for (k, &value) in after.iter().enumerate() {
            let (image, row, column) = (k / 60, k / 5 % 4, k % 5);
            let inside = (2..4).contains(&row) && (1..4).contains(&column);
            let from = if inside { (2 - image) * 60 + k % 60 } else { k };
            assert_eq!(value, before[from]);
        }
    }

    #[test]
    fn targets_are_distributions_that_know_both_labels() {
        let mixup = Mixup { label_smoothing: 0.1, ..Mixup::default() };
        let targets = mixup.targets(Mix::Blended { share: 0.7 }, &[0, 2, 2], 4);
        // off = 0.025, on = 0.925.
        let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-6;
        assert!(near(targets[0], 0.7 * 0.925 + 0.3 * 0.025), "{targets:?}");
        assert!(near(targets[2], 0.7 * 0.025 + 0.3 * 0.925), "{targets:?}");
        assert!(near(targets[6], 0.925) && near(targets[5], 0.025), "{targets:?}");
        assert!(targets.chunks_exact(4).all(|row| near(row.iter().sum(), 1.0)));
    }

    #[test]
    fn half_of_the_batches_are_cut_and_the_shares_are_those_of_the_pixels() {
        let (mut cuts, mut blended) = (0, 0.0);
        for step in 0..2000 {
            match Mixup::default().draw((24, 40), &mut Key::new(0, Purpose::Mix, step, 0).rng()) {
                Mix::Cut { part, share } => {
                    cuts += 1;
                    assert!(part.left + part.width <= 40 && part.top + part.height <= 24);
                    assert_eq!(share, 1.0 - (part.width * part.height) as f64 / 960.0);
                }
                Mix::Blended { share } => blended += share,
                Mix::Apart => panic!("each batch is mixed"),
            }
        }
        assert!((900..1100).contains(&cuts), "{cuts}");
        let mean = blended / f64::from(2000 - cuts);
        assert!((0.46..0.54).contains(&mean), "{mean}");
    }

    #[test]
    fn without_alphas_nothing_is_mixed_and_wrong_numbers_are_refused() {
        let never = Mixup { mixup_alpha: 0.0, cutmix_alpha: 0.0, ..Mixup::default() };
        never.validate().expect("good");
        assert_eq!(never.draw((8, 8), &mut Key::new(0, Purpose::Mix, 0, 0).rng()), Mix::Apart);
        for bad in [
            Mixup { mixup_alpha: -0.1, ..never },
            Mixup { probability: 2.0, ..never },
            Mixup { label_smoothing: f64::NAN, ..never },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
