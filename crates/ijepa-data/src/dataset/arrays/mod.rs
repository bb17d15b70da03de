//! Which pictures lie end to end in a few binary files? Those of CIFAR, of IDX (MNIST and its kin) and of NumPy's `.npy`.
//!
//! All pictures of a data set have one size, so where one lies follows from its number, and it is read from there when it is asked for.
//! Whatever a file declares is held against its length when it is opened, before anything is allocated for it.

mod cifar;
mod idx;
mod npy;

use std::path::{Path, PathBuf};

use super::at::At;
use super::{Sample, Split};
use crate::decode::Limits;
use crate::error::{DataError, DecodeError};
use crate::picture::Picture;

/// Pictures of one size, end to end.
#[derive(Debug)]
pub struct Arrays {
    parts: Vec<Part>,
    format: Format,
    labels: Option<Vec<u32>>,
    classes: Option<Vec<String>>,
}

/// One file.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    content: Content,
    first: u64,  // bytes before the first picture
    stride: u64, // bytes from one picture to the next one
    count: usize,
}

#[derive(Debug)]
enum Content {
    File(At),
    /// Of a file that cannot be read from the middle.
    Memory(Vec<u8>),
}

/// How a picture is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    size: (usize, usize), // rows, columns
    order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// (h, w) u8.
    Grey,
    /// (3, h, w) u8.
    Planes,
    /// (h, w, 3) u8.
    Pixels,
    /// (3, h, w) f32, to be used as they are.
    Normalised,
}

impl Arrays {
    /// The data set of this kind in `folder`, or in the sub-folder that its archive unpacks to, if there is one.
    pub fn find(folder: &Path, split: Split) -> Result<Option<Arrays>, DataError> {
        match cifar::find(folder, split)? {
            Some(found) => Ok(Some(found)),
            None => idx::find(folder, split),
        }
    }

    /// Whether the file at `path` is read by [`Arrays::open`], by its ending or by its first bytes.
    pub fn reads(path: &Path) -> bool {
        npy::reads(path) || idx::reads(path)
    }

    /// Opens a `.npy` file or an IDX file of pictures, and labels that lie beside it.
    ///
    /// `.npy`, C order: (n,h,w), (n,h,w,3) or (n,3,h,w) of u8 are pictures, (n,3,h,w) of f32 are taken as already normalised. Labels are
    /// integers in `NAME_labels.npy`, in the file that has `labels` for `images` in its name, or in `labels.npy`. IDX, also gzipped:
    /// (n,h,w) of u8; the file of the labels has `labels` for `images` in its name and `idx1` for `idx3`.
    pub fn open(path: &Path) -> Result<Arrays, DataError> {
        if npy::reads(path) { npy::open(path) } else { idx::open(path) }
    }

    /// Number of pictures.
    #[expect(clippy::len_without_is_empty, reason = "files without pictures cannot be opened")]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }

    /// The class of every picture.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// Rows and columns, when the values are to be used as they are.
    pub fn normalised_size(&self) -> Option<(usize, usize)> {
        (self.format.order == Order::Normalised).then_some(self.format.size)
    }

    /// The files that pictures are in.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.parts.iter().map(|part| part.path.clone()).collect()
    }

    pub(super) fn name(&self, index: usize) -> String {
        let (part, place) = self.place(index);
        format!("{} image {place}", part.path.display())
    }

    pub(super) fn sample(&self, index: usize) -> Result<Sample, DataError> {
        let (part, place) = self.place(index);
        let mut bytes = vec![0; self.format.bytes()];
        part.read(&mut bytes, part.first + place as u64 * part.stride)?;
        let (height, width) = self.format.size;
        let pixels = height * width;
        let rgb = match self.format.order {
            Order::Pixels => bytes,
            Order::Grey => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
            Order::Planes => {
                let (red, rest) = bytes.split_at(pixels);
                let (green, blue) = rest.split_at(pixels);
                red.iter().zip(green).zip(blue).flat_map(|((&red, &green), &blue)| [red, green, blue]).collect()
            }
            Order::Normalised => {
                let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("a chunk has 4 bytes"));
                let values = bytes.chunks_exact(4).map(value).collect();
                return Ok(Sample::Normalised { size: self.format.size, values });
            }
        };
        Ok(Sample::Picture(Picture::new(width, height, rgb)))
    }

    /// The file of a picture and its number there.
    fn place(&self, index: usize) -> (&Part, usize) {
        let mut place = index;
        for part in &self.parts {
            if place < part.count {
                return (part, place);
            }
            place -= part.count;
        }
        panic!("image {index} of {}", self.len())
    }
}

impl Part {
    fn read(&self, bytes: &mut [u8], start: u64) -> Result<(), DataError> {
        match &self.content {
            Content::File(file) => file.read(bytes, start).map_err(|source| io(&self.path, source)),
            Content::Memory(content) => {
                bytes.copy_from_slice(&content[start as usize..][..bytes.len()]);
                Ok(())
            }
        }
    }
}

impl Format {
    /// Bytes of a picture.
    fn bytes(self) -> usize {
        let (height, width) = self.size;
        height
            * width
            * if self.order == Order::Grey { 1 } else { 3 }
            * if self.order == Order::Normalised { 4 } else { 1 }
    }

    /// Refuses pictures without pixels and with too many, by the default [`Limits`].
    fn check(self, path: &Path) -> Result<(), DataError> {
        let ((rows, columns), limit) = (self.size, Limits::default().pixels);
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let (width, height) = (side(columns), side(rows));
        let source = match rows.checked_mul(columns) {
            Some(0) => DecodeError::NoPixels { width, height },
            Some(pixels) if pixels as u64 <= limit => return Ok(()),
            _ => DecodeError::TooManyPixels { width, height, limit },
        };
        Err(DataError::Decode { name: path.display().to_string(), source })
    }
}

fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io { path: path.to_owned(), source }
}

fn wrong(path: &Path, problem: String) -> DataError {
    DataError::Content { path: path.to_owned(), problem }
}

/// Where the labels of `images` may lie: beside it, with `labels` for the last `images` of its name.
fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let at = name.rfind("images")?;
    Some(images.with_file_name(format!("{}labels{}", &name[..at], &name[at + "images".len()..])))
}

/// Labels of one file must be as many as the pictures of another.
fn check_count(path: &Path, labels: usize, images: &Path, count: usize) -> Result<(), DataError> {
    if labels == count {
        return Ok(());
    }
    Err(wrong(
        path,
        format!(
            "{labels} labels for the {count} images of {}; repair it, or move it away if it belongs to others",
            images.display()
        ),
    ))
}
