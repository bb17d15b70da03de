//! How do bytes become a picture?
//!
//! By content, never by file name. Everything becomes 8-bit RGB as Pillow's `convert("RGB")` does it: grey is repeated,
//! alpha is dropped (not blended), palettes and CMYK are resolved, of an animation the first frame counts. Deep samples are
//! scaled to 8 bits. The EXIF orientation is applied. Sizes are checked before pixels are decoded, so a small file that
//! declares a huge picture costs nothing. JPEGs give the bits of libjpeg-turbo, which is what Pillow reads them with.

#[cfg(feature = "avif")]
mod avif;
mod jpeg;
mod palette;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

use crate::error::{DataError, DecodeError};
use crate::picture::Picture;
use crate::transform::{CropBox, Region, Span};

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

/// An image whose size is known and whose pixels are not decoded yet.
pub struct Encoded<'a> {
    /// Columns and rows as stored, before the orientation.
    stored: (usize, usize),
    orientation: Orientation,
    content: Content<'a>,
}

enum Content<'a> {
    Jpeg(Box<jpeg::Jpeg<'a>>),
    Palette(palette::Palette<'a>),
    #[cfg(feature = "avif")]
    Avif(avif::Avif<'a>),
    Other(Box<dyn ImageDecoder + 'a>),
}

impl<'a> Encoded<'a> {
    /// Reads the header of an encoded image. Decoders that panic on hostile input count as broken input.
    pub fn open(bytes: &'a [u8], limits: Limits) -> Result<Encoded<'a>, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        guarded(|| open(bytes, limits))
    }

    /// Columns and rows of the upright picture.
    pub fn size(&self) -> (usize, usize) {
        let (width, height) = self.stored;
        if lies_on_its_side(self.orientation) { (height, width) } else { (width, height) }
    }

    /// The whole picture, upright.
    pub fn picture(self) -> Result<Picture, DecodeError> {
        let (width, height) = self.size();
        self.region(CropBox { left: 0, top: 0, width, height })
    }

    /// A part of the upright picture, to the bit that of [`Encoded::picture`]. What lies outside is decoded no further than it must be,
    /// and damage there may go unnoticed.
    ///
    /// # Panics
    /// When the part leaves the picture or is empty.
    pub fn region(self, part: CropBox) -> Result<Picture, DecodeError> {
        self.region_for(part, usize::MAX).map(Region::cut)
    }

    /// A part of the upright picture, with what was decoded beside it. A JPEG is decoded at the smallest of a half, a quarter and an
    /// eighth of its size at which the part has no side below `least` pixels, if there is one; then borders of the part may lie within
    /// pixels. All else is what [`Encoded::region`] gives.
    ///
    /// # Panics
    /// When the part leaves the picture or is empty.
    pub fn region_for(self, part: CropBox, least: usize) -> Result<Region, DecodeError> {
        let (width, height) = self.size();
        assert!(
            part.width > 0 && part.height > 0 && part.left + part.width <= width && part.top + part.height <= height,
            "{part:?} of {width}×{height} pixels"
        );
        let stored = as_stored(part, self.orientation, (width, height));
        let whole = |picture: Picture| Region { picture, bounds: stored, span: Span::of(stored.width, stored.height) };
        let region = guarded(|| match self.content {
            Content::Jpeg(jpeg) => jpeg.region(stored, least),
            Content::Palette(palette) => palette.picture().map(whole),
            #[cfg(feature = "avif")]
            Content::Avif(avif) => avif.picture().map(whole),
            Content::Other(decoder) => {
                let rgb = DynamicImage::from_decoder(decoder).map_err(broken)?.into_rgb8();
                Ok(whole(Picture::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw())))
            }
        })?;
        Ok(upright(region, self.orientation))
    }
}

/// A picture from the bytes of an encoded image.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    Encoded::open(bytes, limits)?.picture()
}

/// A picture from a file, within the default [`Limits`].
pub fn decode_file(path: &Path) -> Result<Picture, DataError> {
    let broken = |source| DataError::Decode { name: path.display().to_string(), source };
    decode(&read_file(path)?, Limits::default()).map_err(broken)
}

/// The bytes of an image file, within the default [`Limits`].
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let broken = |problem| DataError::Decode { name: path.display().to_string(), source: DecodeError::Broken(problem) };
    let limits = Limits::default();
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(broken("not a regular file".into()));
    }
    if metadata.len() > limits.bytes {
        return Err(broken(format!("the file has {} bytes, over the limit of {}", metadata.len(), limits.bytes)));
    }
    std::fs::read(path).map_err(io)
}

/// The usual ending of a format that can be decoded, by content.
pub fn ending(bytes: &[u8]) -> Option<&'static str> {
    match format(bytes)? {
        ImageFormat::Jpeg => Some("jpg"),
        ImageFormat::Png => Some("png"),
        ImageFormat::WebP => Some("webp"),
        ImageFormat::Gif => Some("gif"),
        ImageFormat::Bmp => Some("bmp"),
        ImageFormat::Tiff => Some("tif"),
        ImageFormat::Pnm => Some("ppm"),
        ImageFormat::Tga => Some("tga"),
        ImageFormat::Ico => Some("ico"),
        ImageFormat::Avif => Some("avif"),
        _ => None,
    }
}

fn format(bytes: &[u8]) -> Option<ImageFormat> {
    // A Targa file says what it is at its end alone.
    let targa = || bytes.ends_with(b"TRUEVISION-XFILE.\0").then_some(ImageFormat::Tga);
    let avif = || is_avif(bytes).then_some(ImageFormat::Avif);
    image::guess_format(bytes).ok().or_else(avif).or_else(targa)
}

/// Whether a container of HEIF begins here that says it is an AVIF: by its main brand, or by one of those that it is compatible with.
fn is_avif(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let length = (u32::from_be_bytes(*length) as usize).min(bytes.len());
    let brands = || bytes.get(8..length).unwrap_or_default().chunks_exact(4);
    // The second is the version of the first.
    rest.starts_with(b"ftyp")
        && brands().enumerate().any(|(place, brand)| place != 1 && matches!(brand, b"avif" | b"avis"))
}

fn guarded<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DecodeError::Broken("the decoder gave up on this content".into())))
}

fn open(bytes: &[u8], limits: Limits) -> Result<Encoded<'_>, DecodeError> {
    let format = format(bytes).ok_or(DecodeError::UnknownFormat)?;
    match format {
        ImageFormat::Jpeg => {
            let jpeg = jpeg::Jpeg::open(bytes, limits)?;
            check_size(jpeg.size(), limits)?;
            return Ok(Encoded {
                stored: jpeg.size(),
                orientation: jpeg.orientation(),
                content: Content::Jpeg(Box::new(jpeg)),
            });
        }
        ImageFormat::Tiff => {
            if let Some(palette) = palette::Palette::open(bytes)? {
                check_size(palette.size(), limits)?;
                return Ok(Encoded {
                    stored: palette.size(),
                    orientation: palette.orientation(),
                    content: Content::Palette(palette),
                });
            }
        }
        ImageFormat::Png => check_png_methods(bytes)?,
        #[cfg(feature = "avif")]
        ImageFormat::Avif => {
            let avif = avif::Avif::open(bytes, limits)?;
            check_size(avif.size(), limits)?;
            return Ok(Encoded { stored: avif.size(), orientation: avif.orientation(), content: Content::Avif(avif) });
        }
        #[cfg(not(feature = "avif"))]
        ImageFormat::Avif => return Err(DecodeError::AvifLeftOut),
        _ => (),
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder_limits = image::Limits::default();
    decoder_limits.max_alloc = Some(limits.bytes);
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let stored = (width as usize, height as usize);
    check_size(stored, limits)?;
    // A broken EXIF block says nothing about the picture itself.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok(Encoded { stored, orientation, content: Content::Other(Box::new(decoder)) })
}

/// PNG has one method of compression; the decoder takes every other for that one.
fn check_png_methods(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut at = 8; // behind the signature
    while let Some((length, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<4>) {
        let length = u32::from_be_bytes(*length) as usize;
        let content = rest.get(4..).unwrap_or_default();
        let content = &content[..length.min(content.len())];
        let method = match rest.get(..4) {
            Some(b"IHDR") => content.get(10),
            // Behind the name of the profile.
            Some(b"iCCP") => content.iter().position(|&byte| byte == 0).and_then(|end| content.get(end + 1)),
            Some(b"IDAT") | None => break,
            Some(_) => None,
        };
        if let Some(method) = method.filter(|&&method| method != 0) {
            return Err(DecodeError::Broken(format!("compression method {method} of a PNG, there is only 0")));
        }
        at += 12 + length;
    }
    Ok(())
}

fn check_size((width, height): (usize, usize), limits: Limits) -> Result<(), DecodeError> {
    let (columns, rows) = (width as u32, height as u32);
    if width == 0 || height == 0 {
        return Err(DecodeError::NoPixels { width: columns, height: rows });
    }
    if width as u64 * height as u64 > limits.pixels {
        return Err(DecodeError::TooManyPixels { width: columns, height: rows, limit: limits.pixels });
    }
    Ok(())
}

/// Whether columns and rows change places when the picture is set upright.
fn lies_on_its_side(orientation: Orientation) -> bool {
    orientation.to_exif() >= 5
}

/// Where a part of the upright picture of `width`×`height` pixels lies in the stored one.
fn as_stored(part: CropBox, orientation: Orientation, (width, height): (usize, usize)) -> CropBox {
    let CropBox { left, top, .. } = part;
    let (from_right, from_bottom) = (width - left - part.width, height - top - part.height);
    let (left, top) = match orientation {
        Orientation::NoTransforms => (left, top),
        Orientation::FlipHorizontal => (from_right, top),
        Orientation::Rotate180 => (from_right, from_bottom),
        Orientation::FlipVertical => (left, from_bottom),
        Orientation::Rotate90FlipH => (top, left),
        Orientation::Rotate90 => (top, from_right),
        Orientation::Rotate270FlipH => (from_bottom, from_right),
        Orientation::Rotate270 => (from_bottom, left),
    };
    let (width, height) =
        if lies_on_its_side(orientation) { (part.height, part.width) } else { (part.width, part.height) };
    CropBox { left, top, width, height }
}

/// Where a part of a stored picture of `width`×`height` pixels lies in it when it is set upright.
fn span_upright(part: Span, orientation: Orientation, (width, height): (f64, f64)) -> Span {
    let Span { left, top, .. } = part;
    let (from_right, from_bottom) = (width - left - part.width, height - top - part.height);
    let (left, top) = match orientation {
        Orientation::NoTransforms => (left, top),
        Orientation::FlipHorizontal => (from_right, top),
        Orientation::Rotate180 => (from_right, from_bottom),
        Orientation::FlipVertical => (left, from_bottom),
        Orientation::Rotate90FlipH => (top, left),
        Orientation::Rotate90 => (from_bottom, left),
        Orientation::Rotate270FlipH => (from_bottom, from_right),
        Orientation::Rotate270 => (top, from_right),
    };
    let (width, height) =
        if lies_on_its_side(orientation) { (part.height, part.width) } else { (part.width, part.height) };
    Span { left, top, width, height }
}

fn upright(region: Region, orientation: Orientation) -> Region {
    if orientation == Orientation::NoTransforms {
        return region;
    }
    let span = region.span;
    let picture = region.cut();
    let span = span_upright(span, orientation, (picture.width as f64, picture.height as f64));
    let rgb = RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.rgb)
        .expect("a picture holds width·height·3 bytes");
    let mut image = DynamicImage::ImageRgb8(rgb);
    image.apply_orientation(orientation);
    let rgb = image.into_rgb8();
    let picture = Picture::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw());
    Region { span, ..Region::whole(picture) }
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
