//! How is a picture turned, shifted and sheared? Every pixel is looked up where an affine map says it comes from, in Pillow's
//! arithmetic: interpolated without widening the filter, fractions dropped; from outside the picture comes a fill colour.

use pulp::{Arch, Simd, WithSimd};

use super::Filter;
use crate::picture::Picture;

/// Column and row in the source of a place in the result: (a·x + b·y + c, d·x + e·y + f), places measured from the corner, so that
/// the first pixel's centre is at ½.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Map(pub(super) [f64; 6]);

impl Map {
    /// Shears along the rows by so many columns a row.
    pub(super) fn shear_x(factor: f64) -> Map {
        Map([1.0, factor, 0.0, 0.0, 1.0, 0.0])
    }

    /// Shears along the columns by so many rows a column.
    pub(super) fn shear_y(factor: f64) -> Map {
        Map([1.0, 0.0, 0.0, factor, 1.0, 0.0])
    }

    /// Shifts to the left and up, in pixels.
    pub(super) fn shift(columns: f64, rows: f64) -> Map {
        Map([1.0, 0.0, columns, 0.0, 1.0, rows])
    }

    /// Turns about the middle of a picture, anticlockwise as it is looked at.
    pub(super) fn turn(degrees: f64, (width, height): (usize, usize)) -> Map {
        let angle = -degrees.rem_euclid(360.0).to_radians();
        // So that a right angle is one.
        let fifteen_digits = |x: f64| format!("{x:.15}").parse::<f64>().unwrap_or(x);
        let (cos, sin) = (fifteen_digits(angle.cos()), fifteen_digits(angle.sin()));
        let centre = (width as f64 / 2.0, height as f64 / 2.0);
        let minus_sin = fifteen_digits(-angle.sin());
        let columns = cos * -centre.0 + sin * -centre.1 + 0.0 + centre.0;
        let rows = minus_sin * -centre.0 + cos * -centre.1 + 0.0 + centre.1;
        Map([cos, sin, columns, minus_sin, cos, rows])
    }

    /// The picture as it looks through the map.
    pub(super) fn apply(self, picture: &mut Picture, filter: Filter, fill: [u8; 3]) {
        let source = Source { width: picture.width, rows: picture.height, pixels: picture.rgb.as_chunks::<3>().0 };
        picture.rgb = Arch::new().dispatch(Looked { map: self, source, filter, fill });
    }
}

#[derive(Clone, Copy)]
struct Source<'a> {
    width: usize,
    rows: usize,
    pixels: &'a [[u8; 3]],
}

struct Looked<'a> {
    map: Map,
    source: Source<'a>,
    filter: Filter,
    fill: [u8; 3],
}

impl WithSimd for Looked<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Looked { map: Map([a, b, c, d, e, f]), source, filter, fill } = self;
        let mut rgb = vec![0; source.pixels.len() * 3];
        let (pixels, _) = rgb.as_chunks_mut::<3>();
        for (y, row) in pixels.chunks_exact_mut(source.width).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
                let from = (a * x + b * y + c, d * x + e * y + f);
                let inside =
                    from.0 >= 0.0 && from.0 < source.width as f64 && from.1 >= 0.0 && from.1 < source.rows as f64;
                *pixel = match filter {
                    _ if !inside => fill,
                    Filter::Bilinear => source.linear(from),
                    Filter::Bicubic => source.cubic(from),
                };
            }
        }
        rgb
    }
}

impl<'a> Source<'a> {
    #[inline(always)]
    fn linear(&self, (x, y): (f64, f64)) -> [u8; 3] {
        let ((column, dx), (row, dy)) = (split(x - 0.5), split(y - 0.5));
        let (columns, rows) = self.around::<2>(column, row);
        std::array::from_fn(|channel| {
            let byte = |row: usize, column: usize| f64::from(rows[row][columns[column]][channel]);
            let across = |row: usize| between(byte(row, 0), byte(row, 1), dx);
            between(across(0), across(1), dy) as u8
        })
    }

    #[inline(always)]
    fn cubic(&self, (x, y): (f64, f64)) -> [u8; 3] {
        let ((column, dx), (row, dy)) = (split(x - 0.5), split(y - 0.5));
        let (columns, rows) = self.around::<4>(column - 1, row - 1);
        std::array::from_fn(|channel| {
            let across = |row: usize| {
                let byte = |column: usize| i32::from(rows[row][columns[column]][channel]);
                let (a, b, c, d) = (byte(0), byte(1), byte(2), byte(3));
                horner([b, c - a, 2 * (a - b) + c - d, b - a + d - c].map(f64::from), dx)
            };
            let (a, b, c, d) = (across(0), across(1), across(2), across(3));
            horner([b, -a + c, 2.0 * (a - b) + c - d, -a + b - c + d], dy) as u8
        })
    }

    /// N columns and rows from one of each on, those at the edge for those beyond.
    #[inline(always)]
    fn around<const N: usize>(&self, column: isize, row: isize) -> ([usize; N], [&'a [[u8; 3]]; N]) {
        let within = |at: isize, length: usize| at.clamp(0, length as isize - 1) as usize;
        let columns = std::array::from_fn(|k| within(column + k as isize, self.width));
        let rows = std::array::from_fn(|k| {
            let first = within(row + k as isize, self.rows) * self.width;
            &self.pixels[first..first + self.width]
        });
        (columns, rows)
    }
}

/// The whole number below, and the rest. `place` is −½ or more.
#[inline(always)]
fn split(place: f64) -> (isize, f64) {
    let whole = if place < 0.0 { -1 } else { place as isize };
    (whole, place - whole as f64)
}

#[inline(always)]
fn between(a: f64, b: f64, share: f64) -> f64 {
    a + (b - a) * share
}

/// A cubic: of Keys' with a = −1 through four values, at `share` of the way from the second to the third.
#[inline(always)]
fn horner([zeroth, first, second, third]: [f64; 4], share: f64) -> f64 {
    zeroth + share * (first + share * (second + share * third))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: usize, height: usize) -> Picture {
        let byte = |k: usize| ((k * 2_654_435_761) >> 9) as u8;
        Picture::new(width, height, (0..width * height * 3).map(byte).collect())
    }

    #[test]
    fn whole_pixels_are_moved_and_the_rest_filled() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let picture = noise(5, 4);
            let mut shifted = picture.clone();
            Map::shift(2.0, -1.0).apply(&mut shifted, filter, [1, 2, 3]);
            assert_eq!(shifted.rgb[..15], [1, 2, 3].repeat(5)[..], "the first row comes from above the picture");
            assert_eq!(shifted.crop(0, 1, 3, 3), picture.crop(2, 0, 3, 3));
            assert_eq!(shifted.crop(3, 1, 2, 3).rgb, [1, 2, 3].repeat(6));
        }
    }

    #[test]
    fn a_quarter_turn_four_times_is_nothing_and_once_brings_the_right_to_the_top() {
        let picture = noise(6, 6);
        let mut turned = picture.clone();
        for quarter in 0..4 {
            Map::turn(90.0, (6, 6)).apply(&mut turned, Filter::Bicubic, [0; 3]);
            if quarter == 0 {
                assert_eq!(turned.rgb[..3], picture.rgb[5 * 3..][..3]);
            }
        }
        assert_eq!(turned, picture);
    }

    #[test]
    fn halfway_between_two_pixels_lies_their_mean_without_its_fraction() {
        let mut picture = Picture::new(2, 1, vec![10, 0, 255, 21, 0, 255]);
        Map::shift(0.5, 0.0).apply(&mut picture, Filter::Bilinear, [9; 3]);
        // The second would lie on the edge of the picture, which is outside.
        assert_eq!(picture.rgb, [15, 0, 255, 9, 9, 9]);
    }
}
