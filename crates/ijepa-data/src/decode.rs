//! How do bytes become a picture?
//!
//! By content, never by file name. Everything becomes 8-bit RGB as Pillow's `convert("RGB")` does it: grey is repeated,
//! alpha is dropped (not blended), palettes and CMYK are resolved, of an animation the first frame counts. Deep samples are
//! scaled to 8 bits. The EXIF orientation is applied. Sizes are checked before pixels are decoded, so a small file that
//! declares a huge picture costs nothing.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use crate::error::{DataError, DecodeError};
use crate::picture::Picture;

/// What a single picture may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels.
    pub pixels: u64,
    /// Most bytes that a decoder may allocate, and most bytes of a file.
    pub bytes: u64,
}

impl Default for Limits {
    /// 100 megapixels and 512 MiB: above any photo worth training on, below what hurts.
    fn default() -> Limits {
        Limits { pixels: 100_000_000, bytes: 512 << 20 }
    }
}

/// A picture from the bytes of an encoded image. Decoders that panic on hostile input count as broken input.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    catch_unwind(AssertUnwindSafe(|| decode_unguarded(bytes, limits)))
        .unwrap_or_else(|_| Err(DecodeError::Broken("the decoder gave up on this content".into())))
}

/// A picture from a file, within the default [`Limits`].
pub fn decode_file(path: &Path) -> Result<Picture, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let broken = |source| DataError::Decode { name: path.display().to_string(), source };
    let limits = Limits::default();
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(broken(DecodeError::Broken("not a regular file".into())));
    }
    if metadata.len() > limits.bytes {
        let problem = format!("the file has {} bytes, over the limit of {}", metadata.len(), limits.bytes);
        return Err(broken(DecodeError::Broken(problem)));
    }
    decode(&std::fs::read(path).map_err(io)?, limits).map_err(broken)
}

fn decode_unguarded(bytes: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| DecodeError::Broken(error.to_string()))?;
    match reader.format() {
        None => return Err(DecodeError::UnknownFormat),
        // The decoder would paint what is missing in grey.
        Some(ImageFormat::Jpeg) if !jpeg_has_end(bytes) => return Err(DecodeError::Truncated),
        Some(_) => (),
    }
    let mut decoder_limits = image::Limits::default();
    decoder_limits.max_alloc = Some(limits.bytes);
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(DecodeError::NoPixels { width, height });
    }
    if u64::from(width) * u64::from(height) > limits.pixels {
        return Err(DecodeError::TooManyPixels { width, height, limit: limits.pixels });
    }
    // An unreadable EXIF block says nothing about the picture itself.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    let rgb = image.into_rgb8();
    Ok(Picture::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw()))
}

/// Whether the markers of a JPEG lead to its end marker. Segments with a length are jumped over, because an EXIF block may
/// hold a whole thumbnail with an end of its own.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 2; // after the start marker
    while let Some(&[mark, kind]) = bytes.get(at..at + 2) {
        match (mark, kind) {
            (0xff, 0xd9) => return true,
            // Coded data and stuffing, fill bytes, restart and other markers without a length.
            (..=0xfe, _) | (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(length) => at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
    false
}

fn broken(error: ImageError) -> DecodeError {
    match error {
        // The `image` crate names no format when the content is of a kind that was left out of it.
        ImageError::Unsupported(unsupported)
            if matches!(unsupported.kind(), image::error::UnsupportedErrorKind::Format(_)) =>
        {
            DecodeError::UnknownFormat
        }
        other => DecodeError::Broken(other.to_string()),
    }
}
