//! How are colours distorted? Colour jitter and random grey as in SimCLR (Chen et al. 2020, appendix A), in Pillow's arithmetic.
//!
//! Brightness blends with black, contrast with the mean grey, saturation with the grey picture; hue is turned. A blend is
//! base + factor·(pixel − base), cut to 0..255.

use rand_chacha::ChaCha8Rng;

use crate::key::{between, shuffle, uniform};
use crate::picture::Picture;

#[derive(Clone, Copy)]
enum Change {
    Brightness,
    Contrast,
    Saturation,
    Hue,
}

/// With probability 0.8, brightness, contrast and saturation by factors within 1 ± 0.8·strength and hue by up to
/// 0.2·strength turns, in random order; then with probability 0.2, grey.
pub(super) fn distort(picture: &mut Picture, strength: f32, rng: &mut ChaCha8Rng) {
    if uniform(rng) < 0.8 {
        let mut order = [Change::Brightness, Change::Contrast, Change::Saturation, Change::Hue];
        shuffle(rng, &mut order);
        let spread = 0.8 * f64::from(strength);
        let factors = ((1.0 - spread).max(0.0), 1.0 + spread);
        let turns = (-0.2 * f64::from(strength), 0.2 * f64::from(strength));
        for change in order {
            match change {
                Change::Brightness => brightness(picture, between(rng, factors) as f32),
                Change::Contrast => contrast(picture, between(rng, factors) as f32),
                Change::Saturation => saturation(picture, between(rng, factors) as f32),
                Change::Hue => hue(picture, between(rng, turns) as f32),
            }
        }
    }
    if uniform(rng) < 0.2 {
        grey(picture);
    }
}

fn brightness(picture: &mut Picture, factor: f32) {
    picture.rgb.iter_mut().for_each(|byte| *byte = blend(0.0, *byte, factor));
}

fn contrast(picture: &mut Picture, factor: f32) {
    let pixels = picture.rgb.chunks_exact(3);
    let count = pixels.len() as f64;
    let mean = (pixels.map(|pixel| f64::from(luma(pixel))).sum::<f64>() / count + 0.5).floor() as f32;
    picture.rgb.iter_mut().for_each(|byte| *byte = blend(mean, *byte, factor));
}

fn saturation(picture: &mut Picture, factor: f32) {
    for pixel in picture.rgb.chunks_exact_mut(3) {
        let base = f32::from(luma(pixel));
        pixel.iter_mut().for_each(|byte| *byte = blend(base, *byte, factor));
    }
}

/// Turns the hue of every pixel by `turns` of the colour circle; value and chroma stay.
fn hue(picture: &mut Picture, turns: f32) {
    for pixel in picture.rgb.chunks_exact_mut(3) {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
        let (high, low) = (r.max(g).max(b), r.min(g).min(b));
        let chroma = high - low;
        if chroma == 0.0 {
            continue;
        }
        let sixths = if high == r {
            (g - b) / chroma
        } else if high == g {
            2.0 + (b - r) / chroma
        } else {
            4.0 + (r - g) / chroma
        };
        let sixths = (sixths + 6.0 * turns).rem_euclid(6.0);
        // The channel n sixths before the hue is cut from the top by this much of the chroma.
        for (byte, phase) in pixel.iter_mut().zip([5.0f32, 3.0, 1.0]) {
            let k = (phase + sixths).rem_euclid(6.0);
            *byte = (high - chroma * k.min(4.0 - k).clamp(0.0, 1.0)).round() as u8;
        }
    }
}

fn grey(picture: &mut Picture) {
    for pixel in picture.rgb.chunks_exact_mut(3) {
        let value = luma(pixel);
        pixel.fill(value);
    }
}

/// ITU-R 601 luma in 16-bit fixed point, as Pillow's mode `L`.
fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8
}

/// Towards `base` below factor 1, away from it above; the fraction is dropped, as Pillow does.
fn blend(base: f32, byte: u8, factor: f32) -> u8 {
    (base + factor * (f32::from(byte) - base)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colours() -> Picture {
        Picture::new(
            4,
            2,
            vec![255, 0, 0, 10, 200, 30, 0, 0, 255, 90, 90, 90, 1, 2, 3, 250, 240, 5, 128, 0, 128, 77, 180, 199],
        )
    }

    #[test]
    fn factor_one_and_no_turn_change_nothing() {
        let mut picture = colours();
        brightness(&mut picture, 1.0);
        contrast(&mut picture, 1.0);
        saturation(&mut picture, 1.0);
        hue(&mut picture, 0.0);
        assert_eq!(picture, colours());
    }

    #[test]
    fn a_third_of_a_turn_makes_red_green_and_a_whole_turn_nothing() {
        let mut picture = colours();
        hue(&mut picture, 1.0 / 3.0);
        assert_eq!(picture.rgb[..3], [0, 255, 0]);
        let mut picture = colours();
        hue(&mut picture, 1.0);
        assert_eq!(picture, colours());
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
}
