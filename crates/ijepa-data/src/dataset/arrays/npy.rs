//! What does a `.npy` file hold? One array, after a header that says its type, its order and its shape.
//!
//! After <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>: `\x93NUMPY`, the version (2 bytes), the length of the
//! header (2 bytes, from version 2 on 4, little-endian), the header, a literal of a Python dictionary; then the values. Parsed here: the
//! crates for it bring a parser of all of Python's literals, and big numbers.

use std::path::{Path, PathBuf};

use super::{Arrays, Content, Format, Order, Part, check_count, io, labels_beside, wrong};
use crate::dataset::at::At;
use crate::error::DataError;

/// Longest header that is read, in bytes; NumPy writes less than 200 for an array of plain numbers.
const HEADER_BYTES_MAX: u64 = 64 << 10;

pub(super) fn reads(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy"))
}

/// Opens a file of pictures, and that of their labels beside it.
pub(super) fn open(path: &Path) -> Result<Arrays, DataError> {
    let array = Array::open(path)?;
    let (count, format) = array.format(path)?;
    let labels = match labels_file(path) {
        None => None,
        Some(beside) => Some(Array::open(&beside)?.labels(&beside, path, count)?),
    };
    let stride = format.bytes() as u64;
    let part = Part { path: path.to_owned(), content: Content::File(array.file), first: array.start, stride, count };
    Ok(Arrays { parts: vec![part], format, labels, classes: None })
}

fn labels_file(images: &Path) -> Option<PathBuf> {
    let stem = images.file_stem()?.to_str()?;
    let own = images.with_file_name(format!("{stem}_labels.npy"));
    let candidates = [Some(own), labels_beside(images), Some(images.with_file_name("labels.npy"))];
    candidates.into_iter().flatten().find(|path| path != images && path.is_file())
}

/// An array whose values are all there.
struct Array {
    file: At,
    start: u64,   // bytes before the values
    kind: String, // as in `<f4`
    shape: Vec<usize>,
}

impl Array {
    fn open(path: &Path) -> Result<Array, DataError> {
        let file = At::open(path).map_err(|source| io(path, source))?;
        let not_npy = || wrong(path, "does not begin as a .npy file does".into());
        let mut head = [0; 12];
        file.read(&mut head[..10], 0).map_err(|_| not_npy())?;
        if head[..6] != *b"\x93NUMPY" {
            return Err(not_npy());
        }
        let (header_start, length) = match head[6] {
            1 => (10, u64::from(u16::from_le_bytes([head[8], head[9]]))),
            2 | 3 => {
                file.read(&mut head, 0).map_err(|_| not_npy())?;
                (12, u64::from(u32::from_le_bytes([head[8], head[9], head[10], head[11]])))
            }
            version => {
                return Err(wrong(path, format!("is of version {version} of the format; 1, 2 or 3 are expected")));
            }
        };
        let start = header_start + length;
        if length > HEADER_BYTES_MAX || start > file.len() {
            return Err(wrong(
                path,
                format!("declares a header of {length} bytes in a file of {}: truncated or damaged", file.len()),
            ));
        }
        let mut header = vec![0; length as usize];
        file.read(&mut header, header_start).map_err(|source| io(path, source))?;
        let header = String::from_utf8_lossy(&header);
        let unclear = || wrong(path, format!("has a header that is not understood: {}", header.trim()));
        let (kind, fortran, shape) = parse(&header).ok_or_else(unclear)?;
        let element = kind.get(2..).and_then(|bytes| bytes.parse::<u64>().ok()).ok_or_else(unclear)?;
        if fortran && shape.len() > 1 {
            return Err(wrong(path, "is in Fortran order; save numpy.ascontiguousarray(array) instead".into()));
        }
        let bytes = shape.iter().try_fold(element, |product, &side| product.checked_mul(side as u64));
        // Of text and records, which are refused for that, the number is not one of bytes.
        let numbers = matches!(kind.as_bytes()[1], b'i' | b'u' | b'f');
        if numbers && bytes.and_then(|bytes| bytes.checked_add(start)) != Some(file.len()) {
            let problem =
                format!("declares {kind} of shape {shape:?}, which {} bytes are not: truncated or damaged", file.len());
            return Err(wrong(path, problem));
        }
        Ok(Array { file, start, kind, shape })
    }

    /// How many pictures the array holds, and how.
    fn format(&self, path: &Path) -> Result<(usize, Format), DataError> {
        let (count, height, width, order) = match (self.kind.as_str(), self.shape.as_slice()) {
            ("|u1", &[count, height, width]) => (count, height, width, Order::Grey),
            // Three rows of three channels are taken as three channels: there are no pictures of three rows.
            ("|u1", &[count, 3, height, width]) => (count, height, width, Order::Planes),
            ("|u1", &[count, height, width, 3]) => (count, height, width, Order::Pixels),
            ("<f4", &[count, 3, height, width]) => (count, height, width, Order::Normalised),
            _ => {
                let problem = format!(
                    "holds {} of shape {:?}; u1 of (n,h,w), (n,h,w,3) or (n,3,h,w) is expected, or <f4 of (n,3,h,w), already normalised",
                    self.kind, self.shape
                );
                return Err(wrong(path, problem));
            }
        };
        if count == 0 {
            return Err(wrong(path, "holds no images".into()));
        }
        let format = Format { size: (height, width), order };
        format.check(path)?;
        Ok((count, format))
    }

    /// The array as labels of the `count` pictures of `images`.
    fn labels(&self, path: &Path, images: &Path, count: usize) -> Result<Vec<u32>, DataError> {
        let (&[labels] | &[labels, 1]) = self.shape.as_slice() else {
            return Err(wrong(path, format!("holds labels of shape {:?}, ({count}) is expected", self.shape)));
        };
        check_count(path, labels, images, count)?;
        let (signed, width) = match self.kind.as_str() {
            "|u1" | "<u2" | "<u4" | "<u8" => (false, self.kind.as_bytes()[2] - b'0'),
            "|i1" | "<i2" | "<i4" | "<i8" => (true, self.kind.as_bytes()[2] - b'0'),
            other => {
                return Err(wrong(
                    path,
                    format!("holds labels of type {other}; little-endian integers are expected, as in <i8"),
                ));
            }
        };
        let width = usize::from(width);
        let mut bytes = vec![0; count * width];
        self.file.read(&mut bytes, self.start).map_err(|source| io(path, source))?;
        let label = |bytes: &[u8]| {
            let negative = signed && bytes[width - 1] & 0x80 != 0;
            let mut wide = [if negative { 0xff } else { 0 }; 16];
            wide[..width].copy_from_slice(bytes);
            let label = i128::from_le_bytes(wide);
            u32::try_from(label).map_err(|_| wrong(path, format!("label {label} is not a class number from 0")))
        };
        bytes.chunks_exact(width).map(label).collect()
    }
}

/// Type, whether in Fortran order, and shape, of a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(header: &str) -> Option<(String, bool, Vec<usize>)> {
    let value = |key: &str| Some(header.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let (kind, _) = value("'descr'")?.strip_prefix('\'')?.split_once('\'')?;
    let fortran = match value("'fortran_order'")? {
        order if order.starts_with("False") => false,
        order if order.starts_with("True") => true,
        _ => return None,
    };
    let (shape, _) = value("'shape'")?.strip_prefix('(')?.split_once(')')?;
    let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
    // A single byte has no order, whatever is written there.
    let kind = if matches!(kind.get(1..), Some("u1" | "i1")) { format!("|{}", &kind[1..]) } else { kind.to_owned() };
    Some((kind, fortran, sides.map(|side| side.parse().ok()).collect::<Option<_>>()?))
}
