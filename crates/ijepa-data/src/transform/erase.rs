//! Which rectangle is wiped out of a picture? Random erasing (Zhong et al. 2017, <https://arxiv.org/abs/1708.04896>) as timm has it,
//! after the normalisation.

use rand_chacha::ChaCha8Rng;

use super::CropBox;
use crate::error::DataError;
use crate::key::{below, between, normal, uniform};

/// What stands where a picture was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Erased {
    /// 0: the mean of the data.
    #[default]
    Constant,
    /// A standard normal number for each value.
    Pixel,
}

/// Erases a rectangle from some pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomErasing {
    /// Share of the pictures that lose a rectangle.
    pub probability: f64,
    /// Share of the picture's area that is erased: least, most.
    pub area: (f64, f64),
    /// Height over width of what is erased, drawn log-uniformly: least, most.
    pub aspect: (f64, f64),
    /// What stands there afterwards.
    pub mode: Erased,
}

impl Default for RandomErasing {
    /// A quarter of the pictures, as fine-tuning recipes have it.
    fn default() -> RandomErasing {
        RandomErasing { probability: 0.25, area: (0.02, 1.0 / 3.0), aspect: (0.3, 1.0 / 0.3), mode: Erased::Pixel }
    }
}

/// Draws that do not fit before a picture is left as it is.
const TRIES: usize = 10;

impl RandomErasing {
    /// Refuses settings that cannot be met.
    pub fn validate(&self) -> Result<(), DataError> {
        let ordered = |(low, high): (f64, f64)| low > 0.0 && low <= high && high.is_finite();
        if (0.0..=1.0).contains(&self.probability) && ordered(self.area) && self.area.1 <= 1.0 && ordered(self.aspect) {
            return Ok(());
        }
        Err(DataError::Setting {
            what: "data.random_erasing",
            got: format!("{self:?}"),
            wanted: "a probability of 0 to 1, an area with 0 < least ≤ most ≤ 1 and an aspect with 0 < least ≤ most are expected"
                .into(),
        })
    }

    /// The rectangle that an image of `height`×`width` pixels loses, if it loses any.
    pub fn draw(&self, (height, width): (usize, usize), rng: &mut ChaCha8Rng) -> Option<CropBox> {
        if uniform(rng) > self.probability {
            return None;
        }
        for _ in 0..TRIES {
            let area = between(rng, self.area) * (height * width) as f64;
            let aspect = between(rng, (self.aspect.0.ln(), self.aspect.1.ln())).exp();
            let tall = (area * aspect).sqrt().round_ties_even() as usize;
            let wide = (area / aspect).sqrt().round_ties_even() as usize;
            if tall < height && wide < width {
                let top = below(rng, (height - tall) as u64 + 1) as usize;
                let left = below(rng, (width - wide) as u64 + 1) as usize;
                return Some(CropBox { left, top, width: wide, height: tall });
            }
        }
        None
    }

    /// Erases from a normalised image (3, h, w).
    pub fn apply(&self, image: &mut [f32], (height, width): (usize, usize), rng: &mut ChaCha8Rng) {
        assert_eq!(image.len(), 3 * height * width, "an image is (3, {height}, {width}) values");
        let Some(part) = self.draw((height, width), rng) else { return };
        for plane in image.chunks_exact_mut(height * width) {
            for row in plane.chunks_exact_mut(width).skip(part.top).take(part.height) {
                for value in &mut row[part.left..part.left + part.width] {
                    *value = match self.mode {
                        Erased::Constant => 0.0,
                        Erased::Pixel => normal(rng) as f32,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Purpose};

    #[test]
    fn a_quarter_of_the_pictures_lose_a_rectangle_of_the_size_asked_for() {
        let erasing = RandomErasing { mode: Erased::Constant, ..RandomErasing::default() };
        let (mut erased, mut share) = (0, 0.0);
        for item in 0..4000 {
            let mut image = vec![1.0; 3 * 32 * 48];
            erasing.apply(&mut image, (32, 48), &mut Key::new(0, Purpose::Augment, 0, item).rng());
            let zeros = image.iter().filter(|&&value| value == 0.0).count();
            assert_eq!(zeros % 3, 0);
            if zeros > 0 {
                erased += 1;
                share += zeros as f64 / image.len() as f64;
            }
        }
        // Standard deviation 27. Long thin rectangles do not fit and are drawn again, so the mean share is below 0.177.
        assert!((890..1110).contains(&erased), "{erased}");
        let share = share / f64::from(erased);
        assert!((0.14..0.18).contains(&share), "{share}");
    }

    #[test]
    fn erased_pixels_are_normal_numbers_in_one_rectangle() {
        let erasing = RandomErasing { probability: 1.0, ..RandomErasing::default() };
        let mut image = vec![f32::INFINITY; 3 * 64 * 64];
        let mut rng = Key::new(3, Purpose::Augment, 0, 0).rng();
        let part = erasing.draw((64, 64), &mut rng.clone()).expect("it fits");
        erasing.apply(&mut image, (64, 64), &mut rng);
        let values: Vec<f32> = image.iter().copied().filter(|value| value.is_finite()).collect();
        assert_eq!(values.len(), 3 * part.width * part.height);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.2, "{mean}");
    }

    #[test]
    fn bounds_the_wrong_way_round_are_refused() {
        RandomErasing::default().validate().expect("good");
        let good = RandomErasing::default();
        for bad in [
            RandomErasing { probability: 1.1, ..good },
            RandomErasing { area: (0.5, 0.2), ..good },
            RandomErasing { area: (0.0, 0.2), ..good },
            RandomErasing { aspect: (3.0, f64::NAN), ..good },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
