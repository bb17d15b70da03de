//! How are colours distorted? Colour jitter and random grey as torchvision draws them, in Pillow's arithmetic.
//!
//! Brightness blends with black, contrast with the mean grey, saturation with the grey picture. A blend is
//! base + factor·(byte − base), cut to 0..255, its fraction dropped. Hue is turned in HSV of 8 bits each, so a picture whose hue is
//! turned by nothing still comes back a little changed.

use rand_chacha::ChaCha8Rng;

use super::Op;
use crate::key::{between, shuffle, uniform};
use crate::picture::Picture;

/// How far colours may be distorted; the order of the four is drawn too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColourJitter {
    /// Factors of the brightness lie within 1 ± this, and not below 0.
    pub brightness: f64,
    /// The same of the contrast.
    pub contrast: f64,
    /// The same of the saturation.
    pub saturation: f64,
    /// The hue is turned by up to this, in turns of the colour circle: 0 to 0.5.
    pub hue: f64,
}

impl ColourJitter {
    /// As SimCLR (Chen et al. 2020, appendix A) has it.
    pub fn of_strength(strength: f64) -> ColourJitter {
        let spread = 0.8 * strength;
        ColourJitter { brightness: spread, contrast: spread, saturation: spread, hue: 0.2 * strength }
    }

    /// The four changes in the order in which they are made.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> [Op; 4] {
        let factor = |spread: f64| move |rng: &mut ChaCha8Rng| between(rng, ((1.0 - spread).max(0.0), 1.0 + spread));
        let mut order = [0, 1, 2, 3];
        shuffle(rng, &mut order);
        order.map(|change| match change {
            0 => Op::Brightness(factor(self.brightness)(rng)),
            1 => Op::Contrast(factor(self.contrast)(rng)),
            2 => Op::Saturation(factor(self.saturation)(rng)),
            _ => Op::Hue(between(rng, (-self.hue, self.hue))),
        })
    }
}

/// With probability 0.8, colour jitter; then with probability 0.2, grey.
pub(super) fn distort(picture: &mut Picture, strength: f32, rng: &mut ChaCha8Rng) {
    if uniform(rng) < 0.8 {
        for change in ColourJitter::of_strength(f64::from(strength)).draw(rng) {
            change.apply(picture);
        }
    }
    if uniform(rng) < 0.2 {
        Op::Grey.apply(picture);
    }
}

pub(super) fn brightness(picture: &mut Picture, factor: f64) {
    let table: [u8; 256] = std::array::from_fn(|byte| blend(0, byte as u8, factor as f32));
    picture.rgb.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

pub(super) fn contrast(picture: &mut Picture, factor: f64) {
    let (pixels, _) = picture.rgb.as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(*pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    let table: [u8; 256] = std::array::from_fn(|byte| blend(mean, byte as u8, factor as f32));
    picture.rgb.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

pub(super) fn saturation(picture: &mut Picture, factor: f64) {
    for pixel in picture.rgb.as_chunks_mut::<3>().0 {
        let base = luma(*pixel);
        *pixel = pixel.map(|byte| blend(base, byte, factor as f32));
    }
}

/// Turns the hue of every pixel by a share of the colour circle, from −½ to ½.
pub(super) fn hue(picture: &mut Picture, turns: f64) {
    // Towards zero, then around the circle of 256 numbers.
    let shift = (turns * 255.0) as i32 as u8;
    let circle = Circle::new();
    for pixel in picture.rgb.as_chunks_mut::<3>().0 {
        let [hue, saturation, value] = hsv_of_rgb(*pixel);
        *pixel = circle.rgb_of_hsv([hue.wrapping_add(shift), saturation, value]);
    }
}

pub(super) fn grey(picture: &mut Picture) {
    for pixel in picture.rgb.as_chunks_mut::<3>().0 {
        *pixel = [luma(*pixel); 3];
    }
}

/// ITU-R 601 luma in 16-bit fixed point, as Pillow's mode `L`.
fn luma(pixel: [u8; 3]) -> u8 {
    let [r, g, b] = pixel.map(u32::from);
    ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8
}

/// Towards `base` below factor 1, away from it above. In single precision, whose last bit decides here and there.
pub(super) fn blend(base: u8, byte: u8, factor: f32) -> u8 {
    (f32::from(base) + factor * f32::from(i16::from(byte) - i16::from(base))) as u8
}

/// Hue in 255ths of the circle, saturation and value, fractions dropped. Which steps are in single precision is Pillow's choice.
fn hsv_of_rgb(pixel: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = pixel;
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    if high == low {
        return [0, 0, high];
    }
    let chroma = f32::from(high - low);
    let below_high = |byte: u8| f32::from(high - byte) / chroma;
    let sixths = if r == high {
        below_high(b) - below_high(g)
    } else if g == high {
        (2.0 + f64::from(below_high(r)) - f64::from(below_high(b))) as f32
    } else {
        (4.0 + f64::from(below_high(g)) - f64::from(below_high(r))) as f32
    };
    let turns = f64::from(sixths) / 6.0 + 1.0;
    let circle = (turns - f64::from(turns as u8)) as f32;
    let saturation = chroma / f32::from(high);
    [(f64::from(circle) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, high]
}

/// What follows from a hue alone, and from a saturation alone.
struct Circle {
    /// The sixth of the circle that a hue lies in, and how far in it.
    sectors: [(u8, f32); 256],
    shares: [f32; 256],
}

impl Circle {
    fn new() -> Circle {
        let sector = |hue: usize| {
            let sixths = hue as f64 * 6.0 / 255.0;
            (sixths as u8 % 6, (sixths - sixths.floor()) as f32)
        };
        Circle {
            sectors: std::array::from_fn(sector),
            shares: std::array::from_fn(|saturation| (saturation as f64 / 255.0) as f32),
        }
    }

    fn rgb_of_hsv(&self, [hue, saturation, value]: [u8; 3]) -> [u8; 3] {
        if saturation == 0 {
            return [value; 3];
        }
        let (sector, within) = self.sectors[usize::from(hue)];
        let share = self.shares[usize::from(saturation)];
        // To the nearest; none of them is negative.
        let scaled = |rest: f64| (f64::from(value) * rest + 0.5) as u8;
        let low = scaled(1.0 - f64::from(share));
        let falling = scaled(1.0 - f64::from(share * within));
        let rising = scaled(1.0 - f64::from(share) * (1.0 - f64::from(within)));
        match sector {
            0 => [value, rising, low],
            1 => [falling, value, low],
            2 => [low, value, rising],
            3 => [low, falling, value],
            4 => [rising, low, value],
            _ => [value, low, falling],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Purpose};

    fn colours() -> Picture {
        Picture::new(
            4,
            2,
            vec![255, 0, 0, 10, 200, 30, 0, 0, 255, 90, 90, 90, 1, 2, 3, 250, 240, 5, 128, 0, 128, 77, 180, 199],
        )
    }

    #[test]
    fn factor_one_changes_nothing_and_a_hue_not_turned_little() {
        let mut picture = colours();
        for op in [Op::Brightness(1.0), Op::Contrast(1.0), Op::Saturation(1.0)] {
            op.apply(&mut picture);
        }
        assert_eq!(picture, colours());
        // An eighth of a turn of a strong colour is 3 grey levels, and the saturation loses up to one.
        hue(&mut picture, 0.0);
        assert!(picture.rgb.iter().zip(&colours().rgb).all(|(a, b)| a.abs_diff(*b) <= 6), "{:?}", picture.rgb);
    }

    #[test]
    fn a_third_of_a_turn_makes_red_green() {
        let mut picture = colours();
        hue(&mut picture, 1.0 / 3.0);
        assert_eq!(picture.rgb[..3], [0, 255, 0]);
    }

    #[test]
    fn a_turn_back_wraps_around() {
        let mut picture = colours();
        hue(&mut picture, -1.0 / 3.0);
        // −85 of 255ths from 0 is 171 of 256.
        assert_eq!(picture.rgb[..3], Circle::new().rgb_of_hsv([171, 255, 255]));
    }

    #[test]
    fn factor_zero_gives_black_mean_grey_and_grey() {
        let mut picture = colours();
        brightness(&mut picture, 0.0);
        assert!(picture.rgb.iter().all(|&byte| byte == 0));
        let mut picture = colours();
        contrast(&mut picture, 0.0);
        assert!(picture.rgb.iter().all(|&byte| byte == picture.rgb[0]));
        let (mut picture, mut expected) = (colours(), colours());
        saturation(&mut picture, 0.0);
        grey(&mut expected);
        assert_eq!(picture, expected);
        assert_eq!(expected.rgb[..3], [76, 76, 76]);
    }

    #[test]
    fn the_jitter_makes_each_change_once_within_its_bounds() {
        let jitter = ColourJitter { brightness: 0.4, contrast: 2.0, saturation: 0.1, hue: 0.05 };
        let mut first = [0; 4];
        for item in 0..400 {
            let ops = jitter.draw(&mut Key::new(0, Purpose::Augment, 0, item).rng());
            let place = |op: &Op| match *op {
                Op::Brightness(factor) if (0.6..=1.4).contains(&factor) => 0,
                Op::Contrast(factor) if (0.0..=3.0).contains(&factor) => 1,
                Op::Saturation(factor) if (0.9..=1.1).contains(&factor) => 2,
                Op::Hue(turns) if turns.abs() <= 0.05 => 3,
                ref other => panic!("{other:?}"),
            };
            let mut places: Vec<usize> = ops.iter().map(place).collect();
            first[places[0]] += 1;
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3]);
        }
        assert!(first.iter().all(|&times| (60..140).contains(&times)), "{first:?}");
    }
}
