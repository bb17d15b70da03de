//! A picture that is drawn on: rectangles, frames, tiles.

use std::path::Path;

use anyhow::Result;
use image::{ImageFormat, RgbImage};

use crate::exit::{Exit, Failure};

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// Left, top, width, height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// A picture in the making.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>, // (height, width, 3)
}

impl Canvas {
    /// A picture of one colour.
    pub(super) fn new(width: usize, height: usize, colour: Rgb) -> Canvas {
        Canvas { width, height, rgb: colour.repeat(width * height) }
    }

    /// Fills a rectangle; what lies outside the picture is left out.
    pub(super) fn fill(&mut self, rect: Rect, colour: Rgb) {
        for y in rect.top..(rect.top + rect.height).min(self.height) {
            for x in rect.left..(rect.left + rect.width).min(self.width) {
                self.put(x, y, colour);
            }
        }
    }

    /// Draws a frame of `thickness` pixels inside a rectangle.
    pub(super) fn frame(&mut self, rect: Rect, thickness: usize, colour: Rgb) {
        let Rect { left, top, width, height } = rect;
        let (across, down) = (thickness.min(width), thickness.min(height));
        self.fill(Rect { height: down, ..rect }, colour);
        self.fill(Rect { top: top + height - down, height: down, ..rect }, colour);
        self.fill(Rect { width: across, ..rect }, colour);
        self.fill(Rect { left: left + width - across, width: across, ..rect }, colour);
    }

    /// Colours one pixel.
    pub(super) fn put(&mut self, x: usize, y: usize, colour: Rgb) {
        let at = (y * self.width + x) * 3;
        self.rgb[at..at + 3].copy_from_slice(&colour);
    }

    /// Writes the picture as PNG.
    pub(super) fn save(self, path: &Path) -> Result<()> {
        let image = RgbImage::from_raw(self.width as u32, self.height as u32, self.rgb).expect("three bytes a pixel");
        image.save_with_format(path, ImageFormat::Png).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot write the picture {}", path.display()))
                .because(error)
                .remedy("name a file in a folder that exists and that you may write to (--out)")
        })?;
        Ok(())
    }
}

/// Dark blue over green to yellow for 0..1: even steps look even, in grey too (a fit of matplotlib's viridis at eight points).
pub(super) fn heat(value: f64) -> Rgb {
    const STOPS: [[f64; 3]; 8] = [
        [68.0, 1.0, 84.0],
        [70.0, 50.0, 127.0],
        [54.0, 92.0, 141.0],
        [39.0, 127.0, 142.0],
        [31.0, 161.0, 135.0],
        [74.0, 194.0, 109.0],
        [159.0, 218.0, 58.0],
        [253.0, 231.0, 37.0],
    ];
    let place = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(STOPS.len() - 1);
    std::array::from_fn(|c| (STOPS[low][c] + part * (STOPS[high][c] - STOPS[low][c])).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_colours_its_border_and_nothing_else() {
        let mut canvas = Canvas::new(6, 5, [0; 3]);
        canvas.frame(Rect { left: 1, top: 1, width: 4, height: 3 }, 1, [9; 3]);
        let coloured: Vec<usize> = (0..30).filter(|pixel| canvas.rgb[pixel * 3] == 9).collect();
        assert_eq!(coloured, [7, 8, 9, 10, 13, 16, 19, 20, 21, 22]);
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let mut canvas = Canvas::new(2, 2, [0; 3]);
        canvas.fill(Rect { left: 1, top: 1, width: 9, height: 9 }, [1; 3]);
        assert_eq!(canvas.rgb.iter().map(|x| usize::from(*x)).sum::<usize>(), 3);
    }
}
