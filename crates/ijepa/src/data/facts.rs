//! What can be said of an image file by its content?

use ijepa_data::decode::{Limits, decode, ending};
use ijepa_data::{Dataset, DecodeError, Sample, Stored};
use sha2::{Digest, Sha256};

/// What is known of a readable image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Columns and rows.
    pub(super) size: (usize, usize),
    /// The usual ending of its format; `tensor` and `scene` were never encoded.
    pub(super) format: &'static str,
    /// What a pixel is.
    pub(super) mode: &'static str,
    /// Of the file, where there is one.
    pub(super) bytes: u64,
    /// SHA-256 of the file, its first half: equal for equal content.
    pub(super) digest: Option<u128>,
}

impl Facts {
    /// Reads and decodes an image in full.
    pub(super) fn of(dataset: &Dataset, index: usize) -> Result<Facts, String> {
        match dataset.read(index).map_err(|error| error.to_string())? {
            Stored::Encoded(bytes) => {
                let picture = decode(&bytes, Limits::default()).map_err(|error| error.to_string())?;
                let format = ending(&bytes).ok_or_else(|| DecodeError::UnknownFormat.to_string())?;
                Ok(Facts {
                    size: (picture.width, picture.height),
                    format,
                    mode: mode(&bytes, format),
                    bytes: bytes.len() as u64,
                    digest: Some(digest(&bytes)),
                })
            }
            Stored::Ready(Sample::Picture(picture)) => {
                let size = (picture.width, picture.height);
                Ok(Facts { size, format: "scene", mode: "RGB", bytes: 0, digest: None })
            }
            Stored::Ready(Sample::Normalised { size, values }) => {
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    return Err(format!("value {at} is {}, a finite number is expected", values[at]));
                }
                Ok(Facts { size: (size.1, size.0), format: "tensor", mode: "f32", bytes: 0, digest: None })
            }
        }
    }
}

fn digest(bytes: &[u8]) -> u128 {
    let digest = Sha256::digest(bytes);
    digest[..16].iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// Grey or colour, where the header says it in a place that is found without decoding: in JPEG and PNG.
fn mode(bytes: &[u8], format: &str) -> &'static str {
    match format {
        "jpg" => match jpeg_components(bytes) {
            Some(1) => "grey",
            Some(3) => "RGB",
            Some(4) => "CMYK",
            _ => "other",
        },
        // The colour type of the IHDR chunk, which is the first.
        "png" => match bytes.get(25) {
            Some(0) => "grey",
            Some(2) => "RGB",
            Some(3) => "palette",
            Some(4) => "grey with alpha",
            Some(6) => "RGBA",
            _ => "other",
        },
        _ => "other",
    }
}

/// Components of a JPEG's frame: segments are followed to its header.
fn jpeg_components(bytes: &[u8]) -> Option<u8> {
    let mut at = 2; // after the start marker
    loop {
        let marker = *bytes.get(at + 1).filter(|_| bytes.get(at) == Some(&0xff))?;
        match marker {
            0xff => at += 1, // fill bytes
            // Frame headers; between them lie tables of other kinds.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => return bytes.get(at + 9).copied(),
            _ => at += 2 + usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pixel_is_stands_in_the_header() {
        for (image, mode_of_it) in [
            (image::DynamicImage::new_luma8(3, 2), "grey"),
            (image::DynamicImage::new_luma_a8(3, 2), "grey with alpha"),
            (image::DynamicImage::new_rgb8(3, 2), "RGB"),
            (image::DynamicImage::new_rgba8(3, 2), "RGBA"),
        ] {
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, image::ImageFormat::Png).expect("it encodes");
            assert_eq!(mode(bytes.get_ref(), ending(bytes.get_ref()).expect("a PNG")), mode_of_it);
        }
        // Start, an application segment of 6 bytes, a frame of one component.
        let grey = [0xff, 0xd8, 0xff, 0xe0, 0, 6, 1, 2, 3, 4, 0xff, 0xc2, 0, 11, 8, 0, 1, 0, 1, 1, 1, 0x11, 0];
        assert_eq!(mode(&grey, "jpg"), "grey");
        for cut in 0..grey.len() {
            mode(&grey[..cut], "jpg");
        }
    }

    #[test]
    fn the_digest_is_that_of_the_content() {
        // The first half of SHA-256 of nothing.
        assert_eq!(digest(b""), 0xe3b0_c442_98fc_1c14_9afb_f4c8_996f_b924);
        assert_ne!(digest(b"a"), digest(b"b"));
    }
}
