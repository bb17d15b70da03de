//! How is an AVIF read? Its container by us, its AV1 data by rav1d, its colours as libavif has them.
//!
//! Alpha is dropped as everywhere; colours that were multiplied by it are divided again.

mod colour;
mod container;

use image::metadata::Orientation;
use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::dav1d::{Decoder, Error, PixelLayout, PlanarImageComponent, Settings};

use self::colour::{Matrix, Near, interpolate};
use self::container::{Colours, Container};
use super::Limits;
use crate::error::DecodeError;
use crate::picture::Picture;

/// Bytes that a pixel takes at most: three planes of 16 bits, and what is made of them.
const PIXEL_BYTES: u64 = 9;
/// A still picture is one frame, or one for each of up to four layers; thousands are made to cost time.
const FRAMES_MAX: usize = 8;

/// An AVIF whose container is read.
pub(super) struct Avif<'a> {
    container: Container<'a>,
}

impl<'a> Avif<'a> {
    pub(super) fn open(bytes: &'a [u8], limits: Limits) -> Result<Avif<'a>, DecodeError> {
        let container = Container::read(bytes).map_err(broken)?;
        let (width, height) = container.size;
        let pixels = u64::from(width) * u64::from(height);
        // What has too many pixels altogether is refused in the words for all formats.
        if pixels <= limits.pixels && pixels * PIXEL_BYTES > limits.bytes {
            return Err(broken(format!("{width}×{height} pixels may take over {} bytes as an AVIF", limits.bytes)));
        }
        Ok(Avif { container })
    }

    /// Columns and rows as stored.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.container.size.0 as usize, self.container.size.1 as usize)
    }

    pub(super) fn orientation(&self) -> Orientation {
        self.container.orientation
    }

    pub(super) fn picture(&self) -> Result<Picture, DecodeError> {
        let (width, height) = self.size();
        let frame = Frame::decode(self.container.picture.whole(), self.container.size)?;
        let colours = self.container.colours.unwrap_or(frame.colours);
        let matrix = Matrix::new(colours, frame.bits).map_err(broken)?;
        let mut rgb = vec![0; width * height * 3];
        let mut rows = Rows::default();
        for (y, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
            frame.colour_row(out, y, &matrix, &mut rows);
        }
        if let Some(alpha) = &self.container.multiplied_by {
            let alpha = Frame::decode(alpha.whole(), self.container.size)?;
            let matrix = Matrix::new(Colours { matrix: 2, full_range: true }, alpha.bits).map_err(broken)?;
            let mut levels = vec![0; width * 3];
            for (y, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
                alpha.plane(0).row(&mut rows.luma, y);
                matrix.grey(&mut levels, &rows.luma);
                divide(out, &levels);
            }
        }
        Ok(Picture::new(width, height, rgb))
    }
}

/// Takes back that colours were multiplied by an alpha; where that is 0, they are black.
fn divide(colours: &mut [u8], alpha: &[u8]) {
    for (colour, &alpha) in colours.iter_mut().zip(alpha) {
        let whole = f32::from(*colour) * 255.0 / f32::from(alpha.max(1));
        *colour = if alpha == 0 { 0 } else { (whole + 0.5) as u8 };
    }
}

/// A decoded frame.
struct Frame {
    planes: Vec<Plane>, // one or three
    layout: PixelLayout,
    bits: u32,
    /// As the AV1 data has them.
    colours: Colours,
}

/// Samples of one kind, of one or two bytes.
struct Plane {
    bytes: re_rav1d::dav1d::Plane,
    stride: usize,
    width: usize,
    height: usize,
    sample_bytes: usize,
}

/// Memory for a row of each plane.
#[derive(Default)]
struct Rows {
    luma: Vec<u16>,
    near: Vec<u16>,
    far: Vec<u16>,
    colour: [Vec<u16>; 2],
}

impl Frame {
    /// The first frame of AV1 data, which has to be of this size.
    fn decode(bytes: Vec<u8>, size: (u32, u32)) -> Result<Frame, DecodeError> {
        let frames = frames(&bytes).map_err(broken)?;
        if frames > FRAMES_MAX {
            return Err(broken(format!("{frames} frames of AV1, at most {FRAMES_MAX} are expected")));
        }
        let mut settings = Settings::new();
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_all_layers(false); // of a picture in layers the finest
        settings.set_frame_size_limit(size.0.saturating_mul(size.1));
        let mut decoder = Decoder::with_settings(&settings).map_err(failed)?;
        match decoder.send_data(bytes, None, None, None) {
            Ok(()) | Err(Error::Again) => (),
            Err(error) => return Err(failed(error)),
        }
        let frame = match decoder.get_picture() {
            Err(Error::Again) => decoder.get_picture(), // nothing more will come, which it takes the second call for
            frame => frame,
        };
        let frame = frame.map_err(failed)?;
        if (frame.width(), frame.height()) != size {
            let (width, height) = size;
            return Err(broken(format!(
                "decoded to {}×{} pixels, expected {width}×{height}",
                frame.width(),
                frame.height()
            )));
        }
        Frame::of(&frame)
    }

    fn of(frame: &re_rav1d::dav1d::Picture) -> Result<Frame, DecodeError> {
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let layout = frame.pixel_layout();
        let bits = frame.bits_per_component().ok_or_else(|| broken("samples of unknown depth"))?.0;
        let (across, down) = match layout {
            PixelLayout::I420 => (2, 2),
            PixelLayout::I422 => (2, 1),
            PixelLayout::I444 | PixelLayout::I400 => (1, 1),
        };
        let plane = |component: PlanarImageComponent, width: usize, height: usize| Plane {
            bytes: frame.plane(component),
            stride: frame.stride(component) as usize, // of bytes
            width,
            height,
            sample_bytes: if bits == 8 { 1 } else { 2 },
        };
        let mut planes = vec![plane(PlanarImageComponent::Y, width, height)];
        if layout != PixelLayout::I400 {
            let (width, height) = (width.div_ceil(across), height.div_ceil(down));
            planes.push(plane(PlanarImageComponent::U, width, height));
            planes.push(plane(PlanarImageComponent::V, width, height));
        }
        let full_range = frame.color_range() == YUVRange::Full;
        let colours = Colours { matrix: frame.matrix_coefficients() as u16, full_range };
        Ok(Frame { planes, layout, bits: bits as u32, colours })
    }

    fn plane(&self, number: usize) -> &Plane {
        &self.planes[number]
    }

    /// Row `y` in red, green and blue.
    fn colour_row(&self, out: &mut [u8], y: usize, matrix: &Matrix, rows: &mut Rows) {
        self.plane(0).row(&mut rows.luma, y);
        let (across, down) = match self.layout {
            PixelLayout::I400 => return matrix.grey(out, &rows.luma),
            PixelLayout::I420 => (true, true),
            PixelLayout::I422 => (true, false),
            PixelLayout::I444 => (false, false),
        };
        for (number, colour) in rows.colour.iter_mut().enumerate() {
            let plane = self.plane(number + 1);
            if !across {
                plane.row(colour, y);
                continue;
            }
            let (near, far) = if down { (y / 2, plane.beside(y)) } else { (y, y) };
            plane.row(&mut rows.near, near);
            plane.row(&mut rows.far, far);
            colour.resize(rows.luma.len(), 0);
            interpolate(colour, &Near { near: &rows.near, far: &rows.far });
        }
        let [u, v] = &rows.colour;
        matrix.colours(out, [&rows.luma, u, v]);
    }
}

impl Plane {
    fn row(&self, out: &mut Vec<u16>, y: usize) {
        let row = &self.bytes[y * self.stride..][..self.width * self.sample_bytes];
        out.clear();
        if self.sample_bytes == 1 {
            out.extend(row.iter().map(|&byte| u16::from(byte)));
        } else {
            out.extend(row.as_chunks::<2>().0.iter().map(|&sample| u16::from_ne_bytes(sample)));
        }
    }

    /// The second nearest row of half as many to row `y` of all.
    fn beside(&self, y: usize) -> usize {
        if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(self.height - 1) }
    }
}

/// Frames in AV1 data: the open bitstream units that begin one.
fn frames(bytes: &[u8]) -> Result<usize, String> {
    const FRAME_HEADER: u8 = 3;
    const FRAME: u8 = 6;
    let (mut at, mut frames) = (0, 0);
    while let Some(&head) = bytes.get(at) {
        let (kind, extended, sized) = (head >> 3 & 15, head >> 2 & 1, head >> 1 & 1);
        at += 1 + usize::from(extended);
        frames += usize::from(matches!(kind, FRAME_HEADER | FRAME));
        if sized == 0 {
            break; // to the end
        }
        let mut length = 0;
        for place in 0..8 {
            let byte = *bytes.get(at).ok_or("AV1 data that is cut off: truncated")?;
            at += 1;
            length |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                break;
            }
        }
        let left = bytes.len() - at;
        at += usize::try_from(length)
            .ok()
            .filter(|&length| length <= left)
            .ok_or("AV1 data that is cut off: truncated")?;
    }
    Ok(frames)
}

fn failed(error: Error) -> DecodeError {
    broken(format!("AV1: {error}"))
}

fn broken(problem: impl Into<String>) -> DecodeError {
    DecodeError::Broken(problem.into())
}
