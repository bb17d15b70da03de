//! How is a picture brought to another size? By the filters of Pillow's `resize`, to the bit.
//!
//! A wanted pixel is a weighted mean of the pixels around the place it comes from. The filter is as wide as it is when nothing
//! changes its size, or, where the picture shrinks, as many times wider as it shrinks (antialiased). First the columns, then the
//! rows; weights are multiples of 2⁻²², and each of the two steps rounds to 8 bits. The loops are compiled for AVX2 too, and chosen when the
//! program runs.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::CropBox;
use crate::picture::Picture;

/// How pixels between pixels are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// A triangle that reaches one pixel to either side.
    #[default]
    Bilinear,
    /// Keys' cubic with a = −½, that reaches two pixels to either side.
    Bicubic,
}

/// Bits of a weight behind the point. A sum of 255·weight with the negative parts of the cubic needs 31.
const BITS: u32 = 22;

impl Filter {
    /// Pixels to either side that have a weight.
    fn reach(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    /// The weight at a distance in pixels.
    fn weight(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Filter::Bicubic => 0.0,
        }
    }
}

/// The picture at another size, that the sides need not shrink to alike.
pub fn resize(picture: Picture, width: usize, height: usize, filter: Filter) -> Picture {
    Region::whole(picture).resize(width, height, filter)
}

/// A part of what [`resize`] would make of the picture at `width`×`height` pixels; the rest is not computed.
///
/// # Panics
/// When the part is empty or leaves the resized picture.
pub fn resize_part(picture: &Picture, (width, height): (usize, usize), part: CropBox, filter: Filter) -> Picture {
    assert!(
        part.width > 0 && part.height > 0 && part.left + part.width <= width && part.top + part.height <= height,
        "{part:?} of {width}×{height} pixels"
    );
    if (picture.width, picture.height) == (width, height) {
        return picture.crop(part.left, part.top, part.width, part.height);
    }
    let down = Weights::new((0.0, picture.height as f64), picture.height, height, filter);
    let across = Weights::new((0.0, picture.width as f64), picture.width, width, filter);
    let (down, across) = (down.of(part.top..part.top + part.height), across.of(part.left..part.left + part.width));
    apply(picture, CropBox { left: 0, top: 0, width: picture.width, height: picture.height }, &across, &down)
}

/// Where something lies, in pixels; borders may lie within pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Distance of its left border.
    pub left: f64,
    /// Distance of its upper border.
    pub top: f64,
    /// Distance between its left and right borders.
    pub width: f64,
    /// Distance between its upper and lower borders.
    pub height: f64,
}

impl Span {
    /// All of so many pixels.
    pub fn of(width: usize, height: usize) -> Span {
        Span { left: 0.0, top: 0.0, width: width as f64, height: height as f64 }
    }
}

/// A picture of which a part is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// The picture.
    pub picture: Picture,
    /// Its pixels that count: to filters, the rest is not there.
    pub bounds: CropBox,
    /// What is wanted, from the upper left corner of the bounds.
    pub span: Span,
}

impl Region {
    /// All of a picture.
    pub fn whole(picture: Picture) -> Region {
        let (width, height) = (picture.width, picture.height);
        Region { picture, bounds: CropBox { left: 0, top: 0, width, height }, span: Span::of(width, height) }
    }

    /// The pixels that count, as a picture of their own.
    pub fn cut(self) -> Picture {
        self.picture.cut(self.bounds)
    }

    /// What is wanted at `width`×`height` pixels: Pillow's `crop` of the bounds, then its `resize` with the span as `box`.
    ///
    /// # Panics
    /// When the span is empty or leaves the bounds, or they the picture.
    pub fn resize(self, width: usize, height: usize, filter: Filter) -> Picture {
        let Region { bounds, span, .. } = self;
        if span == Span::of(bounds.width, bounds.height) && (bounds.width, bounds.height) == (width, height) {
            return self.cut();
        }
        let within =
            |begin: f64, length: f64, whole: usize| begin >= 0.0 && length > 0.0 && begin + length <= whole as f64;
        assert!(
            within(span.left, span.width, bounds.width) && within(span.top, span.height, bounds.height),
            "{span:?} of {bounds:?}"
        );
        let down = Weights::new((span.top, span.height), bounds.height, height, filter);
        let across = Weights::new((span.left, span.width), bounds.width, width, filter);
        apply(&self.picture, bounds, &across, &down)
    }
}

/// First the columns, then the rows, of the pixels within `bounds`.
fn apply(picture: &Picture, bounds: CropBox, across: &Weights, down: &Weights) -> Picture {
    let rows = down.sources();
    let taken = CropBox { top: bounds.top + rows.start, height: rows.len(), ..bounds };
    let narrow = across.apply_to_columns(picture, taken);
    down.apply_to_rows(&narrow, rows.start)
}

/// What a stretch of wanted pixels is made of, along one axis.
struct Weights {
    /// The first source pixel of each wanted one.
    first: Vec<usize>,
    /// Source pixels that a wanted one may have.
    most: usize,
    /// Source pixels of each wanted one.
    count: Vec<usize>,
    values: Vec<i32>, // (wanted, most)
}

impl Weights {
    /// When it is a span of so many of the `source` pixels, from a place on, that becomes `length`.
    fn new((begin, span): (f64, f64), source: usize, length: usize, filter: Filter) -> Weights {
        let scale = span / length as f64;
        let widened = scale.max(1.0);
        let reach = filter.reach() * widened;
        let most = 2 * reach.ceil() as usize + 1;
        let (mut first, mut count) = (Vec::with_capacity(length), Vec::with_capacity(length));
        let mut values = vec![0; length * most];
        let mut exact = vec![0.0; most];
        for (pixel, values) in values.chunks_exact_mut(most).enumerate() {
            let centre = begin + (pixel as f64 + 0.5) * scale;
            // Both ends to the nearest pixel border; a negative number becomes 0.
            let begin = (centre - reach + 0.5) as usize;
            let end = ((centre + reach + 0.5) as usize).min(source);
            let narrower = 1.0 / widened;
            let mut sum = 0.0;
            for (weight, at) in exact.iter_mut().zip(begin..end) {
                *weight = filter.weight((at as f64 - centre + 0.5) * narrower);
                sum += *weight;
            }
            for (value, weight) in values.iter_mut().zip(&exact[..end - begin]) {
                *value = (weight / sum * f64::from(1 << BITS)).round() as i32;
            }
            first.push(begin);
            count.push(end - begin);
        }
        Weights { first, most, count, values }
    }

    /// Those of some of the wanted pixels.
    fn of(mut self, wanted: Range<usize>) -> Weights {
        self.values = self.values[wanted.start * self.most..wanted.end * self.most].to_vec();
        self.first = self.first[wanted.clone()].to_vec();
        self.count = self.count[wanted].to_vec();
        self
    }

    /// From the first to the last source pixel that any wanted one needs.
    fn sources(&self) -> Range<usize> {
        let last = self.first.len() - 1;
        self.first[0]..self.first[last] + self.count[last]
    }

    /// First source pixel and weights of each wanted pixel.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let values = self.values.chunks_exact(self.most);
        self.first.iter().zip(&self.count).zip(values).map(|((&first, &count), values)| (first, &values[..count]))
    }

    /// Makes the wanted columns of a part of a picture.
    fn apply_to_columns(&self, picture: &Picture, part: CropBox) -> Picture {
        let wanted = self.first.len();
        let mut out = Picture::new(wanted, part.height, vec![0; wanted * part.height * 3]);
        Arch::new().dispatch(Columns { weights: self, picture, part, out: &mut out });
        out
    }

    /// Makes the wanted rows of a picture that begins at row `begin` of the source.
    fn apply_to_rows(&self, picture: &Picture, begin: usize) -> Picture {
        let stride = picture.width * 3;
        let mut out = Picture::new(picture.width, self.first.len(), vec![0; self.first.len() * stride]);
        Arch::new().dispatch(Rows { weights: self, picture, begin, out: &mut out });
        out
    }
}

/// Rows whose pixels of one column lie side by side, so that one operation works on all of them.
const TOGETHER: usize = 8;
/// Bytes of such a column; a pixel has four, the last of them its neighbour's.
const LANES: usize = 4 * TOGETHER;
/// Sums that stay in one register while the weights are gone through.
const REGISTER: usize = 8;
/// Sums of a row that stay in registers while the rows are gone through.
const WIDE: usize = 32;

struct Columns<'a> {
    weights: &'a Weights,
    picture: &'a Picture,
    part: CropBox,
    out: &'a mut Picture,
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (stride, wanted) = (self.picture.width * 3, self.weights.first.len());
        let CropBox { left, top, width, height } = self.part;
        let mut columns = vec![[0u8; LANES]; width];
        let blocks = self.out.rgb.chunks_mut(TOGETHER * wanted * 3);
        for (out, first_row) in blocks.zip((top..top + height).step_by(TOGETHER)) {
            for (place, row) in (first_row..top + height).take(TOGETHER).enumerate() {
                let row = &self.picture.rgb[row * stride + left * 3..][..width * 3];
                let (last, lane) = (width - 1, 4 * place);
                for (column, pixel) in columns.iter_mut().zip(row.windows(4).step_by(3)) {
                    column[lane..lane + 4].copy_from_slice(pixel);
                }
                columns[last][lane..lane + 3].copy_from_slice(&row[last * 3..]);
            }
            for (x, (first, weights)) in self.weights.iter().enumerate() {
                let mut bytes = [0; LANES];
                for (lane, bytes) in (0..LANES).step_by(REGISTER).zip(bytes.as_chunks_mut::<REGISTER>().0) {
                    let mut sums = [1 << (BITS - 1); REGISTER];
                    for (column, &weight) in columns[first..].iter().zip(weights) {
                        for (sum, &byte) in sums.iter_mut().zip(&column[lane..lane + REGISTER]) {
                            *sum += weight * i32::from(byte);
                        }
                    }
                    *bytes = sums.map(rounded);
                }
                for (out, pixel) in out.chunks_exact_mut(wanted * 3).zip(bytes.as_chunks::<4>().0) {
                    out[x * 3..x * 3 + 3].copy_from_slice(&pixel[..3]);
                }
            }
        }
    }
}

struct Rows<'a> {
    weights: &'a Weights,
    picture: &'a Picture,
    begin: usize,
    out: &'a mut Picture,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let stride = self.picture.width * 3;
        for (out, (first, weights)) in self.out.rgb.chunks_exact_mut(stride).zip(self.weights.iter()) {
            let rows = &self.picture.rgb[(first - self.begin) * stride..][..weights.len() * stride];
            let (wide, rest) = out.as_chunks_mut::<WIDE>();
            for (place, out) in wide.iter_mut().enumerate() {
                weigh(out, rows, stride, place * WIDE, weights);
            }
            for (place, out) in (wide.len() * WIDE..).zip(rest) {
                weigh(std::array::from_mut(out), rows, stride, place, weights);
            }
        }
    }
}

/// `N` bytes of a row, from a place on, that is made of rows.
#[inline(always)]
fn weigh<const N: usize>(out: &mut [u8; N], rows: &[u8], stride: usize, place: usize, weights: &[i32]) {
    let mut sums = [1 << (BITS - 1); N];
    for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
        for (sum, &byte) in sums.iter_mut().zip(&row[place..place + N]) {
            *sum += weight * i32::from(byte);
        }
    }
    *out = sums.map(rounded);
}

/// A sum that began at one half, without its bits behind the point.
#[inline(always)]
fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One axis as it is told at the head of this file, value by value; `step` bytes lie between neighbours.
    fn plain(bytes: &[u8], length: usize, filter: Filter, step: usize) -> Vec<u8> {
        let source = bytes.len() / step;
        let scale = source as f64 / length as f64;
        let wide = scale.max(1.0);
        let mut out = vec![0; length * step];
        for (k, byte) in out.iter_mut().enumerate() {
            let (pixel, lane) = (k / step, k % step);
            let centre = (pixel as f64 + 0.5) * scale;
            let near = |at: &usize| {
                let (low, high) = (centre - filter.reach() * wide + 0.5, centre + filter.reach() * wide + 0.5);
                *at as f64 >= low.max(0.0).floor() && (*at as f64) < high.floor()
            };
            let weights: Vec<(usize, f64)> =
                (0..source).filter(near).map(|at| (at, filter.weight((at as f64 + 0.5 - centre) / wide))).collect();
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            let sum: i64 = weights
                .iter()
                .map(|(at, weight)| {
                    (weight / total * f64::from(1 << BITS)).round() as i64 * i64::from(bytes[at * step + lane])
                })
                .sum();
            *byte = ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8;
        }
        out
    }

    fn noise(width: usize, height: usize) -> Picture {
        let byte = |k: usize| ((k * 2_654_435_761) >> 9) as u8;
        Picture::new(width, height, (0..width * height * 3).map(byte).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_fast_way_is_the_plain_way(
            width in 1usize..40, height in 1usize..40, wide in 1usize..40, tall in 1usize..40, cubic in any::<bool>()
        ) {
            let filter = if cubic { Filter::Bicubic } else { Filter::Bilinear };
            let picture = noise(width, height);
            let columns: Vec<u8> = picture.rgb.chunks_exact(width * 3).flat_map(|row| plain(row, wide, filter, 3)).collect();
            let expected = plain(&columns, tall, filter, wide * 3);
            let resized = resize(picture, wide, tall, filter);
            // Weights are computed in another order here, so the last of 22 bits may differ.
            let far = resized.rgb.iter().zip(&expected).filter(|(a, b)| a.abs_diff(**b) > 1).count();
            let differing = resized.rgb.iter().zip(&expected).filter(|(a, b)| a != b).count();
            prop_assert_eq!((resized.width, resized.height, far), (wide, tall, 0));
            prop_assert!(differing * 100 <= expected.len(), "{} of {}", differing, expected.len());
        }

        #[test]
        fn a_span_of_whole_pixels_is_that_part_where_the_filter_reaches_no_further(
            width in 1usize..20, height in 1usize..20, left in 0usize..9, top in 0usize..9, right in 0usize..9, times in 2usize..5
        ) {
            // Where nothing shrinks, the triangle of the outermost wanted pixels reaches half a pixel out; so a border of equal pixels.
            let part = noise(width, height);
            let mut around = Picture::new(width + left + right, height + top, vec![0; (width + left + right) * (height + top) * 3]);
            for y in 0..height + top {
                for x in 0..width + left + right {
                    let (from_x, from_y) = (x.saturating_sub(left).min(width - 1), y.saturating_sub(top));
                    let pixel = (from_y * width + from_x) * 3;
                    let place = (y * around.width + x) * 3;
                    around.rgb[place..place + 3].copy_from_slice(&part.rgb[pixel..pixel + 3]);
                }
            }
            let span = Span { left: left as f64, top: top as f64, ..Span::of(width, height) };
            let (wide, tall) = (width * times, height * times);
            let cut = Region { span, ..Region::whole(around) }.resize(wide, tall, Filter::Bilinear);
            let whole = resize(part, wide, tall, Filter::Bilinear);
            prop_assert!(cut.rgb.iter().zip(&whole.rgb).all(|(a, b)| a.abs_diff(*b) <= 1));
        }

        #[test]
        fn nothing_outside_its_bounds_counts(
            width in 1usize..60, height in 1usize..60, wide in 1usize..60, tall in 1usize..60,
            place in (0usize..1000, 0usize..1000, 0usize..1000, 0usize..1000), cubic in any::<bool>()
        ) {
            let filter = if cubic { Filter::Bicubic } else { Filter::Bilinear };
            let (left, top) = (place.0 % width, place.1 % height);
            let bounds = CropBox { left, top, width: place.2 % (width - left) + 1, height: place.3 % (height - top) + 1 };
            let picture = noise(width, height);
            let alone = resize(picture.crop(left, top, bounds.width, bounds.height), wide, tall, filter);
            let region = Region { picture, bounds, span: Span::of(bounds.width, bounds.height) };
            prop_assert_eq!(region.resize(wide, tall, filter), alone);
        }

        #[test]
        fn a_part_is_a_part_of_the_whole(
            width in 1usize..60, height in 1usize..60, wide in 1usize..60, tall in 1usize..60,
            place in (0usize..1000, 0usize..1000, 0usize..1000, 0usize..1000), cubic in any::<bool>()
        ) {
            let filter = if cubic { Filter::Bicubic } else { Filter::Bilinear };
            let (left, top) = (place.0 % wide, place.1 % tall);
            let part = CropBox { left, top, width: place.2 % (wide - left) + 1, height: place.3 % (tall - top) + 1 };
            let picture = noise(width, height);
            let whole = resize(picture.clone(), wide, tall, filter);
            let cut = resize_part(&picture, (wide, tall), part, filter);
            prop_assert_eq!(cut, whole.crop(part.left, part.top, part.width, part.height));
        }
    }

    #[test]
    fn the_cubic_meets_its_weights_by_hand() {
        // 2 → 4 pixels: the first lies a quarter pixel left of the first source centre, whose weight is that of distance ¼,
        // 111/128; the second source is 1¼ away: −9/128. Their sum is not 1: 111/102 and −9/102 of 200 and 40 are 214.
        let rgb = [200u8, 40].iter().flat_map(|&byte| [byte; 3]).collect();
        let wide = resize(Picture::new(2, 1, rgb), 4, 1, Filter::Bicubic);
        assert_eq!(wide.rgb[..3], [214; 3]);
    }
}
