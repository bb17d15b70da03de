//! What is a decoded picture? Eight-bit RGB, row by row, nothing else.

use crate::transform::CropBox;

/// A picture in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue of every pixel, row by row.
    pub rgb: Vec<u8>, // (h, w, 3)
}

impl Picture {
    /// A picture from its bytes. Panics unless `rgb` holds `height`·`width`·3 bytes and neither side is 0.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Picture {
        assert!(width > 0 && height > 0, "a picture needs pixels, got {width}×{height}");
        assert_eq!(rgb.len(), width * height * 3, "a {width}×{height} picture holds width·height·3 bytes");
        Picture { width, height, rgb }
    }

    /// The part of `width`×`height` pixels whose upper left pixel is (`left`, `top`). Panics where it leaves the picture.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Picture {
        assert!(
            left + width <= self.width && top + height <= self.height,
            "crop {width}×{height} at ({left}, {top}) leaves the {}×{} picture",
            self.width,
            self.height
        );
        let mut rgb = Vec::with_capacity(width * height * 3);
        for row in top..top + height {
            let start = (row * self.width + left) * 3;
            rgb.extend_from_slice(&self.rgb[start..start + width * 3]);
        }
        Picture::new(width, height, rgb)
    }

    /// As [`Picture::crop`]; the whole picture costs nothing.
    pub(crate) fn cut(self, part: CropBox) -> Picture {
        if part == (CropBox { left: 0, top: 0, width: self.width, height: self.height }) {
            return self;
        }
        self.crop(part.left, part.top, part.width, part.height)
    }
}
