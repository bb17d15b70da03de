//! How does a picture become one view of it for fine-tuning? Crop, flip, changes of RandAugment, normalisation, erasing, in timm's order.

use rand_chacha::ChaCha8Rng;

use super::{CropBox, Filter, Normalisation, RandAugment, RandomErasing, flip, random_resized_crop, resize};
use super::{validate_crop_scale, validate_crop_size};
use crate::error::DataError;
use crate::key::uniform;
use crate::picture::Picture;

/// Random views of labelled images, or of those that are to get a label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneTransform {
    /// Height and width of what comes out, in pixels.
    pub size: (usize, usize),
    /// Share of the picture's area in a crop: least, most.
    pub crop_scale: (f64, f64),
    /// How the crop is resized.
    pub filter: Filter,
    /// Mirror every second picture.
    pub horizontal_flip: bool,
    /// Changes of the whole crop.
    pub rand_augment: Option<RandAugment>,
    /// A rectangle that is wiped out.
    pub erasing: Option<RandomErasing>,
    /// From bytes to values.
    pub normalisation: Normalisation,
}

impl TuneTransform {
    /// Refuses settings that no picture can meet.
    pub fn validate(&self) -> Result<(), DataError> {
        validate_crop_size(self.size.0)?;
        validate_crop_size(self.size.1)?;
        validate_crop_scale(self.crop_scale)?;
        if let Some(erasing) = &self.erasing {
            erasing.validate()?;
        }
        self.normalisation.validate()
    }

    /// Cuts, changes and normalises `picture` into `out` (3, h, w). The draws are taken from `rng` in a fixed order.
    pub fn apply(&self, out: &mut [f32], picture: &Picture, rng: &mut ChaCha8Rng) {
        let (height, width) = self.size;
        let ratio = (3.0 / 4.0, 4.0 / 3.0);
        let CropBox { left, top, width: cut_width, height: cut_height } =
            random_resized_crop(picture.width, picture.height, self.crop_scale, ratio, rng);
        let mut view = resize(picture.crop(left, top, cut_width, cut_height), width, height, self.filter);
        if self.horizontal_flip && uniform(rng) < 0.5 {
            flip(&mut view);
        }
        if let Some(augment) = &self.rand_augment {
            augment.apply(&mut view, rng);
        }
        self.normalisation.apply(out, &view);
        if let Some(erasing) = &self.erasing {
            erasing.apply(out, self.size, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Purpose};

    #[test]
    fn a_whole_crop_without_changes_is_the_resized_picture_or_its_mirror_image() {
        let picture = Picture::new(8, 8, (0..192).map(|k| (k * 7 % 251) as u8).collect());
        let transform = TuneTransform {
            size: (4, 6),
            crop_scale: (1.0, 1.0),
            filter: Filter::Bicubic,
            horizontal_flip: true,
            rand_augment: None,
            erasing: None,
            normalisation: Normalisation { mean: [0.0; 3], std: [1.0 / 255.0; 3] },
        };
        transform.validate().expect("good");
        let whole = resize(picture.clone(), 6, 4, Filter::Bicubic);
        let mut mirrored = whole.clone();
        flip(&mut mirrored);
        let mut seen = [false; 2];
        for item in 0..40 {
            let mut out = vec![0.0; 72];
            transform.apply(&mut out, &picture, &mut Key::new(0, Purpose::Augment, 0, item).rng());
            let red: Vec<u8> = out[..24].iter().map(|value| value.round() as u8).collect();
            let of = |picture: &Picture| picture.rgb.chunks_exact(3).map(|pixel| pixel[0]).collect::<Vec<u8>>();
            assert!(red == of(&whole) || red == of(&mirrored));
            seen[usize::from(red == of(&whole))] = true;
        }
        assert_eq!(seen, [true, true]);
    }
}
