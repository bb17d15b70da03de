//! How is a picture blurred and sharpened? In Pillow's arithmetic: its Gaussian is three boxes one after the other, along rows and
//! then along columns (Gwosdek et al. 2011, "extended" boxes: the two pixels at the ends of a box count in part); its sharpness
//! blends with a picture smoothed by a 3×3 kernel.

use pulp::{Arch, Simd, WithSimd};

use super::colour::blend;
use crate::picture::Picture;

/// Boxes that make a Gaussian.
const BOXES: usize = 3;

/// A box of 2·radius + 1 whole pixels and one in part at either end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Extended {
    radius: usize,
    /// Weight of a whole pixel, in units of 2⁻²⁴.
    whole: u32,
    /// Weight of a pixel at an end, in the same units.
    end: u32,
}

impl Extended {
    /// One of [`BOXES`] that together have the standard deviation `sigma`, in pixels; in single precision, as Pillow.
    fn of_gaussian(sigma: f32) -> Extended {
        let variance = sigma * sigma / BOXES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let mut part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        part /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
        let radius = whole + part;
        let weight = ((1u32 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
        let count = 2 * radius as u32 + 1;
        Extended { radius: radius as usize, whole: weight, end: ((1 << 24) - count * weight) / 2 }
    }

    /// Where nothing but the pixel itself has a weight.
    fn is_nothing(self) -> bool {
        self.radius == 0 && self.end == 0
    }

    /// Means of neighbours that lie `step` bytes apart; `line` has `radius + 1` pixels before and after those wanted.
    #[inline(always)]
    fn along(self, out: &mut [u8], line: &[u8], step: usize, sums: &mut [u32]) {
        let (wanted, reach) = (out.len(), self.radius + 1);
        let shifted = |pixels: usize| &line[pixels * step..][..wanted];
        sums.fill(0);
        for pixels in 1..2 * reach {
            for (sum, &byte) in sums.iter_mut().zip(shifted(pixels)) {
                *sum += u32::from(byte);
            }
        }
        let ends = shifted(0).iter().zip(shifted(2 * reach));
        for ((byte, &sum), (&left, &right)) in out.iter_mut().zip(&*sums).zip(ends) {
            *byte = ((sum * self.whole + (u32::from(left) + u32::from(right)) * self.end + (1 << 23)) >> 24) as u8;
        }
    }
}

/// Blurs in place by a standard deviation in pixels, which Pillow calls the radius. The border repeats the edge pixels.
pub(super) fn gaussian(picture: &mut Picture, sigma: f64) {
    let extended = Extended::of_gaussian(sigma as f32);
    if extended.is_nothing() {
        return;
    }
    Arch::new().dispatch(Boxes { extended, picture });
}

struct Boxes<'a> {
    extended: Extended,
    picture: &'a mut Picture,
}

impl WithSimd for Boxes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Boxes { extended, picture } = self;
        let (stride, reach) = (picture.width * 3, extended.radius + 1);
        let mut sums = vec![0; stride]; // (w, 3)
        let mut padded = vec![0; stride + 2 * reach * 3];
        for row in picture.rgb.chunks_exact_mut(stride) {
            for _ in 0..BOXES {
                let (before, rest) = padded.split_at_mut(reach * 3);
                let (inside, after) = rest.split_at_mut(stride);
                inside.copy_from_slice(row);
                before.as_chunks_mut::<3>().0.fill([row[0], row[1], row[2]]);
                after.as_chunks_mut::<3>().0.fill([row[stride - 3], row[stride - 2], row[stride - 1]]);
                extended.along(row, &padded, 3, &mut sums);
            }
        }
        // All rows, and above and below them copies of the first and the last.
        let bytes = picture.rgb.len();
        let mut padded = vec![0; bytes + 2 * reach * stride];
        for _ in 0..BOXES {
            let (above, rest) = padded.split_at_mut(reach * stride);
            let (inside, below) = rest.split_at_mut(bytes);
            inside.copy_from_slice(&picture.rgb);
            above.chunks_exact_mut(stride).for_each(|row| row.copy_from_slice(&picture.rgb[..stride]));
            below.chunks_exact_mut(stride).for_each(|row| row.copy_from_slice(&picture.rgb[bytes - stride..]));
            for (y, row) in picture.rgb.chunks_exact_mut(stride).enumerate() {
                extended.along(row, &padded[y * stride..], stride, &mut sums);
            }
        }
    }
}

/// Below factor 1 towards a smoothed picture, above it away from it.
pub(super) fn sharpness(picture: &mut Picture, factor: f64) {
    let mut smooth = picture.rgb.clone();
    smoothed(&mut smooth, picture);
    for (byte, &base) in picture.rgb.iter_mut().zip(&smooth) {
        *byte = blend(base, *byte, factor as f32);
    }
}

/// Five parts of a pixel and one of each of its eight neighbours. Pixels at the border, and pictures that have nothing else, stay.
fn smoothed(out: &mut [u8], picture: &Picture) {
    const NEIGHBOUR: f32 = 1.0 / 13.0;
    const CENTRE: f32 = 5.0 / 13.0;
    if picture.width < 3 || picture.height < 3 {
        return;
    }
    let stride = picture.width * 3;
    let inside = stride - 6;
    let weighted = |row: &[u8], at: usize, centre: f32| {
        f32::from(row[at]) * NEIGHBOUR + f32::from(row[at + 3]) * centre + f32::from(row[at + 6]) * NEIGHBOUR
    };
    for y in 1..picture.height - 1 {
        let row = |y: usize| &picture.rgb[y * stride..][..stride];
        let (above, middle, below) = (row(y - 1), row(y), row(y + 1));
        for (at, byte) in out[y * stride + 3..][..inside].iter_mut().enumerate() {
            // In this order, since the sum is in single precision.
            let sum =
                0.5 + weighted(below, at, NEIGHBOUR) + weighted(middle, at, CENTRE) + weighted(above, at, NEIGHBOUR);
            *byte = sum as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(width: usize, height: usize) -> Picture {
        let byte = |k: usize| ((k * 2_654_435_761) >> 11) as u8;
        Picture::new(width, height, (0..width * height * 3).map(byte).collect())
    }

    /// One box over one line of single bytes, as it is told at the head of this file.
    fn plain(line: &[u8], extended: Extended) -> Vec<u8> {
        let reach = extended.radius as isize + 1;
        let mean = |at: usize| {
            let sum: u64 = (-reach..=reach)
                .map(|offset| {
                    let byte = line[at.saturating_add_signed(offset).min(line.len() - 1)];
                    let weight = if offset.abs() == reach { extended.end } else { extended.whole };
                    u64::from(byte) * u64::from(weight)
                })
                .sum();
            ((sum + (1 << 23)) >> 24) as u8
        };
        (0..line.len()).map(mean).collect()
    }

    proptest! {
        #[test]
        fn the_fast_way_is_the_plain_way(width in 1usize..20, height in 1usize..20, sigma in 0.05f64..6.0) {
            let extended = Extended::of_gaussian(sigma as f32);
            let picture = noise(width, height);
            let mut blurred = picture.clone();
            gaussian(&mut blurred, sigma);
            for channel in 0..3 {
                let value = |x: usize, y: usize| picture.rgb[(y * width + x) * 3 + channel];
                let thrice = |line: Vec<u8>| (0..BOXES).fold(line, |line, _| plain(&line, extended));
                let rows: Vec<Vec<u8>> = (0..height).map(|y| thrice((0..width).map(|x| value(x, y)).collect())).collect();
                for x in 0..width {
                    let column = thrice(rows.iter().map(|row| row[x]).collect());
                    let got: Vec<u8> = (0..height).map(|y| blurred.rgb[(y * width + x) * 3 + channel]).collect();
                    prop_assert_eq!(got, column);
                }
            }
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let mut picture = Picture::new(5, 4, vec![93; 60]);
        gaussian(&mut picture, 1.7);
        assert!(picture.rgb.iter().all(|&byte| byte == 93));
    }

    #[test]
    fn a_point_spreads_with_the_variance_asked_for() {
        let side = 31;
        let mut rgb = vec![0; side * side * 3];
        let centre = side / 2;
        // A bright column, so that bytes keep enough digits of the profile.
        for y in 0..side {
            rgb[(y * side + centre) * 3] = 255;
        }
        let mut picture = Picture::new(side, side, rgb);
        gaussian(&mut picture, 2.0);
        let row = &picture.rgb[centre * side * 3..][..side * 3];
        let weights: Vec<f64> = row.chunks_exact(3).map(|pixel| f64::from(pixel[0])).collect();
        let total: f64 = weights.iter().sum();
        let variance =
            weights.iter().enumerate().map(|(x, w)| w * (x as f64 - centre as f64).powi(2)).sum::<f64>() / total;
        assert!((total - 255.0).abs() < 6.0, "{total}");
        assert!((variance - 4.0).abs() < 0.3, "{variance}");
    }

    #[test]
    fn smoothing_leaves_the_border_and_weighs_the_middle_five_times() {
        let mut picture = Picture::new(3, 3, vec![13; 27]);
        picture.rgb[12..15].copy_from_slice(&[130, 0, 13]);
        let mut smooth = picture.rgb.clone();
        smoothed(&mut smooth, &picture);
        // (8·13 + 5·130)/13 = 58, (8·13)/13 = 8.
        assert_eq!(smooth[12..15], [58, 8, 13]);
        assert!(smooth[..12].iter().chain(&smooth[15..]).all(|&byte| byte == 13));
    }
}
