//! Cuts images into patches, in the order in which a convolution with stride = kernel = p reads them:
//! row r of the result holds channel by channel, line by line, the p×p patch number index[r].

use crate::buf::{View, ViewMut};
use crate::cuda::calls;
use crate::tape::{Tape, Var};
use crate::threads;

/// Images and their patches.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Height and width in pixels, both multiples of the patch.
    pub size: (usize, usize),
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Patches taken of an image at a time, c.
    pub kept: usize,
}

impl Shape {
    /// Values of a patch.
    pub fn width(self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Patches of an image.
    pub fn patches(self) -> usize {
        (self.size.0 / self.patch) * (self.size.1 / self.patch)
    }
}

impl Tape<'_> {
    /// images (b, 3, h, w) → the patches named by index (k·b, c) → (k·b·c, 3·p·p). No gradient flows to images.
    pub fn patchify(&mut self, images: View, index: &[u32], shape: Shape) -> Var {
        let mut y = self.take(index.len() * shape.width());
        forward(y.view_mut(), images, index, shape);
        self.var(y, index.len(), shape.width(), false)
    }
}

/// y (k·b·c, 3·p·p) =; images (b, 3, h, w), index (k·b, c) patch numbers counted row by row: k selections, each
/// running over all images.
///
/// # Panics
/// When a patch number lies outside the image.
pub fn forward(y: ViewMut, images: View, index: &[u32], shape: Shape) {
    let Shape { batch, channels, size: (height, width), patch, kept } = shape;
    assert_eq!(images.len(), batch * channels * height * width, "{shape:?}");
    if let Some(device) = images.device() {
        assert!(index.iter().all(|&patch| (patch as usize) < shape.patches()), "of {} patches", shape.patches());
        let at = device.upload(index);
        return device.run(calls::patchify(y.bf16(), images.bf16(), at.at(), index.len(), shape));
    }
    let (y, images) = (y.cpu(), images.cpu());
    let columns = width / patch;
    threads::for_rows(y, shape.width(), |first, y| {
        for (offset, y) in y.chunks_exact_mut(shape.width()).enumerate() {
            let row = first + offset;
            let number = index[row] as usize;
            assert!(number < shape.patches(), "patch {number} of {}", shape.patches());
            let (top, left) = (number / columns * patch, number % columns * patch);
            let image = &images[row / kept % batch * channels * height * width..];
            for (line, y) in y.chunks_exact_mut(patch).enumerate() {
                let (channel, line) = (line / patch, line % patch);
                let start = (channel * height + top + line) * width + left;
                y.copy_from_slice(&image[start..start + patch]);
            }
        }
    });
}

/// The plain statement.
pub mod reference {
    use super::Shape;

    /// y (k·b·c, 3·p·p) = the patches of images named by index.
    pub fn forward(y: &mut [f32], images: &[f32], index: &[u32], shape: Shape) {
        let Shape { batch, channels, size: (height, width), patch, kept } = shape;
        let mut out = y.iter_mut();
        for (row, &number) in index.iter().enumerate() {
            let image = row / kept % batch;
            let (top, left) = (number as usize / (width / patch), number as usize % (width / patch));
            for channel in 0..channels {
                for line in 0..patch {
                    for column in 0..patch {
                        let at = ((image * channels + channel) * height + top * patch + line) * width
                            + left * patch
                            + column;
                        *out.next().expect("y has a value for each pixel of each patch") = images[at];
                    }
                }
            }
        }
    }
}
