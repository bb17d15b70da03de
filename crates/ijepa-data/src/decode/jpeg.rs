//! How is a JPEG read? To the bit as libjpeg-turbo reads it, and no more of it than is needed.

use image::metadata::Orientation;
use libjpeg_turbo_rs::{DecodeLimits, DecodeWarning, Decoder, JpegError, PixelFormat, ScalingFactor};

use super::Limits;
use crate::error::DecodeError;
use crate::picture::Picture;
use crate::transform::{CropBox, Region, Span};

/// A progressive picture of cameras and web sites has some ten scans; thousands of them are made to cost time.
const SCANS_MAX: usize = 500;

/// How many times smaller the decoder can make a picture on the way from its blocks of 8×8 pixels, most first.
const SHRUNK: [usize; 3] = [8, 4, 2];

/// A JPEG whose header is read.
pub(super) struct Jpeg<'a> {
    decoder: Decoder<'a>,
}

impl<'a> Jpeg<'a> {
    pub(super) fn open(bytes: &'a [u8], limits: Limits) -> Result<Jpeg<'a>, DecodeError> {
        // The decoder would paint what is missing in grey.
        if !has_end(bytes) {
            return Err(DecodeError::Truncated);
        }
        let limits = DecodeLimits {
            max_pixels: u64::MAX, // checked with a message of our own
            max_scans: SCANS_MAX,
            max_memory: Some(limits.bytes),
            ..DecodeLimits::default()
        };
        let decoder = Decoder::new_with_limits(bytes, limits).map_err(broken)?;
        match decoder.header().precision {
            8 => Ok(Jpeg { decoder }),
            bits => Err(DecodeError::Broken(format!("a JPEG of {bits} bits a sample, 8 are expected"))),
        }
    }

    /// Columns and rows as stored.
    pub(super) fn size(&self) -> (usize, usize) {
        let frame = self.decoder.header();
        (usize::from(frame.width), usize::from(frame.height))
    }

    pub(super) fn orientation(&self) -> Orientation {
        self.decoder.exif_orientation().and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
    }

    /// A part of the stored picture, at less than its size as [`region_for`](super::Encoded::region_for) has it.
    pub(super) fn region(mut self, part: CropBox, least: usize) -> Result<Region, DecodeError> {
        let cmyk = self.decoder.header().components.len() == 4;
        self.decoder.set_output_format(if cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb });
        // Lossless pictures have another way through the decoder, that cuts nothing; of four channels it cuts the wrong part.
        let cuts = !cmyk && !self.decoder.header().is_lossless;
        let fits = |shrunk: &usize| part.width.min(part.height) / shrunk >= least;
        let shrunk = SHRUNK.into_iter().filter(|_| cuts).find(fits).unwrap_or(1);
        self.decoder.set_scale(ScalingFactor::new(1, shrunk as u32));
        let (width, height) = self.size();
        let (width, height) = (width.div_ceil(shrunk), height.div_ceil(shrunk));
        let place = |pixels: usize| pixels as f64 / shrunk as f64;
        let (left, top) = (part.left / shrunk, part.top / shrunk);
        let span = Span {
            left: place(part.left) - left as f64,
            top: place(part.top) - top as f64,
            width: place(part.width),
            height: place(part.height),
        };
        let (right, bottom) = (part.left + part.width, part.top + part.height);
        let part = CropBox { left, top, width: right.div_ceil(shrunk) - left, height: bottom.div_ceil(shrunk) - top };
        let whole = CropBox { left: 0, top: 0, width, height };
        let mut decoded = whole;
        if part != whole && cuts {
            decoded = with_margin(part, &self.decoder, 8 / shrunk, width);
            self.decoder.set_crop_region(decoded.left, decoded.top, decoded.width, decoded.height);
        }
        let image = match self.decoder.decode_image() {
            // As with Pillow: a wrong code costs what follows it up to the next place to begin anew, not the picture.
            Err(JpegError::CorruptData(_)) => {
                self.decoder.set_lenient(true);
                self.decoder.decode_image()
            }
            image => image,
        };
        let image = image.map_err(broken)?;
        if image.warnings.iter().any(|warning| matches!(warning, DecodeWarning::TruncatedData { .. })) {
            return Err(DecodeError::Truncated);
        }
        let expected = (decoded.width, decoded.height, if cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb });
        if (image.width, image.height, image.pixel_format) != expected {
            return Err(DecodeError::Broken(format!(
                "decoded to {}×{} pixels as {:?}, expected {}×{}",
                image.width, image.height, image.pixel_format, decoded.width, decoded.height
            )));
        }
        let rgb = if cmyk { rgb_of_inverted_cmyk(&image.data) } else { image.data };
        let bounds = CropBox { left: part.left - decoded.left, top: part.top - decoded.top, ..part };
        Ok(Region { picture: Picture::new(decoded.width, decoded.height, rgb), bounds, span })
    }
}

/// The part that must be decoded so that `part` in it is as in the whole picture of so many columns: coarser colour is interpolated between
/// neighbours, and the decoder begins at the edge of a block of `side` columns (8, fewer where it shrinks), or of twice as many and more
/// where colour is coarser. Of rows it decodes as many more as it takes.
fn with_margin(part: CropBox, decoder: &Decoder, side: usize, width: usize) -> CropBox {
    let sampling = decoder.header().components.iter().map(|component| usize::from(component.horizontal_sampling));
    let coarser = sampling.max().unwrap_or(1);
    let block = side * coarser;
    let block = block * 8usize.div_ceil(block);
    // The next sample of colour, all of it.
    let right = (part.left + part.width + 2 * coarser).min(width);
    // Colour of two columns or fewer is not interpolated, and a part at the right edge could be as narrow as that.
    let left = part.left.min(right.saturating_sub(block)).saturating_sub(1) / block * block;
    CropBox { left, width: right - left, ..part }
}

/// CMYK as Adobe stores it, all four inverted, in Pillow's arithmetic.
fn rgb_of_inverted_cmyk(cmyk: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(cmyk.len() / 4 * 3);
    for pixel in cmyk.chunks_exact(4) {
        let light = u32::from(pixel[3]);
        rgb.extend(pixel[..3].iter().map(|&inverted| {
            let product = (255 - u32::from(inverted)) * light + 128;
            (light - (((product >> 8) + product) >> 8)) as u8
        }));
    }
    rgb
}

/// Whether the markers of a JPEG lead to its end marker. Segments with a length are jumped over, because an EXIF block may
/// hold a whole thumbnail with an end of its own.
fn has_end(bytes: &[u8]) -> bool {
    let mut at = 2; // after the start marker
    while let Some(mark) = bytes.get(at..).and_then(|rest| memchr::memchr(0xff, rest)) {
        at += mark;
        match bytes.get(at + 1) {
            None => return false,
            Some(0xd9) => return true,
            Some(0xff) => at += 1, // fill bytes
            // Stuffing, restart and other markers without a length.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            Some(_) => match bytes.get(at + 2..at + 4) {
                Some(length) => at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
    false
}

fn broken(error: JpegError) -> DecodeError {
    DecodeError::Broken(error.to_string())
}
