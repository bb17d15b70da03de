//! What does a `.safetensors` data set hold? `images` (n, 3, h, w) f32, already normalised, and perhaps `labels` (n) i64.
//!
//! The header is read once, images are read from the file one by one, so a file may be larger than memory.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::Sample;
use super::at::At;
use crate::error::DataError;

/// Longest header that is read; that of a data set has a few hundred bytes.
const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Normalised tensors of one file.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    file: At,
    first_image: u64, // bytes from the start of the file
    count: usize,
    size: (usize, usize),
    labels: Option<Vec<u32>>,
}

impl Tensors {
    /// Reads the header and the labels of the file at `path`, and checks that all it declares is there.
    pub fn open(path: &Path) -> Result<Tensors, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        let wrong = |problem: String| DataError::Tensors { path: path.to_owned(), problem };
        let file = At::open(path).map_err(io)?;
        let file_bytes = file.len();

        let mut length = [0u8; 8];
        file.read(&mut length, 0).map_err(|_| wrong("shorter than 8 bytes: not a .safetensors file".into()))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX || header_bytes > file_bytes - 8 {
            return Err(wrong(format!(
                "declares a header of {header_bytes} bytes in a file of {file_bytes}: truncated, or not a .safetensors file"
            )));
        }
        let mut header = vec![0u8; header_bytes as usize];
        file.read(&mut header, 8).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| wrong(format!("the header does not parse: {error}")))?;

        let start = 8 + header_bytes;
        let images = metadata.info("images").ok_or_else(|| {
            wrong(format!("no tensor `images` (n,3,h,w); the file has {}", metadata.offset_keys().join(", ")))
        })?;
        let &[count, 3, height, width] = images.shape.as_slice() else {
            return Err(wrong(format!("`images` has shape {:?}, (n,3,h,w) is expected", images.shape)));
        };
        if images.dtype != Dtype::F32 || count == 0 || height == 0 || width == 0 {
            return Err(wrong(format!(
                "`images` is {:?} of shape {:?}, f32 with no empty side is expected",
                images.dtype, images.shape
            )));
        }
        let within = |range: (usize, usize), elements: Option<usize>, element_bytes: usize| {
            let bytes = elements.and_then(|elements| elements.checked_mul(element_bytes));
            bytes.is_some() && range.1.checked_sub(range.0) == bytes && range.1 as u64 <= file_bytes - start
        };
        let values = count.checked_mul(3).and_then(|n| n.checked_mul(height)).and_then(|n| n.checked_mul(width));
        if !within(images.data_offsets, values, 4) {
            return Err(wrong(format!("the values of `images` {:?} are not all there: truncated?", images.shape)));
        }

        let labels = match metadata.info("labels") {
            None => None,
            Some(info)
                if info.dtype == Dtype::I64 && info.shape == [count] && within(info.data_offsets, Some(count), 8) =>
            {
                let mut bytes = vec![0u8; count * 8];
                file.read(&mut bytes, start + info.data_offsets.0 as u64).map_err(io)?;
                let label = |bytes: &[u8]| {
                    let label = i64::from_le_bytes(bytes.try_into().expect("a chunk has 8 bytes"));
                    u32::try_from(label).map_err(|_| wrong(format!("label {label} is not a class number from 0")))
                };
                Some(bytes.chunks_exact(8).map(label).collect::<Result<Vec<u32>, _>>()?)
            }
            Some(info) => {
                return Err(wrong(format!(
                    "`labels` is {:?} of shape {:?}, i64 of [{count}] is expected",
                    info.dtype, info.shape
                )));
            }
        };
        Ok(Tensors {
            path: path.to_owned(),
            first_image: start + images.data_offsets.0 as u64,
            file,
            count,
            size: (height, width),
            labels,
        })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of images.
    #[expect(clippy::len_without_is_empty, reason = "a file without images cannot be opened")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Rows and columns of every image.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The class of every image.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    pub(super) fn name(&self, index: usize) -> String {
        format!("{} image {index}", self.path.display())
    }

    pub(super) fn sample(&self, index: usize) -> Result<Sample, DataError> {
        assert!(index < self.count, "image {index} of {}", self.count);
        let io = |source| DataError::Io { path: self.path.clone(), source };
        let mut bytes = vec![0u8; 3 * self.size.0 * self.size.1 * 4];
        let start = self.first_image + index as u64 * bytes.len() as u64;
        self.file.read(&mut bytes, start).map_err(io)?;
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("a chunk has 4 bytes"));
        Ok(Sample::Normalised { size: self.size, values: bytes.chunks_exact(4).map(value).collect() })
    }
}
