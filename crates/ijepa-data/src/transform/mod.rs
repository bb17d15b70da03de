//! How does a picture become what the model takes?
//!
//! Pretraining, in this order: random resized crop, horizontal flip, colour distortion, Gaussian blur, normalisation; all but
//! the first and the last are off in the published runs of the method. Evaluation: shorter side to 256/224 of the crop,
//! centre crop, normalisation. Up to the normalisation everything is 8 bits a channel, and every byte is Pillow's.
//!
//! Fine-tuning has more to choose from: [`random_resized_crop`] and [`resize`] with either [`Filter`], [`flip`],
//! [`RandAugment`] or [`ColourJitter`], [`Op::Blur`], [`Normalisation`], [`RandomErasing`], and [`Mixup`] for the whole batch;
//! [`TuneTransform`] strings them together.

mod affine;
mod blur;
mod colour;
mod crop;
mod erase;
mod mix;
mod op;
mod rand_augment;
mod resize;
mod tone;
mod tune;

use rand_chacha::ChaCha8Rng;

pub use colour::ColourJitter;
pub use crop::{CropBox, random_resized_crop};
pub use erase::{Erased, RandomErasing};
pub use mix::{Mix, Mixup};
pub use op::{Move, Op};
pub use rand_augment::RandAugment;
pub use resize::{Filter, Region, Span, resize, resize_part};
pub use tune::TuneTransform;

use crate::error::DataError;
use crate::key::{between, uniform};
use crate::picture::Picture;

/// value = (byte/255 − mean) / std, for red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// What is subtracted, on the scale 0 to 1.
    pub mean: [f32; 3],
    /// What is divided by.
    pub std: [f32; 3],
}

impl Default for Normalisation {
    /// The channel statistics of ImageNet that the field uses.
    fn default() -> Normalisation {
        Normalisation { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

/// Random crops and distortions for training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainTransform {
    /// Side of the square that comes out, in pixels.
    pub crop_size: usize,
    /// Share of the picture's area in a crop: least, most.
    pub crop_scale: (f32, f32),
    /// Mirror every second picture.
    pub horizontal_flip: bool,
    /// Colour jitter on four of five pictures, then grey on one of five.
    pub color_distortion: bool,
    /// Strength of the colour jitter; 0 leaves only the grey.
    pub color_jitter_strength: f32,
    /// Blur every second picture.
    pub gaussian_blur: bool,
    /// Decode a JPEG at a half, a quarter or an eighth where the crop then is still no smaller than `crop_size`: quicker, with other pixels.
    pub scaled_decoding: bool,
    /// From bytes to values.
    pub normalisation: Normalisation,
}

/// What becomes of a picture of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// It keeps its proportions, and what is over is cut off on both sides.
    #[default]
    Cut,
    /// All of it is kept, and proportions change: for counting, what lies at the edge counts too.
    Squash,
}

/// The same view of a picture every time, for evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalTransform {
    /// Height and width of what comes out, in pixels.
    pub crop: (usize, usize),
    /// How the picture is resized; the reference of the method takes the bilinear one.
    pub filter: Filter,
    /// What becomes of pictures of another shape.
    pub fit: Fit,
    /// From bytes to values.
    pub normalisation: Normalisation,
}

impl Normalisation {
    /// Writes a picture channel by channel into `out` (3, h, w).
    pub fn apply(&self, out: &mut [f32], picture: &Picture) {
        let pixels = picture.width * picture.height;
        assert_eq!(out.len(), 3 * pixels, "a {}×{} picture becomes (3, h, w) values", picture.width, picture.height);
        let (red, rest) = out.split_at_mut(pixels);
        let (green, blue) = rest.split_at_mut(pixels);
        let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| {
            std::array::from_fn(|byte| (byte as f32 / 255.0 - self.mean[channel]) / self.std[channel])
        });
        let values = red.iter_mut().zip(green).zip(blue);
        for (((red, green), blue), pixel) in values.zip(picture.rgb.as_chunks::<3>().0) {
            *red = tables[0][usize::from(pixel[0])];
            *green = tables[1][usize::from(pixel[1])];
            *blue = tables[2][usize::from(pixel[2])];
        }
    }

    fn validate(&self) -> Result<(), DataError> {
        if self.std.iter().all(|&std| std > 0.0 && std.is_finite()) && self.mean.iter().all(|mean| mean.is_finite()) {
            return Ok(());
        }
        Err(DataError::Setting {
            what: "data.std",
            got: format!("{:?} (with data.mean {:?})", self.std, self.mean),
            wanted: "three finite means and three positive deviations are expected".into(),
        })
    }
}

impl TrainTransform {
    /// Refuses settings that no picture can meet.
    pub fn validate(&self) -> Result<(), DataError> {
        validate_crop_size(self.crop_size)?;
        validate_crop_scale((f64::from(self.crop_scale.0), f64::from(self.crop_scale.1)))?;
        // At 2.5 the hue already turns by the whole circle.
        if !(0.0..=2.5).contains(&self.color_jitter_strength) {
            return Err(DataError::Setting {
                what: "data.color_jitter_strength",
                got: self.color_jitter_strength.to_string(),
                wanted: "0 to 2.5 is expected".into(),
            });
        }
        self.normalisation.validate()
    }

    /// Which part of a picture of `width`×`height` pixels is taken. To be drawn before [`TrainTransform::finish`].
    pub fn part(&self, (width, height): (usize, usize), rng: &mut ChaCha8Rng) -> CropBox {
        let scale = (f64::from(self.crop_scale.0), f64::from(self.crop_scale.1));
        random_resized_crop(width, height, scale, (3.0 / 4.0, 4.0 / 3.0), rng)
    }

    /// Brings a part to size, distorts and normalises it into `out` (3, s, s). The draws are taken from `rng` in a fixed order.
    pub fn finish(&self, out: &mut [f32], part: Region, rng: &mut ChaCha8Rng) {
        let mut picture = part.resize(self.crop_size, self.crop_size, Filter::Bilinear);
        if self.horizontal_flip && uniform(rng) < 0.5 {
            flip(&mut picture);
        }
        if self.color_distortion {
            colour::distort(&mut picture, self.color_jitter_strength, rng);
        }
        if self.gaussian_blur && uniform(rng) < 0.5 {
            Op::Blur(between(rng, (0.1, 2.0))).apply(&mut picture);
        }
        self.normalisation.apply(out, &picture);
    }

    /// Cuts, distorts and normalises `picture` into `out` (3, s, s).
    pub fn apply(&self, out: &mut [f32], picture: &Picture, rng: &mut ChaCha8Rng) {
        let part = self.part((picture.width, picture.height), rng);
        self.finish(out, Region::whole(picture.crop(part.left, part.top, part.width, part.height)), rng);
    }
}

impl EvalTransform {
    /// Refuses settings that no picture can meet.
    pub fn validate(&self) -> Result<(), DataError> {
        validate_crop_size(self.crop.0)?;
        validate_crop_size(self.crop.1)?;
        self.normalisation.validate()
    }

    /// Brings `picture` to size and normalises it into `out` (3, h, w). A picture of exactly h×w pixels is taken as
    /// it is.
    pub fn apply(&self, out: &mut [f32], picture: &Picture) {
        let (height, width) = self.crop;
        if (picture.height, picture.width) == self.crop {
            return self.normalisation.apply(out, picture);
        }
        if self.fit == Fit::Squash {
            let all = CropBox { left: 0, top: 0, width, height };
            return self.normalisation.apply(out, &resize_part(picture, (width, height), all, self.filter));
        }
        // The picture just covers 256/224 of the crop; of a square crop, that is its shorter side.
        let covered = (height * 256 / 224, width * 256 / 224);
        // The longer side follows, rounded down as torchvision does.
        let (tall, wide) = if picture.width * covered.0 <= picture.height * covered.1 {
            ((covered.1 * picture.height / picture.width).max(covered.0), covered.1)
        } else {
            (covered.0, (covered.0 * picture.width / picture.height).max(covered.1))
        };
        let middle = resize_part(picture, (wide, tall), centre_crop((wide, tall), (width, height)), self.filter);
        self.normalisation.apply(out, &middle);
    }
}

/// The middle of a picture, places rounded as torchvision does.
///
/// # Panics
/// When the picture is smaller than what is to be cut out of it.
pub fn centre_crop((width, height): (usize, usize), (cut_width, cut_height): (usize, usize)) -> CropBox {
    assert!(
        cut_width <= width && cut_height <= height,
        "the middle {cut_width}×{cut_height} of {width}×{height} pixels"
    );
    // As Python rounds: .5 goes to the even neighbour.
    let offset = |length: usize, cut: usize| ((length - cut) as f64 / 2.0).round_ties_even() as usize;
    CropBox { left: offset(width, cut_width), top: offset(height, cut_height), width: cut_width, height: cut_height }
}

fn validate_crop_size(side: usize) -> Result<(), DataError> {
    if (1..=8192).contains(&side) {
        return Ok(());
    }
    Err(DataError::Setting {
        what: "data.crop_size",
        got: side.to_string(),
        wanted: "1 to 8192 pixels are expected".into(),
    })
}

fn validate_crop_scale((low, high): (f64, f64)) -> Result<(), DataError> {
    if low > 0.0 && low <= high && high <= 1.0 {
        return Ok(());
    }
    Err(DataError::Setting {
        what: "data.crop_scale",
        // As it was written: most bounds come from an f32.
        got: format!("[{}, {}]", low as f32, high as f32),
        wanted: "a share of the area with 0 < least ≤ most ≤ 1 is expected".into(),
    })
}

/// Mirrors left and right.
pub fn flip(picture: &mut Picture) {
    for row in picture.rgb.chunks_exact_mut(picture.width * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipping_twice_is_nothing_and_once_swaps_the_ends() {
        let mut picture = Picture::new(3, 1, vec![1, 2, 3, 4, 5, 6, 7, 8, 9]);
        flip(&mut picture);
        assert_eq!(picture.rgb, [7, 8, 9, 4, 5, 6, 1, 2, 3]);
        flip(&mut picture);
        assert_eq!(picture.rgb, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
