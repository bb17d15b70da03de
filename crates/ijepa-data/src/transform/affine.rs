//! How is a picture turned, shifted and sheared? Every pixel is looked up where an affine map says it comes from, in Pillow's
//! arithmetic: interpolated without widening the filter, fractions dropped; from outside the picture comes a fill colour.

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
        let Map([a, b, c, d, e, f]) = self;
        let source = Source { width: picture.width, rows: picture.height, pixels: picture.rgb.as_chunks::<3>().0 };
        let mut rgb = Vec::with_capacity(picture.rgb.len());
        for y in 0..picture.height {
            for x in 0..picture.width {
                let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
                let from = (a * x + b * y + c, d * x + e * y + f);
                let inside = (0.0..picture.width as f64).contains(&from.0) && (0.0..picture.height as f64).contains(&from.1);
                rgb.extend(if inside { source.at(from, filter) } else { fill });
            }
        }
        picture.rgb = rgb;
    }
}

struct Source<'a> {
    width: usize,
    rows: usize,
    pixels: &'a [[u8; 3]],
}

impl Source<'_> {
    fn at(&self, (x, y): (f64, f64), filter: Filter) -> [u8; 3] {
        let (x, y) = (x - 0.5, y - 0.5);
        let (column, row) = (x.floor(), y.floor());
        let (dx, dy) = (x - column, y - row);
        let (column, row) = (column as isize, row as isize);
        match filter {
            Filter::Bilinear => {
                let pixels = self.around::<2>(column, row);
                std::array::from_fn(|channel| {
                    let [above, below] = pixels.map(|pixels| between(pixels.map(|pixel| f64::from(pixel[channel])), dx));
                    between([above, below], dy) as u8
                })
            }
            Filter::Bicubic => {
                let pixels = self.around::<4>(column - 1, row - 1);
                std::array::from_fn(|channel| {
                    cubic(pixels.map(|pixels| cubic(pixels.map(|pixel| f64::from(pixel[channel])), dx)), dy) as u8
                })
            }
        }
    }

    /// N×N pixels from a column and row on, those at the edge for those beyond.
    fn around<const N: usize>(&self, column: isize, row: isize) -> [[[u8; 3]; N]; N] {
        let within = |at: isize, length: usize| at.clamp(0, length as isize - 1) as usize;
        let columns: [usize; N] = std::array::from_fn(|k| within(column + k as isize, self.width));
        std::array::from_fn(|k| {
            let row = &self.pixels[within(row + k as isize, self.rows) * self.width..][..self.width];
            columns.map(|column| row[column])
        })
    }
}

fn between([a, b]: [f64; 2], share: f64) -> f64 {
    a + (b - a) * share
}

/// Keys' cubic with a = −1 at `share` of the way from the second to the third, by Horner's rule.
fn cubic([a, b, c, d]: [f64; 4], share: f64) -> f64 {
    let (first, second, third) = (-a + c, 2.0 * (a - b) + c - d, -a + b - c + d);
    b + share * (first + share * (second + share * third))
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
        assert_eq!(picture.rgb, [15, 0, 255, 21, 0, 255]);
    }
}
