//! How is a TIFF with a palette read, which the `image` crate refuses? As it lies: uncompressed, 1 to 8 bits a pixel.

use std::io::Cursor;

use image::metadata::Orientation;
use tiff::TiffError;
use tiff::decoder::Decoder;
use tiff::tags::Tag;

use crate::error::DecodeError;
use crate::picture::Picture;

/// TIFF's numbers for "colours by palette" and "not compressed".
const BY_PALETTE: u32 = 3;
const UNCOMPRESSED: u32 = 1;

/// A TIFF whose pixels are numbers of colours.
pub(super) struct Palette<'a> {
    bytes: &'a [u8],
    size: (usize, usize),
    orientation: Orientation,
    bits: usize,
    /// Red, green and blue of every number.
    colours: Vec<[u8; 3]>,
    /// Where each strip begins.
    strips: Vec<u64>,
    rows_of_strip: usize,
}

impl<'a> Palette<'a> {
    /// Nothing, when this is a TIFF of another kind.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Option<Palette<'a>>, DecodeError> {
        let broken = |error: TiffError| DecodeError::Broken(error.to_string());
        let mut file = Decoder::new(Cursor::new(bytes)).map_err(broken)?;
        let kind = file.find_tag_unsigned::<u32>(Tag::PhotometricInterpretation).map_err(broken)?;
        if kind != Some(BY_PALETTE) {
            return Ok(None);
        }
        let compression = file.find_tag_unsigned::<u32>(Tag::Compression).map_err(broken)?.unwrap_or(UNCOMPRESSED);
        let bits = file.find_tag_unsigned::<u32>(Tag::BitsPerSample).map_err(broken)?.unwrap_or(1);
        if compression != UNCOMPRESSED || ![1, 2, 4, 8].contains(&bits) {
            return Ok(None);
        }
        let (width, height) = file.dimensions().map_err(broken)?;
        let levels = file.get_tag_u16_vec(Tag::ColorMap).map_err(broken)?; // all reds, all greens, all blues
        let count = 1 << bits;
        if levels.len() != 3 * count {
            return Err(DecodeError::Broken(format!(
                "a palette of {} values, expected {} for {bits} bits a pixel",
                levels.len(),
                3 * count
            )));
        }
        let level = |colour: usize, channel: usize| (levels[channel * count + colour] >> 8) as u8;
        let colours = (0..count).map(|colour| [level(colour, 0), level(colour, 1), level(colour, 2)]).collect();
        let orientation = file.find_tag_unsigned::<u8>(Tag::Orientation).map_err(broken)?;
        let rows = file.find_tag_unsigned::<u32>(Tag::RowsPerStrip).map_err(broken)?.unwrap_or(height);
        Ok(Some(Palette {
            bytes,
            size: (width as usize, height as usize),
            orientation: orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms),
            bits: bits as usize,
            colours,
            strips: file.get_tag_u64_vec(Tag::StripOffsets).map_err(broken)?,
            rows_of_strip: rows.max(1) as usize,
        }))
    }

    /// Columns and rows as stored.
    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    pub(super) fn orientation(&self) -> Orientation {
        self.orientation
    }

    pub(super) fn picture(&self) -> Result<Picture, DecodeError> {
        let (width, height) = self.size;
        let row_bytes = (width * self.bits).div_ceil(8);
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let row = self.row(y, row_bytes).ok_or_else(|| DecodeError::Broken(format!("row {y} is not all there")))?;
            for x in 0..width {
                let bit = x * self.bits;
                let number = usize::from(row[bit / 8]) >> (8 - self.bits - bit % 8) & ((1 << self.bits) - 1);
                rgb.extend(self.colours[number]);
            }
        }
        Ok(Picture::new(width, height, rgb))
    }

    fn row(&self, y: usize, row_bytes: usize) -> Option<&[u8]> {
        let strip = usize::try_from(*self.strips.get(y / self.rows_of_strip)?).ok()?;
        let begin = strip.checked_add(y % self.rows_of_strip * row_bytes)?;
        self.bytes.get(begin..begin.checked_add(row_bytes)?)
    }
}
