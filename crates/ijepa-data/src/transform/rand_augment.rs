//! Which changes does RandAugment make? A few, drawn from fifteen (Cubuk et al. 2019, <https://arxiv.org/abs/1909.13719>), each as
//! strong as one magnitude says, as timm has them and names them: `rand-m9-mstd0.5-inc1`.

use rand_chacha::ChaCha8Rng;

use super::{Filter, Move, Normalisation, Op};
use crate::error::DataError;
use crate::key::{below, normal, uniform};
use crate::picture::Picture;

/// Magnitudes are tenths of the strongest change.
const TENTHS: f64 = 10.0;

/// Draws changes of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandAugment {
    /// How strong the changes are: 0 to `most`.
    pub magnitude: f64,
    /// Standard deviation of the magnitude; above 100 it is drawn evenly from 0 to `magnitude`.
    pub deviation: f64,
    /// The largest magnitude, 10 unless it is said.
    pub most: f64,
    /// Changes that are drawn; the same may be drawn twice.
    pub layers: usize,
    /// Probability that a drawn change is made.
    pub probability: f64,
    /// Whether every change grows with the magnitude; otherwise five of them are the weaker, or the darker, the larger it is.
    pub increasing: bool,
    /// How pixels are interpolated where they move; without one, either filter is drawn each time.
    pub filter: Option<Filter>,
    /// The colour of what comes from outside the picture.
    pub fill: [u8; 3],
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    AutoContrast,
    Equalise,
    Invert,
    Rotate,
    Posterise,
    Solarise,
    SolariseAdd,
    Saturation,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

const KINDS: [Kind; 15] = [
    Kind::AutoContrast,
    Kind::Equalise,
    Kind::Invert,
    Kind::Rotate,
    Kind::Posterise,
    Kind::Solarise,
    Kind::SolariseAdd,
    Kind::Saturation,
    Kind::Contrast,
    Kind::Brightness,
    Kind::Sharpness,
    Kind::ShearX,
    Kind::ShearY,
    Kind::TranslateX,
    Kind::TranslateY,
];

impl RandAugment {
    /// From timm's form `rand-PART-PART…`: `m9` magnitude, `n2` layers, `p0.5` probability, `mstd0.5` deviation, `mmax10` largest
    /// magnitude, `inc1` increasing changes. The fill colour is the mean of `normalisation`.
    pub fn parse(text: &str, normalisation: &Normalisation) -> Result<RandAugment, DataError> {
        let wrong = |problem: String| DataError::Setting {
            what: "data.auto_augment",
            got: format!("{text:?}"),
            wanted: format!("{problem}; a form like rand-m9-n2-p0.5-mstd0.5-inc1 is expected"),
        };
        let mut parts = text.split('-');
        if parts.next() != Some("rand") {
            return Err(wrong("it does not begin with rand".into()));
        }
        let fill = normalisation.mean.map(|mean| (255.0 * f64::from(mean)).round_ties_even() as u8);
        let mut augment = RandAugment {
            magnitude: TENTHS,
            deviation: 0.0,
            most: TENTHS,
            layers: 2,
            probability: 0.5,
            increasing: false,
            filter: None,
            fill,
        };
        for part in parts {
            let digits = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
            let (name, value) = part.split_at(digits);
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
            let within = |low: f64, high: f64| {
                let number = number.filter(|number| (low..=high).contains(number));
                number.ok_or_else(|| wrong(format!("the number in {part:?} is to be {low} to {high}")))
            };
            match name {
                "m" => augment.magnitude = within(0.0, 1000.0)?,
                "n" => augment.layers = within(0.0, 100.0)? as usize,
                "p" => augment.probability = within(0.0, 1.0)?,
                "mstd" => augment.deviation = within(0.0, f64::MAX)?,
                "mmax" => augment.most = within(1.0, 1000.0)?,
                // timm takes any number for yes, inc0 too.
                "inc" if value == "1" => augment.increasing = true,
                "inc" => return Err(wrong(format!("{part:?}: inc1 or nothing is expected"))),
                _ => return Err(wrong(format!("the part {part:?} is unknown"))),
            }
        }
        Ok(augment)
    }

    /// The changes that are made to one picture.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<Op> {
        let mut ops = Vec::with_capacity(self.layers);
        for _ in 0..self.layers {
            let kind = KINDS[below(rng, KINDS.len() as u64) as usize];
            if self.probability < 1.0 && uniform(rng) > self.probability {
                continue;
            }
            let magnitude = if self.deviation > 100.0 {
                uniform(rng) * self.magnitude
            } else {
                self.magnitude + self.deviation * normal(rng)
            };
            ops.push(self.op(kind, magnitude.clamp(0.0, self.most) / TENTHS, rng));
        }
        ops
    }

    /// Changes a picture.
    pub fn apply(&self, picture: &mut Picture, rng: &mut ChaCha8Rng) {
        for op in self.draw(rng) {
            op.apply(picture);
        }
    }

    /// A change of strength `level`, 0 to 1 where `most` is 10.
    fn op(&self, kind: Kind, level: f64, rng: &mut ChaCha8Rng) -> Op {
        let factor = |rng: &mut ChaCha8Rng| {
            if self.increasing { (1.0 + either_way(0.9 * level, rng)).max(0.1) } else { 1.8 * level + 0.1 }
        };
        let whole = |steps: f64, most: u16| ((level * steps) as u16).min(most);
        match kind {
            Kind::AutoContrast => Op::AutoContrast,
            Kind::Equalise => Op::Equalise,
            Kind::Invert => Op::Invert,
            Kind::Posterise => {
                let bits = whole(4.0, 8) as u8;
                Op::Posterise(if self.increasing { 4u8.saturating_sub(bits) } else { bits })
            }
            Kind::Solarise => {
                let from = whole(256.0, 256);
                Op::Solarise(if self.increasing { 256 - from } else { from })
            }
            Kind::SolariseAdd => Op::SolariseAdd(whole(110.0, 128) as u8),
            Kind::Saturation => Op::Saturation(factor(rng)),
            Kind::Contrast => Op::Contrast(factor(rng)),
            Kind::Brightness => Op::Brightness(factor(rng)),
            Kind::Sharpness => Op::Sharpness(factor(rng)),
            Kind::Rotate => self.moved(Move::Rotate(either_way(30.0 * level, rng)), rng),
            Kind::ShearX => self.moved(Move::ShearX(either_way(0.3 * level, rng)), rng),
            Kind::ShearY => self.moved(Move::ShearY(either_way(0.3 * level, rng)), rng),
            Kind::TranslateX => self.moved(Move::TranslateX(either_way(0.45 * level, rng)), rng),
            Kind::TranslateY => self.moved(Move::TranslateY(either_way(0.45 * level, rng)), rng),
        }
    }

    fn moved(&self, by: Move, rng: &mut ChaCha8Rng) -> Op {
        let drawn = || [Filter::Bilinear, Filter::Bicubic][below(rng, 2) as usize];
        Op::Move(by, self.filter.unwrap_or_else(drawn), self.fill)
    }
}

/// Half of the time its negative.
fn either_way(value: f64, rng: &mut ChaCha8Rng) -> f64 {
    if uniform(rng) > 0.5 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Purpose};

    fn parsed(text: &str) -> RandAugment {
        RandAugment::parse(text, &Normalisation::default()).expect(text)
    }

    #[test]
    fn the_usual_form_is_read() {
        let augment = parsed("rand-m9-mstd0.5-inc1");
        let expected = RandAugment {
            magnitude: 9.0,
            deviation: 0.5,
            most: 10.0,
            layers: 2,
            probability: 0.5,
            increasing: true,
            filter: None,
            fill: [124, 116, 104],
        };
        assert_eq!(augment, expected);
        let other = parsed("rand-n3-p1-m5-mmax30");
        assert_eq!((other.layers, other.probability, other.magnitude, other.most), (3, 1.0, 5.0, 30.0));
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        for (text, named) in [
            ("augmix-m5", "begin with rand"),
            ("rand-m9-w0", "\"w0\""),
            ("rand-tweights", "\"tweights\""),
            ("rand-m9-inc0", "\"inc0\""),
            ("rand-p1.5", "\"p1.5\""),
            ("rand-m", "\"m\""),
            ("rand-m9-", "\"\""),
        ] {
            let error = RandAugment::parse(text, &Normalisation::default()).expect_err(text).to_string();
            assert!(error.contains(named) && error.contains("rand-m9-n2"), "{text}: {error}");
        }
    }

    #[test]
    fn each_of_the_fifteen_is_made_as_often_as_the_others_and_within_its_bounds() {
        let augment = RandAugment { layers: 1, probability: 1.0, ..parsed("rand-m9-mstd0.5-inc1") };
        let mut made = std::collections::BTreeMap::new();
        for item in 0..3000 {
            for op in augment.draw(&mut Key::new(0, Purpose::Augment, 0, item).rng()) {
                let share = |value: f64, most: f64| (0.6..=1.0).contains(&(value.abs() / most));
                let good = match op {
                    Op::Posterise(bits) => bits <= 2,
                    Op::Solarise(from) => from < 100,
                    Op::SolariseAdd(added) => (66..=110).contains(&added),
                    Op::Saturation(f) | Op::Contrast(f) | Op::Brightness(f) | Op::Sharpness(f) => share(f - 1.0, 0.9),
                    Op::Move(Move::Rotate(degrees), ..) => share(degrees, 30.0),
                    Op::Move(Move::ShearX(by) | Move::ShearY(by), ..) => share(by, 0.3),
                    Op::Move(Move::TranslateX(by) | Move::TranslateY(by), ..) => share(by, 0.45),
                    Op::AutoContrast | Op::Equalise | Op::Invert => true,
                    Op::Hue(_) | Op::Grey | Op::Blur(_) => false,
                };
                assert!(good, "{op:?}");
                let name = format!("{op:?}").replace("Move(", "");
                *made.entry(name.split('(').next().map(str::to_owned)).or_insert(0) += 1;
            }
        }
        assert_eq!(made.len(), 15, "{made:?}");
        // 200 each, with a standard deviation of 14.
        assert!(made.values().all(|times| (140..260).contains(times)), "{made:?}");
    }

    #[test]
    fn half_of_the_layers_are_left_out() {
        let augment = parsed("rand-m9-mstd0.5-inc1");
        let made: usize =
            (0..2000).map(|item| augment.draw(&mut Key::new(1, Purpose::Augment, 0, item).rng()).len()).sum();
        assert!((1850..2150).contains(&made), "{made}");
    }
}
