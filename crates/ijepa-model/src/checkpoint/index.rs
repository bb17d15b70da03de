//! Where does every tensor of a file lie, and how do its bytes become f32?
//!
//! All formats end up here: a list of entries, each a name, an element type, a shape and a place. A place is a stretch of a file, or
//! a compressed record of a zip archive. Values go from the file straight to where the caller wants them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use zip::ZipArchive;

use super::{CheckpointError, Meta};

/// Bytes read at once when values are converted on the way. A multiple of every element size.
const CHUNK: usize = 1 << 18;

/// The bytes that a tensor's elements are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A stretch of the file: (first byte, bytes).
    Plain { at: u64, len: u64 },
    /// A compressed record of the archive: its number, and its bytes once inflated.
    Deflated { record: usize, len: u64 },
}

impl Place {
    /// Bytes there, once inflated.
    pub(super) fn len(self) -> u64 {
        let (Place::Plain { len, .. } | Place::Deflated { len, .. }) = self;
        len
    }
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, per axis; none when row-major and dense.
    pub(super) strides: Option<Vec<usize>>,
    /// Element of `place` at which the tensor starts.
    pub(super) first: usize,
    /// Number of the file, of those that hold the checkpoint together.
    pub(super) container: usize,
    pub(super) place: Place,
}

impl Entry {
    /// The product of the shape; the formats' readers have checked that it and its bytes fit.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the elements in the file's type.
    pub(super) fn bytes(&self) -> u64 {
        (self.elements() as u64 * self.dtype.bitsize() as u64).div_ceil(8)
    }

    /// Elements from the first that is touched to the last, both included.
    pub(super) fn span(&self) -> usize {
        match &self.strides {
            None => self.elements(),
            Some(_) if self.elements() == 0 => 0,
            Some(strides) => {
                let last: usize = self.shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum();
                last + 1
            }
        }
    }
}

/// An open file, read at positions.
pub(super) struct Container {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) len: u64,
    /// Present for zip archives: inflates compressed records.
    pub(super) archive: Option<ZipArchive<BufReader<File>>>,
    /// The record inflated last, since several tensors may lie in one.
    inflated: Option<(usize, Vec<u8>)>,
}

/// Everything known about a checkpoint before values are read.
pub(super) struct Index {
    pub(super) format: &'static str,
    /// Under the names that the files give them, without `module.`.
    pub(super) entries: Vec<Entry>,
    pub(super) optimizer_step: Option<u64>,
    /// Why the optimiser's state cannot be used, when the rest of the file can.
    pub(super) optimizer_problem: Option<CheckpointError>,
    pub(super) meta: Meta,
    pub(super) notes: Vec<String>,
    /// One, or the shards of a folder.
    pub(super) containers: Vec<Container>,
}

impl Index {
    /// Opens a file or folder, tells its format by content, and reads its list of tensors.
    pub(super) fn open(path: &Path) -> Result<Index, CheckpointError> {
        if path.is_dir() { super::folder::open(path) } else { Index::open_file(path) }
    }

    /// Opens one file.
    pub(super) fn open_file(path: &Path) -> Result<Index, CheckpointError> {
        let (container, head) = Container::open(path)?;
        if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            super::torch::open(container)
        } else if head.get(8) == Some(&b'{') {
            super::safetensors::open(container)
        } else if super::legacy::is(&head) {
            super::legacy::open(container)
        } else {
            let found = describe(&head, container.len);
            Err(CheckpointError::Unrecognised { path: path.to_path_buf(), found })
        }
    }
}

impl Container {
    /// Opens a file, and returns its first 64 bytes as well.
    pub(super) fn open(path: &Path) -> Result<(Container, Vec<u8>), CheckpointError> {
        let read_error = |action: &str, source| CheckpointError::Read {
            path: path.to_path_buf(),
            action: action.to_string(),
            source,
        };
        // Asked before opening: opening a pipe would wait for a writer.
        let kind = std::fs::metadata(path).map_err(|e| read_error("open the checkpoint", e))?;
        if !kind.is_file() {
            return Err(CheckpointError::NotAFile { path: path.to_path_buf() });
        }
        let mut file = File::open(path).map_err(|e| read_error("open the checkpoint", e))?;
        let len = file.metadata().map_err(|e| read_error("ask for the file's length", e))?.len();
        let mut head = Vec::with_capacity(64);
        (&mut file).take(64).read_to_end(&mut head).map_err(|e| read_error("read the first bytes", e))?;
        Ok((Container { path: path.to_path_buf(), file, len, archive: None, inflated: None }, head))
    }

    /// Reads `bytes.len()` bytes from position `at`.
    pub(super) fn read_at(&mut self, bytes: &mut [u8], at: u64, what: &str) -> Result<(), CheckpointError> {
        let result = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(bytes));
        result.map_err(|source| self.read_error(format!("read {what}"), source))
    }

    /// Writes the values of one tensor, row-major, to `out`, which has room for exactly them.
    pub(super) fn read_into(&mut self, entry: &Entry, out: &mut [f32]) -> Result<(), CheckpointError> {
        assert_eq!(out.len(), entry.elements(), "room for tensor {} of shape {:?}", entry.name, entry.shape);
        let size = self.element_size(entry)?;
        let what = format!("tensor {}", entry.name);
        match (entry.place, &entry.strides) {
            _ if out.is_empty() => {}
            (Place::Plain { at, .. }, None) => {
                let at = at + (entry.first * size) as u64;
                if entry.dtype == Dtype::F32 && cfg!(target_endian = "little") {
                    return self.read_at(bytemuck::cast_slice_mut(out), at, &what);
                }
                let mut chunk = vec![0; CHUNK.min(out.len() * size)];
                for (part, out) in out.chunks_mut(CHUNK / size).enumerate() {
                    let bytes = &mut chunk[..out.len() * size];
                    self.read_at(bytes, at + (part * CHUNK) as u64, &what)?;
                    convert(out, bytes, entry.dtype);
                }
            }
            (Place::Plain { at, .. }, Some(strides)) => {
                let mut bytes = self.room(entry.span() * size, &entry.name)?;
                bytes.resize(entry.span() * size, 0);
                self.read_at(&mut bytes, at + (entry.first * size) as u64, &what)?;
                gather(out, &bytes, entry, strides, size);
            }
            (Place::Deflated { record, len }, strides) => {
                self.inflate(record, len, &entry.name)?;
                let (_, record) = self.inflated.as_ref().expect("a record was just inflated");
                let bytes = &record[entry.first * size..][..entry.span() * size];
                match strides {
                    None => convert(out, bytes, entry.dtype),
                    Some(strides) => gather(out, bytes, entry, strides, size),
                }
            }
        }
        Ok(())
    }

    /// Bytes of an element of a type that can be read.
    fn element_size(&self, entry: &Entry) -> Result<usize, CheckpointError> {
        match entry.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 | Dtype::I64 => Ok(entry.dtype.bitsize() / 8),
            other => Err(CheckpointError::Unsupported {
                path: self.path.clone(),
                place: format!("tensor {}", entry.name),
                found: format!("element type {other}"),
                supported: "F32, F16, BF16, F64 and I64",
            }),
        }
    }

    /// An empty vector with room for `count` values of the tensor `name`.
    pub(super) fn room<T>(&self, count: usize, name: &str) -> Result<Vec<T>, CheckpointError> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| CheckpointError::Memory {
            path: self.path.clone(),
            tensor: name.to_string(),
            bytes: count as u64 * size_of::<T>() as u64,
        })?;
        Ok(values)
    }

    /// A record of the archive from its first byte to its last; the caller has limited its length.
    pub(super) fn record(&mut self, place: Place, name: &str) -> Result<Vec<u8>, CheckpointError> {
        match place {
            Place::Plain { at, len } => {
                let mut bytes = vec![0; len as usize];
                self.read_at(&mut bytes, at, name)?;
                Ok(bytes)
            }
            Place::Deflated { record, len } => {
                self.inflate(record, len, name)?;
                let (_, bytes) = self.inflated.take().expect("a record was just inflated");
                Ok(bytes)
            }
        }
    }

    /// Inflates a record, never beyond the length that the archive declares.
    fn inflate(&mut self, record: usize, len: u64, name: &str) -> Result<(), CheckpointError> {
        if self.inflated.as_ref().is_some_and(|(number, _)| *number == record) {
            return Ok(());
        }
        self.inflated = None;
        let archive = self.archive.as_mut().expect("only archives have compressed records");
        let mut bytes = Vec::new();
        let outcome = match archive.by_index(record) {
            Ok(file) => file.take(len + 1).read_to_end(&mut bytes).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        let got = match outcome {
            Ok(_) if bytes.len() as u64 == len => None,
            Ok(_) if bytes.len() as u64 > len => Some("more than that".to_string()),
            Ok(_) => Some(format!("{} bytes", bytes.len())),
            Err(message) => Some(message),
        };
        if let Some(got) = got {
            let place = format!("compressed record of {name}");
            return Err(self.malformed(place, format!("{len} bytes once inflated"), got));
        }
        self.inflated = Some((record, bytes));
        Ok(())
    }

    pub(super) fn read_error(&self, action: String, source: io::Error) -> CheckpointError {
        CheckpointError::Read { path: self.path.clone(), action, source }
    }

    pub(super) fn malformed(
        &self,
        place: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Malformed {
            path: self.path.clone(),
            place: place.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}

/// out = the elements of `bytes`, little-endian, of one of the five types that [`Container::element_size`] lets pass.
fn convert(out: &mut [f32], bytes: &[u8], dtype: Dtype) {
    fn fill<const N: usize>(out: &mut [f32], bytes: &[u8], element: impl Fn([u8; N]) -> f32) {
        let (elements, rest) = bytes.as_chunks::<N>();
        debug_assert!(rest.is_empty() && elements.len() == out.len());
        for (out, &bytes) in out.iter_mut().zip(elements) {
            *out = element(bytes);
        }
    }
    match dtype {
        Dtype::F32 => fill(out, bytes, f32::from_le_bytes),
        Dtype::F16 => fill(out, bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => fill(out, bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => fill(out, bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::I64 => fill(out, bytes, |b| i64::from_le_bytes(b) as f32),
        other => unreachable!("element type {other} was refused before reading"),
    }
}

/// out = the elements of a strided tensor in row-major order; `bytes` starts at its first element.
fn gather(out: &mut [f32], bytes: &[u8], entry: &Entry, strides: &[usize], size: usize) {
    let mut index = vec![0; entry.shape.len()];
    let mut at = 0;
    for out in out {
        convert(std::slice::from_mut(out), &bytes[at * size..][..size], entry.dtype);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < entry.shape[axis] {
                break;
            }
            at -= index[axis] * strides[axis];
            index[axis] = 0;
        }
    }
}

const BARE_PICKLE: &str = "a pickle that torch.save did not write: load it in Python and save it again with torch.save";

/// What a file that is no checkpoint looks like, for the error message.
fn describe(head: &[u8], len: u64) -> String {
    let known: [(&[u8], &str); 10] = [
        (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded (git lfs pull)"),
        (b"<", "a web page or XML, perhaps of a failed download"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x1f\x8b", "a gzip file: unpack it first"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"\x89PNG", "a PNG picture"),
        (b"\x80\x02", BARE_PICKLE),
        (b"\x80\x03", BARE_PICKLE),
        (b"\x80\x04", BARE_PICKLE),
        (b"\x80\x05", BARE_PICKLE),
    ];
    if len == 0 {
        return "an empty file".to_string();
    }
    if let Some((_, words)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*words).to_string();
    }
    let shown = &head[..head.len().min(16)];
    match std::str::from_utf8(shown) {
        Ok(text) if !text.contains('\0') => format!("text that begins {text:?} ({len} bytes)"),
        _ => format!("{len} bytes that begin {}", shown.escape_ascii()),
    }
}
