//! Which changes of a decoded picture are there? Each with all its numbers, so that what was drawn can be told, tested and repeated.

use super::affine::Map;
use super::{Filter, blur, colour, tone};
use crate::picture::Picture;

/// A change of a picture's pixels; its size stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Stretches each channel from 0 to 255.
    AutoContrast,
    /// Makes the levels of each channel about equally frequent.
    Equalise,
    /// 255 minus the level.
    Invert,
    /// Keeps so many of the 8 bits of a level.
    Posterise(u8),
    /// Inverts levels from this on; 256 leaves all as they are.
    Solarise(u16),
    /// Adds to levels below 128.
    SolariseAdd(u8),
    /// Blends with black: 0 is black, 1 changes nothing, above 1 is brighter.
    Brightness(f64),
    /// Blends with the mean grey.
    Contrast(f64),
    /// Blends with the grey picture.
    Saturation(f64),
    /// Blends with a smoothed picture.
    Sharpness(f64),
    /// Turns the colours by a share of the colour circle, −½ to ½.
    Hue(f64),
    /// Red, green and blue become the luma.
    Grey,
    /// A Gaussian of this standard deviation in pixels.
    Blur(f64),
    /// Moves pixels about.
    Move(Move, Filter, [u8; 3]),
}

/// Where pixels come from; what lies outside the picture has the fill colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Move {
    /// Anticlockwise about the middle, in degrees.
    Rotate(f64),
    /// A row further down comes from so many columns further right.
    ShearX(f64),
    /// A column further right comes from so many rows further down.
    ShearY(f64),
    /// To the left, as a share of the width.
    TranslateX(f64),
    /// Upwards, as a share of the height.
    TranslateY(f64),
}

impl Op {
    /// Changes the picture.
    pub fn apply(self, picture: &mut Picture) {
        let size = (picture.width, picture.height);
        match self {
            Op::AutoContrast => tone::autocontrast(picture),
            Op::Equalise => tone::equalise(picture),
            Op::Invert => tone::map(picture, |level| 255 - level),
            Op::Posterise(bits) => {
                let kept = (0xff00_u16 >> bits.min(8)) as u8;
                tone::map(picture, |level| level & kept);
            }
            Op::Solarise(from) => {
                tone::map(picture, |level| if u16::from(level) < from { level } else { 255 - level });
            }
            Op::SolariseAdd(added) => {
                tone::map(picture, |level| if level < 128 { level.saturating_add(added) } else { level });
            }
            Op::Brightness(factor) => colour::brightness(picture, factor),
            Op::Contrast(factor) => colour::contrast(picture, factor),
            Op::Saturation(factor) => colour::saturation(picture, factor),
            Op::Sharpness(factor) => blur::sharpness(picture, factor),
            Op::Hue(turns) => colour::hue(picture, turns),
            Op::Grey => colour::grey(picture),
            Op::Blur(sigma) => blur::gaussian(picture, sigma),
            Op::Move(by, filter, fill) => by.map(size).apply(picture, filter, fill),
        }
    }
}

impl Move {
    fn map(self, size: (usize, usize)) -> Map {
        match self {
            Move::Rotate(degrees) => Map::turn(degrees, size),
            Move::ShearX(factor) => Map::shear_x(factor),
            Move::ShearY(factor) => Map::shear_y(factor),
            Move::TranslateX(share) => Map::shift(share * size.0 as f64, 0.0),
            Move::TranslateY(share) => Map::shift(0.0, share * size.1 as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(op: Op, levels: [u8; 3]) -> [u8; 3] {
        let mut picture = Picture::new(1, 1, levels.to_vec());
        op.apply(&mut picture);
        [picture.rgb[0], picture.rgb[1], picture.rgb[2]]
    }

    #[test]
    fn levels_are_mapped_as_their_names_say() {
        let levels = [0, 127, 200];
        assert_eq!(after(Op::Invert, levels), [255, 128, 55]);
        assert_eq!(after(Op::Posterise(0), levels), [0, 0, 0]);
        assert_eq!(after(Op::Posterise(2), levels), [0, 64, 192]);
        assert_eq!(after(Op::Posterise(8), levels), levels);
        assert_eq!(after(Op::Solarise(127), levels), [0, 128, 55]);
        assert_eq!(after(Op::Solarise(256), levels), levels);
        assert_eq!(after(Op::SolariseAdd(110), levels), [110, 237, 200]);
    }
}
